"""Lifecycle: what a stranger's request, a bad model and an exception in each callback do to a node (nothing)."""

import signal
import threading

import pytest
import rclpy
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from live import RELIABLE
from policy_live import MANAGER, POLICY, TRANSITIONS, ParameterClient, PolicyProcess
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from vla_align_ros.ros.lifecycle import SafeLifecycleNode

pytestmark = pytest.mark.ros


# --- the real nodes ---


@pytest.fixture(scope="module")
def node(shared_ros, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lifecycle")
    return PolicyProcess(shared_ros, folder, autostart=False, model="no/such/model")


@pytest.fixture(scope="module")
def parameters(shared_ros, node):
    return ParameterClient(shared_ros, "vla_policy")


BAD_MODELS = {"no/such/model": "no such model folder", "": "no model is set"}


@pytest.mark.slow
def test_bad_model_is_logged_and_a_corrected_parameter_configures(node, parameters, tmp_path):
    (tmp_path / "model.yaml").write_text("format: 1\nname: broken\n")
    for model, words in {**BAD_MODELS, str(tmp_path): "architecture"}.items():
        assert not parameters.set(model=model)
        assert not node.transition("configure")
        assert node.state() == "unconfigured"
        node.logged(words)
    assert not parameters.set(model="tiny", prompt="x" * 2000)
    assert not node.transition("configure")
    node.logged("prompt_too_long")
    assert not parameters.set(prompt="touch the red target")
    assert node.transition("configure")
    assert node.transition("activate")
    assert node.state() == "active"


@pytest.mark.slow
@pytest.mark.parametrize("name", [POLICY, MANAGER])
def test_unknown_transition_is_answered_false_and_the_node_lives(node, name):
    for number in (200, 255, 9):
        assert not node.transition_id(number, name)
    assert not node.transition_id(0, name, label="dance")
    node.logged("200 is not possible from")
    assert node.state(name) in ("unconfigured", "active")
    assert node.process.running


POSSIBLE = {
    "unconfigured": {"configure"},
    "inactive": {"activate", "cleanup"},
    "active": {"deactivate"},
}


@pytest.mark.slow
@pytest.mark.parametrize("state", POSSIBLE)
def test_impossible_transition_is_answered_false_and_changes_nothing(node, parameters, state):
    assert not parameters.set(model="tiny")
    node.bring_to(state)
    for name in set(TRANSITIONS) - POSSIBLE[state]:
        assert not node.transition(name), name
        assert node.state() == state
    node.logged(f"is not possible from {state}")


@pytest.mark.slow
def test_shutdown_transition_ends_in_finalized_and_the_process_can_still_be_ended(node, parameters):
    assert not parameters.set(model="tiny")
    node.bring_to("inactive")
    assert node.transition_id(Transition.TRANSITION_INACTIVE_SHUTDOWN)
    assert node.state() == "finalized"
    assert not node.transition("configure")
    assert node.process.stop(signal.SIGINT, timeout_s=5.0) == 0, node.process.output


# --- a node whose callbacks raise ---


class Moody(SafeLifecycleNode):
    """Raises in the callbacks named in `broken`."""

    def __init__(self) -> None:
        super().__init__("moody")
        self.broken = set()
        self.done = []
        self.output = self.create_lifecycle_publisher(String, "~/output", 10)

    def _do(self, name):
        if name in self.broken:
            raise RuntimeError(f"{name} went wrong")
        self.done.append(name)

    def configure(self):
        self._do("configure")

    def activate(self):
        self._do("activate")

    def deactivate(self):
        self._do("deactivate")

    def cleanup(self):
        self._do("cleanup")


@pytest.fixture
def moody():
    rclpy.init()
    node = Moody()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join(10)
    node.destroy_node()
    rclpy.try_shutdown()


def change(ros, name):
    request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
    return ros.call("/moody/change_state", ChangeState, request).success


def state(ros):
    return ros.call("/moody/get_state", GetState).current_state.label


WAY = ["configure", "activate", "deactivate", "cleanup"]


@pytest.mark.parametrize("broken", WAY)
def test_exception_in_a_callback_is_logged_and_ends_unconfigured_and_the_next_time_works(ros, moody, capfd, broken):
    moody.broken = {broken}
    for name in WAY[: WAY.index(broken)]:
        assert change(ros, name), name
    assert not change(ros, broken)
    assert state(ros) == "unconfigured"
    ros.wait_until(lambda: f"{broken} failed: {broken} went wrong" in _logged(capfd), "the error is in the log")
    assert not moody.output.is_activated
    if broken != "cleanup":
        assert moody.done[-1] == "cleanup", "what was half made is freed"
    moody.broken = set()
    for name in WAY:
        assert change(ros, name), name


def test_exception_while_shutting_down_still_finalizes(moody, capfd):
    moody.start_up()
    moody.broken = {"deactivate", "cleanup"}
    moody.shut_down()
    assert moody.state_label == "finalized"
    assert "cleanup failed: cleanup went wrong" in _logged(capfd)
    moody.shut_down()


def test_start_up_after_someone_else_was_faster_changes_nothing(ros, moody):
    assert change(ros, "configure")
    moody.start_up()
    assert state(ros) == "inactive"


def test_start_up_that_fails_leaves_the_node_unconfigured(moody):
    moody.broken = {"configure"}
    moody.start_up()
    assert moody.state_label == "unconfigured"


def test_transitions_are_announced_also_when_they_fail(ros, moody):
    events = ros.listen("/moody/transition_event", TransitionEvent, RELIABLE)
    ros.wait_until(lambda: ros.node.count_publishers("/moody/transition_event") == 1, "the publisher is known")
    moody.broken = {"activate"}
    assert change(ros, "configure")
    assert not change(ros, "activate")
    events.wait(lambda event: event.goal_state.label == "errorprocessing")
    events.wait(lambda event: event.start_state.label == "errorprocessing" and event.goal_state.label == "unconfigured")


_log: list[str] = []


def _logged(capfd):
    """Everything that was printed since the first call in this test session; reading it empties capfd."""
    captured = capfd.readouterr()
    _log.extend((captured.out, captured.err))
    return "".join(_log)
