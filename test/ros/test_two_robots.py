"""Two robots on one computer and one ROS domain, with one model and the default stores: they share nothing."""

import json
import signal
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from live import LATCHED, RELIABLE
from policy_live import MODULE, TRANSITIONS, ParameterClient
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ARMS = ("arm1", "arm2")
COMMON = ("/diagnostics", "/rosout", "/parameter_events", "/clock")


class Robot:
    """What one namespace says."""

    def __init__(self, ros, name):
        self.ros, self.name = ros, name
        self.announced = ros.listen(f"/{name}/checkpoint_manager/active", String, LATCHED)
        self.chunks = ros.listen(f"/{name}/vla_policy/action_chunk", JointTrajectory, RELIABLE)
        self.process = ros.run_node(MODULE, {"model": "tiny"}, "-r", f"__ns:=/{name}")

    def trigger(self, service):
        answer = self.ros.call(f"/{self.name}/{service}", Trigger)
        assert answer.success, answer.message
        return answer.message

    def wait_for_version(self, version):
        return json.loads(self.announced.wait(lambda m: json.loads(m.data)["version"] == version).data)

    def transition(self, name):
        request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
        return self.ros.call(f"/{self.name}/vla_policy/change_state", ChangeState, request).success

    @property
    def state(self):
        return self.ros.ask(f"/{self.name}/vla_policy/get_state", GetState).current_state.label


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def robots(shared_ros, home):
    shared_ros.run_node(
        "vla_align_ros.ros.sim_robot", {"bench": "reach2", "image_hz": 10.0, "joint_hz": 20.0}, "-r", "__ns:=/arm1"
    )
    return [Robot(shared_ros, name) for name in ARMS]


def test_each_robot_aligns_and_resets_a_token_of_its_own(robots, home):
    stores = [Path(robot.wait_for_version("000001")["store"]) for robot in robots]
    assert stores == [(home / ".ros" / "vla_align" / f"{arm}.vla_policy" / "tiny").resolve() for arm in ARMS]
    one, two = robots
    one.trigger("vla_policy/reset_e_token")
    one.wait_for_version("000002")
    one.trigger("checkpoint_manager/roll_back")
    assert json.loads(two.trigger("checkpoint_manager/list"))["active"] == "000001"
    assert "version 000002" in two.trigger("vla_policy/reset_e_token"), "a shared store would have come to 000003"
    assert json.loads(one.trigger("checkpoint_manager/list"))["active"] == "000001"
    for arm, robot in zip(ARMS, robots, strict=True):
        robot.ros.wait_until(lambda r=robot, a=arm: f"robot {a}.vla_policy" in r.process.output, "it says which it is")


def test_a_robots_cameras_joints_and_commands_stay_in_its_namespace(robots, shared_ros):
    robots[0].chunks.wait()
    for arm in ARMS:
        heard = shared_ros.node.get_subscriber_names_and_types_by_node("vla_policy_sensors", f"/{arm}")
        topics = {topic for topic, _ in heard} - set(COMMON)
        expected = ["base_0_rgb/image_raw", "left_wrist_0_rgb/image_raw", "joint_states", "vla_policy/prompt"]
        expected += ["vla_policy/action_chunk"]  # whoever else commands this arm
        assert topics == {f"/{arm}/{topic}" for topic in expected}
    said = shared_ros.node.get_publisher_names_and_types_by_node("sim_robot", "/arm1")
    assert {topic for topic, _ in said if not topic.startswith("/arm1/")} <= set(COMMON)
    assert not robots[1].chunks.messages, "nobody feeds the second robot"


def test_diagnostics_say_which_robot(robots, shared_ros):
    diagnostics = shared_ros.listen("/diagnostics", DiagnosticArray, RELIABLE)
    for arm in ARMS:
        found = diagnostics.wait(lambda m, a=arm: m.status[0].name.startswith(f"{a}/vla_policy: "))
        assert {status.hardware_id for status in found.status} == {f"{arm}.vla_policy"}


def test_policy_on_the_store_of_another_is_refused_by_name_until_that_one_is_gone(robots, shared_ros):
    one, two = robots
    parameters = ParameterClient(shared_ros, "/arm2/vla_policy")
    for name in ("deactivate", "cleanup"):
        assert two.transition(name)
    (reason,) = parameters.set(robot_id="../arm1")
    assert "robot_id: expected" in reason
    assert not parameters.set(robot_id="arm1.vla_policy")
    assert not two.transition("configure")
    assert two.state == "unconfigured"
    shared_ros.wait_until(
        lambda: f"in use by robot arm1.vla_policy (process {one.process.pid})" in two.process.output, "whose it is"
    )
    one.process.send(signal.SIGKILL)
    one.process.wait()
    assert two.transition("configure")
    diagnostics = shared_ros.listen("/diagnostics", DiagnosticArray, RELIABLE)
    diagnostics.wait(lambda m: m.status[0].hardware_id == "arm1.vla_policy")
    # A configure that fails half-way, here for a prompt that is too long, lets the store go.
    assert two.transition("cleanup")
    assert not parameters.set(prompt="x" * 2000)
    assert not two.transition("configure")
    assert not parameters.set(prompt="")
    assert two.transition("configure")
