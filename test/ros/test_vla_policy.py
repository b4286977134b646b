"""The node `vla_policy` as a real process: what it publishes, and how it aligns meanwhile. (What bad input does to it:
test_motion_safety.py.)"""

import json

import numpy as np
import pytest
from live import RELIABLE
from policy_live import (
    ALIGN_QUICKLY,
    MANAGER,
    PERIOD_NS,
    ParameterClient,
    PolicyProcess,
    lenient_model,
    stamp_ns,
)
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.action.trajectory import hold_trajectory
from vla_align_ros.bench.reach2.arm import JOINT_NAMES
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.observation.codecs import (
    encode_trajectory,
)

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope="module")
def node(shared_ros, robot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    varied = {"exploration_fraction": 0.9}  # the opposite arm's token alone would keep the arm at its stops
    model = str(lenient_model(folder))
    others = {"other_command_topics": "/teleop"}
    made = PolicyProcess(shared_ros, folder, **{"model": model, **ALIGN_QUICKLY, **varied, **others})
    made.chunks.wait()
    return made


@pytest.fixture(scope="module")
def parameters(shared_ros, node):
    return ParameterClient(shared_ros, "vla_policy")


@pytest.fixture(autouse=True)
def _all_is_well_again(node):
    yield
    node.bring_to("active")
    node.chunks.wait_for_new()
    assert node.process.running


# --- chunks ---


@pytest.mark.parametrize("topic", ["/vla_policy/action_chunk", "/teleop"])
def test_commands_of_somebody_else_are_told_from_the_own_ones(node, shared_ros, topic):
    for _ in range(4):
        node.chunks.wait_for_new()
    before = node.wait_for_status("experience").refused("foreign_command")
    for _ in range(2):
        now = node.wait_for_status("experience")
        assert now.refused("foreign_command") == before, "own chunks are heard too"
    publisher = shared_ros.publisher(topic, JointTrajectory)
    now_ns = node.ros.node.get_clock().now().nanoseconds
    publisher.publish(encode_trajectory(hold_trajectory([0.1, 0.2], now_ns, PERIOD_NS, JOINT_NAMES)))
    node.wait_for_status("experience", lambda status: status.refused("foreign_command") > before)
    shared_ros.node.destroy_publisher(publisher)


def test_chunk_is_on_the_control_grid_with_positions_and_velocities_and_ends_at_rest(node):
    chunk = node.chunks.wait_for_new()
    assert stamp_ns(chunk) % PERIOD_NS == 0
    assert tuple(chunk.joint_names) == JOINT_NAMES
    times = [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in chunk.points]
    assert times == [PERIOD_NS * (index + 1) for index in range(8 + 2)], "H points, then the ramp"
    positions = np.array([point.positions for point in chunk.points])
    velocities = np.array([point.velocities for point in chunk.points])
    np.testing.assert_allclose(np.diff(positions, axis=0), velocities[1:] * 0.1, atol=1e-9)
    assert (velocities[-1] == 0).all()
    assert np.abs(velocities[:8]).max() > 0
    assert not any(len(point.accelerations) or len(point.effort) for point in chunk.points)


def test_chunks_follow_each_other_every_four_ticks(node):
    first = len(node.chunks.messages)
    node.chunks.wait(lambda _: len(node.chunks.messages) >= first + 4)
    steps = np.diff([stamp_ns(chunk) for chunk in node.chunks.messages[first:]])
    assert (steps > 0).all()
    assert (steps % PERIOD_NS == 0).all()
    assert np.median(steps) == 4 * PERIOD_NS


# --- alignment ---


def fresh_experience(node):
    """Of one episode, enough to learn from and to judge by."""
    assert node.trigger("clear_buffer").success
    node.wait_for_experience(60)


def test_align_answers_with_its_verdict_and_refuses_a_second_one_meanwhile(node, parameters):
    assert not parameters.set(align_steps=12, lambda_perc=1.0, lambda_dyn=1.0, lambda_inv=1.0)
    fresh_experience(node)
    reports, chunks = len(node.reports.messages), len(node.chunks.messages)
    answer = node.call_async("align")
    node.learning_rates.wait_for_new()
    second = node.trigger("align")
    assert not answer.messages, "the first one must still run"
    assert not second.success
    assert "an alignment is running" in second.message
    assert "an alignment is running" in node.trigger("reset_e_token").message
    verdict = answer.wait(timeout_s=60)
    report = json.loads(node.reports.wait(lambda _: len(node.reports.messages) > reports).data)
    assert report["reason"] in verdict.message
    assert report["accepted"] == verdict.success
    assert len(report["curve"]) == 12
    assert set(report["before"]) == {"perception", "dynamics", "inverse_dynamics"}
    assert report["exploration_fraction"] == 0.9
    node.wait_for_status("alignment", lambda status: status.message == verdict.message)
    assert len(node.chunks.messages) > chunks, "inference goes on"


def test_live_parameters_act_and_curves_are_published(node, parameters, shared_ros):
    fresh_experience(node)
    curves = {
        name: shared_ros.listen(f"/vla_policy/align/{name}", Float64, RELIABLE)
        for name in ("loss/perception", "loss/dynamics", "loss/inverse_dynamics", "e_token_norm", "grad_norm", "lr")
    }
    assert not parameters.set(align_learning_rate=0.001, lambda_dyn=0.0, align_steps=4)
    node.trigger("align")
    for name in ("loss/perception", "loss/inverse_dynamics", "e_token_norm", "grad_norm"):
        curve = curves[name].wait(lambda _, curve=curves[name]: len(curve.messages) == 4)
        assert np.isfinite(curve.data)
    curves["lr"].wait(lambda _: len(curves["lr"].messages) == 4)
    rates = [message.data for message in curves["lr"].messages]
    np.testing.assert_allclose(np.array(rates) / rates[0], [1.0, 0.75, 0.5, 0.25], err_msg="each step is smaller")
    assert not curves["loss/dynamics"].messages, "lambda 0 switches a task off"


def test_align_frequency_starts_alignments_by_themselves_and_0_stops_them(node, parameters):
    fresh_experience(node)
    before = node.wait_for_status("alignment").number("attempted")
    assert not parameters.set(align_frequency_hz=1.0)
    node.wait_for_status("alignment", lambda status: status.number("attempted") >= before + 2, timeout_s=60)
    assert not parameters.set(align_frequency_hz=0.0)

    def ended(status):
        return status.number("attempted") == status.number("accepted") + status.number("refused")

    after = node.wait_for_status("alignment", ended).number("attempted")
    assert node.wait_for_status("alignment").number("attempted") == after


def test_kept_token_is_durable_announced_and_running(node, parameters):
    assert node.trigger("reset_e_token").success
    fresh_experience(node)
    assert not parameters.set(lambda_perc=1.0, lambda_dyn=0.0, lambda_inv=0.0)
    known = {version.name for version in TokenStore(node.store, 20).versions()}
    answer = node.trigger("align")
    assert answer.success, answer.message
    store = TokenStore(node.store, 20).read()
    new = store.active
    assert new is not None
    assert new.name not in known
    assert not store.problems
    assert f"version {new.name}" in answer.message
    assert new.manifest.reason == "align"
    assert new.manifest.parameters["lambda_dyn"] == 0.0
    node.announced.wait(lambda message: json.loads(message.data)["version"] == new.name)
    node.wait_for_status("alignment", lambda status: status.values["token_version"] == new.name)


def test_clear_buffer_forgets_and_an_alignment_of_nothing_is_refused_with_a_reason(node):
    node.bring_to("inactive")  # nothing new comes in
    totals = [-2, -1]
    while totals[-1] != totals[-2]:  # that of the last commands is still on its way
        totals.append(node.wait_for_status("experience").number("total"))
    answer = node.trigger("clear_buffer")
    assert answer.success
    node.wait_for_status("experience", lambda status: status.number("buffer") == 0)
    refused = node.trigger("align")
    assert not refused.success
    assert "too_little_experience" in refused.message


def test_services_say_that_the_node_must_be_configured_and_diagnostics_go_on(node):
    node.bring_to("unconfigured")
    for service in ("align", "reset_e_token", "clear_buffer"):
        answer = node.trigger(service)
        assert not answer.success
        assert "unconfigured: configure it first" in answer.message
    assert "unconfigured" in node.wait_for_status("inference", lambda status: "no model" in status.message).message
    node.bring_to("active", MANAGER)


def test_alignments_start_by_themselves_also_after_another_configure(node, parameters):
    node.wait_for_experience(60)
    node.trigger("align")
    node.bring_to("unconfigured")
    assert not parameters.set(align_frequency_hz=1.0, align_max_experiences=1000)
    seen = len(node.reports.messages)
    node.bring_to("active")
    node.reports.wait(lambda _: len(node.reports.messages) > seen)
    report = json.loads(node.reports.messages[seen].data)
    assert report["learned_from"] + report["judged_by"] < 50, "the count of new experience begins again"
    assert not parameters.set(align_frequency_hz=0.0, align_max_experiences=32)
