"""Collects what the nodes publish, for the demo's table and report, and for benchmarks."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.policy.alignment_expert import TASKS
from vla_align_ros.ros.sensors import LATCHED_QOS, SENSOR_QOS


class Listener(Node):
    """Keeps the latest of everything; read it from another thread.

    joints: also how far the joints travel. At 100 Hz that costs a quarter of a small machine's core.
    """

    def __init__(self, joints: bool = True) -> None:
        super().__init__("vla_align_demo")
        self.statuses: dict[str, dict[str, str]] = {}
        self.reports: list[dict[str, Any]] = []
        self.latencies_ms: list[float] = []
        self.chunk_times_s: deque[float] = deque(maxlen=50)
        self.active: dict[str, str] = {}
        self.saved: dict[str, str] = {}
        self.losses: dict[str, float] = {}
        self.recorded: dict[str, int] = {}
        self.joint_travel_rad = 0.0
        self._joints: list[float] | None = None
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, 10)
        self.create_subscription(String, "/vla_policy/align/report", self._report, LATCHED_QOS)
        self.create_subscription(String, "/checkpoint_manager/active", self._active, LATCHED_QOS)
        self.create_subscription(String, "/bag_recorder/recorded", self._recorded, LATCHED_QOS)
        self.create_subscription(Float64, "/vla_policy/inference/latency_ms", self._latency, 10)
        for task in TASKS:
            topic = f"/vla_policy/align/loss/{task}"
            self.create_subscription(Float64, topic, lambda message, task=task: self._loss(task, message), 10)
        if joints:
            self.create_subscription(JointState, "/joint_states", self._joint_state, SENSOR_QOS)
        self.create_subscription(JointTrajectory, "/vla_policy/action_chunk", self._chunk, 10)

    def call(self, service: str, timeout_s: float) -> Trigger.Response | None:
        """Call a Trigger service from another thread than the executor's; None when it does not answer in time."""
        client: Client = self.create_client(Trigger, service)
        try:
            if not client.wait_for_service(timeout_s):
                return None
            answered = threading.Event()
            future = client.call_async(Trigger.Request())
            future.add_done_callback(lambda _: answered.set())
            return future.result() if answered.wait(timeout_s) else None
        finally:
            self.destroy_client(client)

    def chunk_rate_hz(self) -> float:
        """Chunks a second, over the latest ones."""
        times = list(self.chunk_times_s)
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.statuses[status.name] = {"message": status.message, **{v.key: v.value for v in status.values}}

    def _report(self, message: String) -> None:
        self.reports.append(json.loads(message.data))

    def _active(self, message: String) -> None:
        self.active = json.loads(message.data)

    def _recorded(self, message: String) -> None:
        self.recorded = json.loads(message.data)

    def _latency(self, message: Float64) -> None:
        self.latencies_ms.append(message.data)

    def _loss(self, task: str, message: Float64) -> None:
        self.losses[task] = message.data

    def _joint_state(self, message: JointState) -> None:
        position = list(message.position)
        if self._joints is not None:
            self.joint_travel_rad += sum(abs(a - b) for a, b in zip(position, self._joints, strict=True))
        self._joints = position

    def _chunk(self, message: JointTrajectory) -> None:
        self.chunk_times_s.append(self.get_clock().now().nanoseconds * 1e-9)


@contextmanager
def listening(joints: bool = True) -> Iterator[Listener]:
    """A listener that spins in a thread of its own."""
    rclpy.init()
    listener = Listener(joints)
    executor = SingleThreadedExecutor()
    executor.add_node(listener)

    def spin() -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        executor.shutdown()
        thread.join(3.0)
        listener.destroy_node()
        rclpy.try_shutdown()
