"""`~/excite` and the parameter `excite`, over DDS: a small motion in place of the policy's, and experience of it."""

import json

import numpy as np
import pytest
from policy_live import ALIGN_QUICKLY, JOINTS, ParameterClient, PolicyProcess, start_of
from std_srvs.srv import SetBool

SIZE_RAD = 0.1

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope="module")
def node(shared_ros, robot, tmp_path_factory):
    quickly = ALIGN_QUICKLY | {"exploration_fraction": 0.0}
    excite = {"excite": True, "excite_s": 60.0, "excite_size_rad": SIZE_RAD}
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("policy"), **quickly, **excite)
    made.chunks.wait()
    return made


@pytest.fixture(scope="module")
def parameters(shared_ros, node):
    return ParameterClient(shared_ros, "vla_policy")


def excites(status):
    return status.message == "excites the robot, in place of the policy"


def test_by_the_parameter_it_comes_first_and_is_stopped_by_whoever_wants(node):
    first = node.chunks.messages[0]
    node.wait_for_status("inference", excites)
    for chunk in [node.chunks.wait_for_new() for _ in range(4)]:
        assert np.abs(np.array(chunk.points[-1].positions) - start_of(first)).max() < 3 * SIZE_RAD
    again = node.excite().wait()
    assert not again.success
    assert again.message == "not excited: the robot is being excited already: wait, or stop it"
    assert node.excite(False).wait().message == "stopped; the policy goes on"
    node.chunks.wait_for_new(lambda chunk: len(chunk.points) > 1)
    node.wait_for_status("inference", lambda status: status.message == "running")
    node.logged("it ended early: it was stopped")


def test_what_it_brings_is_experience_and_every_report_says_how_much(node, parameters):
    assert not parameters.set(excite_s=4.0)
    answer = SetBool.Response(success=False)
    for _ in range(3):  # a busy machine's chunk may come late, which ends it early
        if not answer.success:
            assert node.trigger("clear_buffer").success
            answer = node.excite().wait()
    assert answer.success, answer.message
    count = int(answer.message.removeprefix("excited for 4.0 s: ").split()[0])
    assert 20 < count <= 33, "a stride of 1: one a tick, of those whose horizon ends in it"
    said = node.trigger("align").message
    report = json.loads(node.reports.wait(lambda message: json.loads(message.data)["excited"]).data)
    assert 0 < report["excited"] <= count
    assert f"; {report['excited']} of {len(report['stamps_ns'])} experiences are of excitations" in said


def test_deactivation_stops_it_at_once(node, parameters):
    assert not parameters.set(excite_s=60.0)
    answers = node.excite()
    node.wait_for_status("inference", excites)
    for _ in range(4):
        node.chunks.wait_for_new()
    assert node.transition("deactivate")
    node.ros.wait_until(lambda: len(node.chunks.messages[-1].points) == 1, "a hold has come")
    hold, stopped = node.chunks.messages[-1], answers.wait()
    assert not stopped.success
    assert stopped.message.endswith("it ended early: it was stopped")
    assert node.chunks.messages[-1] is hold, "no chunk may come behind the hold"
    assert node.excite().wait().message == "not excited: the node is inactive: activate it first"


def test_joint_states_that_are_stale_keep_it_from_beginning(node, robot):
    node.bring_to("active")
    node.excite(False).wait()
    robot.change[JOINTS] = lambda message: None
    node.wait_for_status("observation", lambda status: status.message.startswith("stale_joints"))
    refused = node.excite().wait()
    assert not refused.success
    assert refused.message.startswith("not excited: stale_joints: the newest joint state of ['shoulder', 'elbow'] is")
