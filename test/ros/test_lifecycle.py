"""Lifecycle: what a stranger's request, a bad model and an exception in each callback do to a node (nothing)."""

import signal
import threading
from pathlib import Path

import pytest
import rclpy
from lifecycle_msgs.msg import Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetState
from live import RELIABLE
from policy_live import MANAGER, POLICY, TRANSITIONS, ParameterClient, PolicyProcess, model_without_e_token
from std_msgs.msg import Bool, String

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
def test_model_without_an_e_token_can_be_used_and_says_that_it_cannot_align(node, parameters, tmp_path):
    for name in ("deactivate", "cleanup"):
        node.transition(name)
    assert not parameters.set(model=str(model_without_e_token(tmp_path)), align_frequency_hz=1.0)
    assert node.transition("configure")
    assert node.transition("activate")
    node.wait_for_status("alignment", lambda status: "no E-Token" in status.message)
    for service in ("align", "reset_e_token"):
        answer = node.trigger(service)
        assert not answer.success
        assert "no E-Token" in answer.message
    assert not parameters.set(align_frequency_hz=0.0)


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
    node.bring_to("unconfigured")
    assert not parameters.set(model="tiny")
    node.bring_to(state)
    for name in set(TRANSITIONS) - POSSIBLE[state]:
        assert not node.transition(name), name
        assert node.state() == state
    node.logged(f"is not possible from {state}")


@pytest.mark.slow
def test_shutdown_transition_ends_in_finalized_and_the_process_can_still_be_ended(node, parameters):
    node.bring_to("unconfigured")
    assert not parameters.set(model="tiny")
    node.bring_to("inactive")
    assert node.transition_id(Transition.TRANSITION_INACTIVE_SHUTDOWN)
    assert node.state() == "finalized"
    assert not node.transition("configure")
    assert node.process.stop(signal.SIGINT, timeout_s=5.0) == 0, node.process.output


# --- a node whose callbacks raise ---

WAY = ["configure", "activate", "deactivate", "cleanup"]


@pytest.fixture(scope="module")
def moody_process(shared_ros):
    return shared_ros.run_script(Path(__file__).parent / "moody_node.py")


@pytest.fixture(scope="module")
def break_callbacks(shared_ros, moody_process):
    client = ParameterClient(shared_ros, "moody")
    return lambda *names: client.set(broken=" ".join(names))


def change(ros, name):
    request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
    return ros.call("/moody/change_state", ChangeState, request).success


def state(ros):
    return ros.ask("/moody/get_state", GetState).current_state.label


@pytest.mark.parametrize("broken", WAY)
def test_exception_in_a_callback_is_logged_and_ends_unconfigured_and_the_next_time_works(
    shared_ros, moody_process, break_callbacks, broken
):
    events = shared_ros.listen("/moody/transition_event", TransitionEvent, RELIABLE)
    output = shared_ros.listen("/moody/output", String, RELIABLE)
    freed = shared_ros.listen("/moody/freed", Bool, RELIABLE)
    freed.wait()
    break_callbacks(broken)
    for name in WAY[: WAY.index(broken)]:
        assert change(shared_ros, name), name
    assert not change(shared_ros, broken)
    assert state(shared_ros) == "unconfigured"
    shared_ros.wait_until(
        lambda: f"{broken} failed: {broken} went wrong" in moody_process.output, "the error is in the log"
    )
    events.wait(lambda event: event.goal_state.label == "errorprocessing")
    freed.wait_for_new(lambda message: message.data == (broken != "cleanup"))
    said = len(output.messages)
    freed.wait_for_new()
    freed.wait_for_new()
    assert len(output.messages) == said, "lifecycle publishers are off"
    break_callbacks()
    for name in WAY:
        assert change(shared_ros, name), name


def test_exception_while_shutting_down_still_finalizes(shared_ros, moody_process, break_callbacks):
    assert change(shared_ros, "configure")
    assert change(shared_ros, "activate")
    break_callbacks("deactivate", "cleanup")
    assert moody_process.stop(signal.SIGTERM) == 0, moody_process.output
    assert "deactivate failed: deactivate went wrong" in moody_process.output
    assert "cleanup failed: cleanup went wrong" in moody_process.output
    assert "Traceback" not in moody_process.output


class Plain(SafeLifecycleNode):
    """Counts its configures, and refuses when it is told to."""

    def __init__(self) -> None:
        super().__init__("plain")
        self.configures, self.activates, self.refuse = 0, 0, False
        self.meanwhile = lambda: None

    def configure(self) -> None:
        self.configures += 1
        if self.refuse:
            raise ValueError("not today")
        self.meanwhile()

    def activate(self) -> None:
        self.activates += 1


@pytest.fixture
def plain():
    rclpy.init()
    node = Plain()
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_start_up_configures_and_activates_but_not_after_someone_else_was_faster(plain):
    plain.start_up()
    assert plain.active
    plain.trigger_deactivate()
    plain.start_up()
    assert (plain.state_label, plain.configures) == ("inactive", 1)


def test_start_up_that_fails_leaves_the_node_unconfigured_and_shut_down_ends_it_once(plain):
    plain.refuse = True
    plain.start_up()
    assert plain.state_label == "unconfigured"
    plain.shut_down()
    plain.shut_down()
    assert plain.state_label == "finalized"


def test_node_that_is_shut_down_while_it_configures_is_never_active(plain):
    ending = threading.Thread(target=plain.shut_down)

    def shut_down_meanwhile():
        ending.start()
        while not plain._ending:
            pass

    plain.meanwhile = shut_down_meanwhile
    plain.start_up()
    ending.join()
    assert (plain.state_label, plain.configures, plain.activates) == ("finalized", 1, 0)
