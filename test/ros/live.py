"""What the tests of nodes share: nodes as real processes, and a node in the test that talks to them over DDS.

    def test_it(ros):
        process = ros.run_node("vla_align_ros.ros.sim_robot", {"bench": "reach2", "image_hz": 10.0})
        joints = ros.wait_for_message("/joint_states", JointState, lambda m: m.position[0] > 0)

Everything waits for an event, with a deadline that only a broken node reaches. `ros` ends the processes it started.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

TIMEOUT_S = 60.0
SENSOR = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)  # hears reliable publishers too
RELIABLE = QoSProfile(depth=50)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class NodeProcess:
    """A node in a process of its own. Its output goes to a file, so that it never blocks."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Its exit code; an AssertionError with its output when it doesn't end in time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None

    def stop(self, number: signal.Signals = signal.SIGINT, timeout_s: float = 5.0) -> int:
        """Send a signal; the exit code, which must come within `timeout_s`."""
        self.send(number)
        return self.wait(timeout_s)

    def end(self, timeout_s: float = 10.0) -> None:
        """Wait until it has ended; kill it where it does not. A killed one leaves 34 MB in /dev/shm."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Listener:
    """Everything that came on a topic since it was made."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.messages: list[Any] = []
        self._changed = threading.Condition()

    def receive(self, message: Any) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def wait(self, predicate: Callable[[Any], bool] = lambda _: True, timeout_s: float = TIMEOUT_S) -> Any:
        """The first message, of those that have come too, that fits; AssertionError when none does in time."""
        checked = 0
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for message in self.messages[checked:]:
                    if predicate(message):
                        return message
                checked = len(self.messages)
                if not self._changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{checked} messages on {self.topic} in {timeout_s} s, none that fits")

    def wait_for_new(self, predicate: Callable[[Any], bool] = lambda _: True, timeout_s: float = TIMEOUT_S) -> Any:
        """The first that fits of the messages that come from now on."""
        with self._changed:
            old = {id(message) for message in self.messages}
        return self.wait(lambda message: id(message) not in old and predicate(message), timeout_s)


class Ros:
    """A spinning node of the test's own, and the processes that it started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = Node("test", context=self._context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._processes: list[NodeProcess] = []

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        """Ours goes before the processes: Fast DDS crashed once in about sixty times when a participant was destroyed
        whose peers had just been killed."""
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()
        for process in self._processes:
            process.send(signal.SIGINT)
        for process in self._processes:
            process.end()

    def run_node(self, module: str, params: Mapping[str, Any] | None = None, *ros_args: str) -> NodeProcess:
        """`python -m module` with ROS parameters (Python values) and more arguments after --ros-args, as `-r a:=b`."""
        arguments = [part for name, value in (params or {}).items() for part in ("-p", f"{name}:={json.dumps(value)}")]
        return self._run(["-m", module, "--ros-args", *arguments, *ros_args])

    def run_script(self, path: Path) -> NodeProcess:
        """A node of the tests' own, from a file."""
        return self._run([str(path)])

    def _run(self, arguments: list[str]) -> NodeProcess:
        log = self._folder / f"process{len(self._processes)}.log"
        process = NodeProcess([sys.executable, *arguments], log)
        self._processes.append(process)
        return process

    def listen(self, topic: str, message_type: type, qos: QoSProfile = SENSOR, raw: bool = False) -> Listener:
        """Subscribe and collect. qos: SENSOR hears everything but what was latched before, LATCHED that too."""
        listener = Listener(topic)
        self.node.create_subscription(message_type, topic, listener.receive, qos, raw=raw)
        return listener

    def wait_for_message(
        self,
        topic: str,
        message_type: type,
        predicate: Callable[[Any], bool] = lambda _: True,
        timeout_s: float = TIMEOUT_S,
        qos: QoSProfile = SENSOR,
    ) -> Any:
        """The next message on a topic that fits."""
        return self.listen(topic, message_type, qos).wait(predicate, timeout_s)

    def publisher(self, topic: str, message_type: type, qos: QoSProfile = RELIABLE, subscribers: int = 1) -> Publisher:
        """A publisher that so many subscriptions hear already; they can take bytes too."""
        publisher = self.node.create_publisher(message_type, topic, qos)
        self.wait_until(lambda: publisher.get_subscription_count() >= subscribers, f"{topic} has a subscriber")
        return publisher

    def call(self, service: str, service_type: type, request: Any = None, timeout_s: float = TIMEOUT_S) -> Any:
        """The response of a service, for which it waits."""
        client = self.node.create_client(service_type, service)
        try:
            assert client.wait_for_service(timeout_s), f"no service {service}"
            done = threading.Event()
            future = client.call_async(service_type.Request() if request is None else request)
            future.add_done_callback(lambda _: done.set())
            assert done.wait(timeout_s), f"{service} did not answer in {timeout_s} s"
            return future.result()
        finally:
            self.node.destroy_client(client)

    def ask(self, service: str, service_type: type) -> Any:
        """The response of a service that changes nothing. It is asked again where none comes: a server that has not
        found the client's reader yet sends its answer to nobody (rmw_fastrtps)."""
        for timeout_s in (TIMEOUT_S / 6, TIMEOUT_S / 6):
            with suppress(AssertionError):
                return self.call(service, service_type, timeout_s=timeout_s)
        return self.call(service, service_type)

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
        """For what sends no message: a file, a process, the graph. Looks every 10 ms."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not after {timeout_s} s: {what}\n{self.outputs()}"
            time.sleep(0.01)

    def outputs(self) -> str:
        """What all processes have printed."""
        return "\n".join(process.output for process in self._processes)
