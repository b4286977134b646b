"""When a message came, for a node that was busy then: the time of a text, which has no stamp of its own."""

from __future__ import annotations

import pytest
import rclpy
from live import RELIABLE
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import String

from vla_align_ros.observation.codecs import STRING
from vla_align_ros.ros.inputs import Input

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("simulated", [False, True])
def test_a_busy_node_knows_when_a_message_came(ros, simulated):
    """With a clock of its own, not of the machine's, nobody can tell: then it is when it is heard."""
    rclpy.init()
    busy = rclpy.create_node("busy", parameter_overrides=[Parameter("use_sim_time", value=simulated)])
    executor = SingleThreadedExecutor()
    executor.add_node(busy)
    came, also = [], []
    try:
        ear = Input(busy, "prompt", "/words", {STRING: String}, [RELIABLE], lambda *heard: came.append(heard[-1]))
        ros.node.create_subscription(String, "/words", also.append, RELIABLE)
        publisher = ros.publisher("/words", String)
        ros.wait_until(lambda: publisher.get_subscription_count() == 2, "both listen")

        def heard_late() -> bool:
            """Whether the time of a message is one at which the node did not listen yet."""
            del came[:], also[:]
            publisher.publish(String(data="touch the red target"))
            ros.wait_until(lambda: also, "it has come somewhere")
            before_ns = busy.get_clock().now().nanoseconds
            ros.wait_until(lambda: executor.spin_once(0.1) or came, "it is heard")
            return 0 < came[0] < before_ns

        if simulated:
            assert not heard_late()
            assert came == [0]
        else:
            ros.wait_until(heard_late, "it has come before the node listened")
        ear.close()
    finally:
        executor.shutdown()
        busy.destroy_node()
        rclpy.shutdown()
