"""A node that hears /unconfirmed/joint_states reliably and stops its whole process at the first message, so that it
confirms none of those after it. Run as a process by test_experience_source."""

import os
import signal

import rclpy
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

rclpy.init()
node = rclpy.create_node("stopped_ear")
stop = lambda _: os.kill(os.getpid(), signal.SIGSTOP)  # noqa: E731
node.create_subscription(JointState, "/unconfirmed/joint_states", stop, QoSProfile(depth=1000))
rclpy.spin(node)
