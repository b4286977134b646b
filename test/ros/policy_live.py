"""`vla_align_node` as a real process, and the robot it serves: a simulated one in the test's own node, whose messages
a test can change on their way, so that every fault is one small function.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from live import LATCHED, RELIABLE, TIMEOUT_S, Listener, NodeProcess, Ros
from rcl_interfaces.srv import DescribeParameters
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.task import Future
from safetensors.numpy import load_file, save_file
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.robot import CHUNK_TOPIC, JOINTS_TOPIC, PROMPT_TOPIC, SimMessage, make_robot
from vla_align_ros.limits import CHECKS
from vla_align_ros.params import SimParams
from vla_align_ros.zoo import find_model

MODULE = "vla_align_ros.ros.vla_align_node"
POLICY, MANAGER = "/vla_policy", "/checkpoint_manager"
CAMERA, OTHER_CAMERA = BENCH.robot.cameras.values()
JOINTS, PROMPT = JOINTS_TOPIC, PROMPT_TOPIC
TRANSITIONS = {
    "configure": Transition.TRANSITION_CONFIGURE,
    "cleanup": Transition.TRANSITION_CLEANUP,
    "activate": Transition.TRANSITION_ACTIVATE,
    "deactivate": Transition.TRANSITION_DEACTIVATE,
}
BOUND = {  # state -> transition on the way to it, from which state
    ("active", "inactive"): "deactivate",
    ("active", "unconfigured"): "deactivate",
    ("inactive", "unconfigured"): "cleanup",
    ("inactive", "active"): "activate",
    ("unconfigured", "inactive"): "configure",
    ("unconfigured", "active"): "configure",
}
PERIOD_NS = 100_000_000
Change = Callable[[SimMessage], bytes | None]
ALIGN_QUICKLY = {
    "exploration_fraction": 0.5,
    "experience_stride_ticks": 1,
    "align_min_experiences": 8,
    "align_max_experiences": 64,
    "align_steps": 4,
    "align_batch_size": 4,
    "align_draws": 1,
}


class Feed:
    """A robot whose arm follows the chunks. change: topic -> what becomes of its messages (None is silence)."""

    def __init__(self, ros: Ros) -> None:
        self.change: dict[str, Change] = {}
        self._node = ros.node
        params = SimParams(bench="reach2", embodiment_seed=3, episode_s=600.0, image_hz=20.0, joint_hz=50.0)
        self._robot = make_robot(params, self._now_ns())
        self._publishers = {
            topic: self._node.create_publisher(Image, topic, RELIABLE) for topic in (CAMERA, OTHER_CAMERA)
        }
        self._publishers[JOINTS] = self._node.create_publisher(JointState, JOINTS, RELIABLE)
        self._publishers[PROMPT] = self._node.create_publisher(String, PROMPT, LATCHED)
        self.say(self._robot.body.prompt)
        self._node.create_subscription(
            JointTrajectory, CHUNK_TOPIC, lambda raw: self._robot.receive(raw), RELIABLE, raw=True
        )
        self._node.create_timer(0.02, self._send)

    def say(self, prompt: str) -> None:
        """Another prompt."""
        self._publishers[PROMPT].publish(String(data=prompt))

    def say_the_task(self) -> None:
        """The prompt that the model knows."""
        self.say(self._robot.body.prompt)

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

    def _send(self) -> None:
        for message in self._robot.advance(self._now_ns()):
            raw = self.change.get(message.topic, lambda same: same.raw)(message)
            if raw is not None and message.topic in self._publishers:
                self._publishers[message.topic].publish(raw)


class PolicyProcess:
    """The process with both nodes, and what it says."""

    def __init__(self, ros: Ros, folder: Path, *ros_args: str, **params: Any) -> None:
        self.ros, self.store = ros, folder / "store"
        self.chunks = ros.listen(f"{POLICY}/action_chunk", JointTrajectory, RELIABLE)
        self.diagnostics = ros.listen("/diagnostics", DiagnosticArray, RELIABLE)
        self.announced = ros.listen(f"{MANAGER}/active", String, LATCHED)
        self.reports = ros.listen(f"{POLICY}/align/report", String, LATCHED)
        self.learning_rates = ros.listen(f"{POLICY}/align/lr", Float64, RELIABLE)
        self.process: NodeProcess = ros.run_node(
            MODULE, {"model": "tiny", "store": str(self.store), **params}, *ros_args
        )

    # --- lifecycle ---

    def transition_id(self, number: int, node: str = POLICY, label: str = "") -> bool:
        request = ChangeState.Request(transition=Transition(id=number, label=label))
        return bool(self.ros.call(f"{node}/change_state", ChangeState, request).success)

    def transition(self, name: str, node: str = POLICY) -> bool:
        return self.transition_id(TRANSITIONS[name], node)

    def state(self, node: str = POLICY) -> str:
        return str(self.ros.ask(f"{node}/get_state", GetState).current_state.label)

    def bring_to(self, wanted: str, node: str = POLICY) -> None:
        """Through as many transitions as it takes."""
        while (state := self.state(node)) != wanted:
            assert self.transition(BOUND[state, wanted], node), f"{node} from {state} to {wanted}"

    def wait_for_state(self, wanted: str, node: str = POLICY) -> None:
        self.ros.wait_until(lambda: self.state(node) == wanted, f"{node} is {wanted}")

    # --- services ---

    def trigger(self, name: str, node: str = POLICY, timeout_s: float = 60.0) -> Trigger.Response:
        return self.ros.call(f"{node}/{name}", Trigger, timeout_s=timeout_s)

    def ask_manager(self, name: str) -> dict[str, Any]:
        """A service of the manager that must succeed: its JSON."""
        response = self.trigger(name, MANAGER)
        assert response.success, response.message
        return dict(json.loads(response.message))

    def call_async(self, name: str, kind: type = Trigger, request: Any = None) -> Listener:
        """Call a service of the policy; the answer comes to the listener."""
        answers = Listener(name)
        client = self.ros.node.create_client(kind, f"{POLICY}/{name}")
        assert client.wait_for_service(TIMEOUT_S)
        client.call_async(request or kind.Request()).add_done_callback(lambda future: answers.receive(future.result()))
        return answers

    def excite(self, begin: bool = True) -> Listener:
        """Call ~/excite."""
        return self.call_async("excite", SetBool, SetBool.Request(data=begin))

    # --- what it says ---

    def wait_for_status(
        self, part: str, predicate: Callable[[Status], bool] = lambda _: True, timeout_s: float = TIMEOUT_S
    ) -> Status:
        """The first new status of a part that fits."""
        self.diagnostics.wait_for_new(
            lambda message: (status := Status.of(message, part)) is not None and predicate(status), timeout_s
        )
        found = [Status.of(message, part) for message in self.diagnostics.messages]
        return next(status for status in reversed(found) if status is not None and predicate(status))

    def wait_for_experience(self, count: int) -> None:
        self.wait_for_status("experience", lambda status: status.number("buffer") >= count)

    def logged(self, words: str) -> None:
        self.ros.wait_until(lambda: words in self.process.output, f"{words!r} is in the log")


class Status:
    """One part of a DiagnosticArray."""

    def __init__(self, status: DiagnosticStatus) -> None:
        self.level, self.message = status.level, status.message
        self.values = {item.key: item.value for item in status.values}

    @classmethod
    def of(cls, message: DiagnosticArray, part: str) -> Status | None:
        return next((cls(status) for status in message.status if status.name == f"vla_policy: {part}"), None)

    def number(self, key: str) -> int:
        return int(self.values.get(key, 0))

    def refused(self, reason: str) -> int:
        return self.number(f"refused.{reason}")


class ParameterClient:
    """Parameters of a node, from another process."""

    def __init__(self, ros: Ros, node: str) -> None:
        self._client = AsyncParameterClient(ros.node, node)
        assert self._client.wait_for_services(TIMEOUT_S)

    def set(self, **values: Any) -> list[str]:
        """One by one, as rqt does; the reasons of those that were refused."""
        answers = _result(self._client.set_parameters([Parameter(name, value=value) for name, value in values.items()]))
        return [result.reason for result in answers.results if not result.successful]

    def set_atomically(self, **values: Any) -> str | None:
        """All or none; the reason when they were refused."""
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        result = _result(self._client.set_parameters_atomically(parameters)).result
        return None if result.successful else str(result.reason)

    def get(self, *names: str) -> list[Any]:
        values = _result(self._client.get_parameters(list(names))).values
        return [parameter_value_to_python(value) for value in values]

    def load(self, path: Path) -> list[str]:
        """A parameter file, as `ros2 param load` does; the reasons of what was refused."""
        answers = _result(self._client.load_parameter_file(str(path), use_wildcard=True))
        return [result.reason for result in answers.results if not result.successful]

    def describe(self, *names: str) -> DescribeParameters.Response:
        return _result(self._client.describe_parameters(list(names)))


def _result(future: Future) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(TIMEOUT_S), "the node did not answer"
    return future.result()


def start_of(chunk: JointTrajectory) -> np.ndarray:
    """The measured position that a chunk starts from."""
    first = chunk.points[0]
    return np.array(first.positions) - np.array(first.velocities) * PERIOD_NS * 1e-9


def stamp_ns(chunk: JointTrajectory) -> int:
    return int(chunk.header.stamp.sec * 10**9 + chunk.header.stamp.nanosec)


# Rows of the small bank below. The token that fits the arm of these tests keeps it away from its stops, where no
# experience counts; that of the opposite arm (row 134 of tiny's bank) explains it far worse: an alignment helps.
FITTING, OPPOSITE = 3, 4


def lenient_model(folder: Path, control_rate_hz: float = 10.0, initial_token: int = OPPOSITE) -> Path:
    """tiny with a small token bank, which makes alignments quick, and a guard that refuses nothing."""
    model = shutil.copytree(find_model("tiny"), folder / "lenient")
    path = model / "alignment_stats.json"
    stats = json.loads(path.read_text())
    for check in CHECKS:
        stats["limits"][check.name]["value"] = check.no_limit
    path.write_text(json.dumps(stats))
    described = yaml.safe_load((model / "model.yaml").read_text())
    described["robot"]["control_rate_hz"] = control_rate_hz
    described["initial_token"] = initial_token
    (model / "model.yaml").write_text(yaml.safe_dump(described))
    bank = model / "token_bank.safetensors"
    tensors = load_file(bank)
    save_file({**tensors, "offsets": tensors["offsets"][[0, 1, 2, 3, 134]]}, bank)
    return model


def model_without_e_token(folder: Path) -> Path:
    """tiny as it would be had it never seen an E-Token: it can act, but not align."""
    model = shutil.copytree(find_model("tiny"), folder / "without_e")
    weights, description = model / "model.safetensors", model / "model.yaml"
    left_out = ("alignment.", "peft_prefix_token", "e_token_attention_bias")
    save_file({k: v.copy() for k, v in load_file(weights).items() if not k.startswith(left_out)}, weights)
    described = yaml.safe_load(description.read_text())
    del described["architecture"]["alignment"], described["weights"]["sha256"], described["initial_token"]
    described["architecture"]["use_peft_prefix_token"] = False
    description.write_text(yaml.safe_dump(described))
    return model
