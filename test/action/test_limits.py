from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.action.limits import ChunkLimits, ChunkReason, ChunkRefused, check_chunk
from vla_align_ros.action.trajectory import ActionKind, to_trajectory
from vla_align_ros.policy.config import JointConfig
from vla_align_ros.types import ActionChunk

PERIOD_NS = 100_000_000
LIMITS = ChunkLimits(
    joints=(JointConfig("shoulder", -1.0, 1.0, 2.0), JointConfig("elbow", -2.0, 2.0, 3.0)),
    jump_max_rad=0.4,
    ramp_ticks=2,
)
HOME = np.zeros(2, np.float32)


def chunk_of(actions: object, state: object = HOME) -> ActionChunk:
    return ActionChunk(np.array(actions, np.float32), np.array(state, np.float32), 0, PERIOD_NS)


def refusal(
    chunk: ActionChunk, kind: ActionKind = "velocity", measured: object = HOME, late_ns: int = 0
) -> ChunkRefused:
    with pytest.raises(ChunkRefused) as caught:
        check_chunk(chunk, kind, LIMITS, np.array(measured, np.float32), late_ns)
    return caught.value


@pytest.mark.parametrize("kind", ["velocity", "position", "delta_position"])
def test_a_chunk_within_its_limits_passes(kind: ActionKind) -> None:
    check_chunk(chunk_of([[0.1, -0.1], [0.2, -0.2]]), kind, LIMITS, HOME)


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
    assert "elbow at 3.5 rad/s in point 1, velocity_max_rad_s is 3" in str(refused)


def test_velocity_limit_holds_for_positions_too() -> None:
    assert refusal(chunk_of([[0.1, 0], [0.4, 0]]), "position").reason is ChunkReason.VELOCITY_LIMIT


def test_an_action_clamped_to_the_limit_in_float32_passes() -> None:
    limit = 0.1  # float32(0.1) > 0.1
    limits = replace(LIMITS, joints=(JointConfig("shoulder", -1.0, 1.0, limit),))
    check_chunk(chunk_of([[limit]], [0]), "velocity", limits, np.zeros(1, np.float32))


def test_position_limit_of_summed_velocities() -> None:
    refused = refusal(chunk_of([[1.5, 0]], [0.8, 0]), measured=[0.8, 0])
    assert refused.reason is ChunkReason.POSITION_LIMIT
    assert "shoulder" in str(refused)


def test_position_limit_counts_the_braking_distance() -> None:
    chunk = chunk_of([[1.5, 0]], [0.8, 0])  # ends at 0.95 rad, and brakes for another 0.075
    with pytest.raises(ChunkRefused, match="position_limit"):
        check_chunk(chunk, "velocity", LIMITS, chunk.state)
    check_chunk(chunk, "velocity", replace(LIMITS, ramp_ticks=1), chunk.state)


def test_a_joint_outside_its_range_may_come_back_but_not_go_farther_out() -> None:
    outside = [1.2, 0]
    check_chunk(chunk_of([[-1, 0]], outside), "velocity", LIMITS, np.array(outside, np.float32))
    assert refusal(chunk_of([[1, 0]], outside), measured=outside).reason is ChunkReason.POSITION_LIMIT


@pytest.mark.parametrize("kind", ["position", "velocity", "delta_position"])
def test_jump_from_the_measured_position(kind: ActionKind) -> None:
    refused = refusal(chunk_of([[0, 0]], [0.5, 0]), kind, measured=[0, -0.5])
    assert refused.reason is ChunkReason.JUMP
    assert "jump_max_rad is 0.4" in str(refused)


def test_jump_is_judged_where_a_late_chunk_would_begin() -> None:
    chunk = chunk_of([[1, 0]] * 6)  # 0.1 rad a period
    here = np.array([0.45, 0], np.float32)
    check_chunk(chunk, "velocity", LIMITS, here, late_ns=4 * PERIOD_NS + PERIOD_NS // 2)
    refused = refusal(chunk, measured=[-0.1, 0], late_ns=4 * PERIOD_NS)
    assert refused.reason is ChunkReason.JUMP
    assert "shoulder would begin 0.5 rad" in str(refused)


def test_limits_that_would_let_everything_or_nothing_pass_are_refused() -> None:
    for change in ({"jump_max_rad": 0.0}, {"jump_max_rad": float("nan")}, {"ramp_ticks": 0}, {"joints": ()}):
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
        check_chunk(chunk, kind, LIMITS, chunk.state)
    except ChunkRefused:
        return
    sent = to_trajectory(chunk, kind, ("shoulder", "elbow"), LIMITS.ramp_ticks)
    assert (np.abs(sent.velocities) <= np.array([2, 3]) * 1.00001).all()
    assert (np.abs(sent.positions[0] - chunk.state) <= LIMITS.jump_max_rad).all()
    assert (np.abs(sent.positions) <= np.maximum([1, 2], np.abs(chunk.state)) * 1.00001).all()
