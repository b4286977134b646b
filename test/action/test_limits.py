from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.limits import ChunkLimits, ChunkReason, ChunkRefused, check_chunk
from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.robot.description import ActionKind, Joint
from vla_align_ros.types import ActionChunk

PERIOD_NS = 100_000_000
JOINTS = (Joint((-1.0, 1.0), 2.0), Joint((-2.0, 2.0), 3.0))
JUMP_MAX_S = 0.2


def limits_of(kind: ActionKind | list[ActionKind] = "velocity", ramp_ticks: int = 2) -> ChunkLimits:
    return ChunkLimits(a_robot(kind, joint=JOINTS), JUMP_MAX_S, ramp_ticks)


LIMITS = limits_of()
HOME = np.zeros(2, np.float32)


def chunk_of(actions: object, start: object = HOME) -> ActionChunk:
    return ActionChunk(np.array(actions, np.float32), np.array(start, np.float32), 0, PERIOD_NS)


def refusal(
    chunk: ActionChunk, kind: ActionKind = "velocity", measured: object = HOME, late_ns: int = 0
) -> ChunkRefused:
    with pytest.raises(ChunkRefused) as caught:
        check_chunk(chunk, limits_of(kind), np.array(measured, np.float32), late_ns)
    return caught.value


@pytest.mark.parametrize("kind", ["velocity", "position", "delta_position"])
def test_a_chunk_within_its_limits_passes(kind: ActionKind) -> None:
    check_chunk(chunk_of([[0.1, -0.1], [0.2, -0.2]]), limits_of(kind), HOME)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite(value: float) -> None:
    assert refusal(chunk_of([[0, 0], [0, value]])).reason is ChunkReason.NON_FINITE
    assert refusal(chunk_of([[0, 0]], [value, 0])).reason is ChunkReason.NON_FINITE
    refused = refusal(chunk_of([[0, 0]]), measured=[0, value])
    assert refused.reason is ChunkReason.NON_FINITE
    assert "measured position" in str(refused)


@pytest.mark.parametrize(
    "chunk", [chunk_of([[0, 0, 0]]), chunk_of([0, 0]), chunk_of(np.zeros((0, 2))), chunk_of([[0, 0]], [0])]
)
def test_wrong_shape(chunk: ActionChunk) -> None:
    refused = refusal(chunk)
    assert refused.reason is ChunkReason.WRONG_SHAPE
    assert "expected actions (H, 2)" in str(refused)


def test_velocity_limit_names_joint_point_and_limit() -> None:
    refused = refusal(chunk_of([[0, 0], [0, -3.5]]))
    assert refused.reason is ChunkReason.VELOCITY_LIMIT
    assert "elbow at 3.5 rad/s in point 1, velocity_max is 3" in str(refused)


def test_velocity_limit_holds_for_positions_too() -> None:
    assert refusal(chunk_of([[0.1, 0], [0.4, 0]]), "position").reason is ChunkReason.VELOCITY_LIMIT


def test_the_first_target_of_a_position_is_the_jumps_matter_not_the_velocitys() -> None:
    """A servo under load is measured behind its targets for ever."""
    check_chunk(chunk_of([[0.35, 0], [0.45, 0]]), limits_of("position"), HOME)
    assert refusal(chunk_of([[0.45, 0], [0.5, 0]]), "position").reason is ChunkReason.JUMP


def test_each_field_is_judged_by_its_own_kind() -> None:
    mixed = ["position", "velocity"]
    check_chunk(chunk_of([[0.35, 2.5], [0.4, 2.5]]), limits_of(mixed), HOME)
    assert refusal(chunk_of([[0.0, 3.5], [0.0, 3.5]]), mixed).reason is ChunkReason.VELOCITY_LIMIT


@pytest.mark.parametrize("kind", ["velocity", "position"])
def test_acceleration_is_judged_where_a_joint_has_a_limit(kind: ActionKind) -> None:
    joints = (Joint((-1.0, 1.0), 2.0), Joint((-2.0, 2.0), 3.0, acceleration_max=10.0))
    limits = replace(LIMITS, robot=a_robot(kind, joint=joints))
    swift, hard = [[0.0, 0.0], [0.0, 0.9], [0.0, 1.8]], [[0.0, 0.0], [1.9, 0.0], [0.0, 1.5]]
    if kind == "position":
        swift, hard = [[0.0, 0.0], [0.0, 0.05], [0.0, 0.19]], [[0.0, 0.0], [0.19, 0.0], [0.0, 0.2]]
    check_chunk(chunk_of(swift), limits, HOME)
    with pytest.raises(ChunkRefused, match=r"elbow at .* rad/s\^2 from point 1 to 2, acceleration_max is 10"):
        check_chunk(chunk_of(hard), limits, HOME)


def test_a_grippers_goal_may_step_and_lie_far_ahead_but_not_outside_its_range() -> None:
    joints = (Joint((-1.0, 1.0), 2.0), Joint((0.0, 0.8), 1.0, acceleration_max=1.0, may_be_blocked=True))
    limits = replace(LIMITS, robot=a_robot("position", joint=joints))
    check_chunk(chunk_of([[0, 0.8], [0, 0.0], [0, 0.8]]), limits, HOME)
    with pytest.raises(ChunkRefused, match="position_limit"):
        check_chunk(chunk_of([[0, 0.9]]), limits, HOME)


def test_a_prismatic_joint_is_spoken_of_in_metres() -> None:
    finger = a_robot("position", names=("finger",), joint=Joint((0.0, 0.04), 0.1, unit="m"))
    with pytest.raises(ChunkRefused, match=r"finger at 0.05 m in point 1, allowed is 0 to 0.04"):
        check_chunk(chunk_of([[0.045], [0.05]], [0.04]), replace(LIMITS, robot=finger), np.array([0.04]))


def test_an_action_clamped_to_the_limit_in_float32_passes() -> None:
    limit = 0.1  # float32(0.1) > 0.1
    limits = replace(LIMITS, robot=a_robot(names=("shoulder",), joint=Joint((-1.0, 1.0), limit)))
    check_chunk(chunk_of([[limit]], [0]), limits, np.zeros(1, np.float32))


def test_position_limit_of_summed_velocities() -> None:
    refused = refusal(chunk_of([[1.5, 0]], [0.8, 0]), measured=[0.8, 0])
    assert refused.reason is ChunkReason.POSITION_LIMIT
    assert "shoulder" in str(refused)


def test_position_limit_counts_the_braking_distance() -> None:
    chunk = chunk_of([[1.5, 0]], [0.8, 0])  # ends at 0.95 rad, and brakes for another 0.075
    with pytest.raises(ChunkRefused, match="position_limit"):
        check_chunk(chunk, LIMITS, chunk.start)
    check_chunk(chunk, limits_of(ramp_ticks=1), chunk.start)


def test_a_joint_outside_its_range_may_come_back_but_not_go_farther_out() -> None:
    outside = [1.2, 0]
    check_chunk(chunk_of([[-1, 0]], outside), LIMITS, np.array(outside, np.float32))
    assert refusal(chunk_of([[1, 0]], outside), measured=outside).reason is ChunkReason.POSITION_LIMIT


@pytest.mark.parametrize("kind", ["position", "velocity", "delta_position"])
def test_jump_from_the_measured_position(kind: ActionKind) -> None:
    first = [0.5, 0] if kind == "position" else [0, 0]
    refused = refusal(chunk_of([first], [0.5, 0]), kind, measured=[0, -0.5])
    assert refused.reason is ChunkReason.JUMP
    assert "0.25 s at its velocity_max; jump_max_s is 0.2" in str(refused)


def test_jump_is_judged_where_a_late_chunk_would_begin() -> None:
    chunk = chunk_of([[1, 0]] * 6)  # 0.1 rad a period
    here = np.array([0.45, 0], np.float32)
    check_chunk(chunk, LIMITS, here, late_ns=4 * PERIOD_NS + PERIOD_NS // 2)
    refused = refusal(chunk, measured=[-0.1, 0], late_ns=4 * PERIOD_NS)
    assert refused.reason is ChunkReason.JUMP
    assert "shoulder would begin 0.5 rad" in str(refused)


def test_limits_that_would_let_everything_or_nothing_pass_are_refused() -> None:
    for change in ({"jump_max_s": 0.0}, {"jump_max_s": float("nan")}, {"ramp_ticks": 0}):
        with pytest.raises(ValueError, match="ramp_ticks at least 1"):
            replace(LIMITS, **change)  # type: ignore[arg-type]


numbers = st.floats(-4, 4, width=32)


@given(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6),
    st.tuples(numbers, numbers),
    st.sampled_from(["velocity", "position", "delta_position"]),
)
def test_what_passes_stays_in_every_limit(
    actions: list[tuple[float, float]], measured: tuple[float, float], kind: ActionKind
) -> None:
    chunk = chunk_of(actions, measured)
    try:
        check_chunk(chunk, limits_of(kind), chunk.start)
    except ChunkRefused:
        return
    sent = to_trajectory(chunk, limits_of(kind).robot, LIMITS.ramp_ticks)
    first_judged = 0 if kind == "velocity" else 1
    assert (np.abs(sent.velocities[first_judged:]) <= np.array([2, 3]) * 1.00001).all()
    assert (np.abs(sent.positions[0] - chunk.start) <= np.array([2, 3]) * JUMP_MAX_S * 1.00001).all()
    assert (np.abs(sent.positions) <= np.maximum([1, 2], np.abs(chunk.start)) * 1.00001).all()
