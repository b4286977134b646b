from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.experience.in_force import CommandsInForce
from vla_align_ros.observation.assemble import ObservationReason, ObservationRefused
from vla_align_ros.observation.codecs import MessageReason, MessageRefused, encode_trajectory
from vla_align_ros.robot.description import ActionKind
from vla_align_ros.types import ActionChunk, Float32Array, Trajectory

MS = 1_000_000
PERIOD_NS = 100 * MS
LAG_NS = 300 * MS
T0 = 17_000_000_000 * PERIOD_NS
LATE_MS = 60_000


def in_force(action_kind: ActionKind = "velocity", measured_rad: float = 0.0) -> CommandsInForce:
    """Of an arm with one joint, which is always at `measured_rad`."""

    def joints_at(t_ns: int) -> Float32Array:
        return np.array([measured_rad], np.float32)

    return CommandsInForce(a_robot(action_kind, ["j"]), LAG_NS, joints_at)


def message(start_ms: int | None, times_ms: list[float], *rows: list[float]) -> bytes:
    """start_ms: None for a stamp of 0. rows: positions, velocities, accelerations."""
    columns = [np.array(row, np.float64)[:, None] for row in rows]
    times_ns = np.array([round(t_ms * MS) for t_ms in times_ms], np.int64)
    stamp_ns = 0 if start_ms is None else T0 + start_ms * MS
    return encode_trajectory(Trajectory(stamp_ns, ("j",), times_ns, *columns))


def chunk(actions: list[float], start_ms: int = 0) -> bytes:
    rows = np.array(actions, np.float32)[:, None]
    made = ActionChunk(rows, np.zeros(1, np.float32), T0 + start_ms * MS, PERIOD_NS)
    return encode_trajectory(to_trajectory(made, a_robot(names=["j"]), 2))


def commands(held: CommandsInForce, start_ms: int, count: int, origin: float = 0.0) -> list[float] | None:
    held.measure_starts(T0 + LATE_MS * MS)
    made = held.actions(T0 + start_ms * MS, count, np.array([origin], np.float32))
    return None if made is None else made[:, 0].tolist()


def only(raw: bytes, arrival_ms: int = 0, *, measured_rad: float = 0.0, count: int = 4) -> list[float] | None:
    """The commands of the first ticks after a message came, alone."""
    held = in_force(measured_rad=measured_rad)
    held.put(raw, T0 + arrival_ms * MS)
    return commands(held, arrival_ms, count)


POSITIONS = [0.0, 0.1, 0.3, 0.2, 0.2]  # of a motion, at every tick
SENT = [1.0, 2.0, -1.0, 0.0]


def resampled(hz: int, velocities: bool) -> tuple[list[float], list[list[float]]]:
    """Points of that motion at a rate, without the one at time 0, with the velocity of the way to each or without."""
    times_ms = [1000 / hz * (index + 1) for index in range(4 * hz // 10)]
    positions = np.interp(times_ms, [0, 100, 200, 300, 400], POSITIONS)
    gone = np.diff(positions, prepend=0.0) * hz
    return times_ms, [positions.tolist(), gone.tolist()] if velocities else [positions.tolist()]


@pytest.mark.parametrize("hz", [10, 20, 50, 100, 250])
@pytest.mark.parametrize("velocities", [True, False])
@pytest.mark.parametrize("start_ms", [0, None])
def test_points_at_any_rate_of_the_same_motion_are_the_same_commands(
    hz: int, velocities: bool, start_ms: int | None
) -> None:
    times_ms, rows = resampled(hz, velocities)
    assert only(message(start_ms, times_ms, *rows)) == pytest.approx(SENT, abs=1e-5)
    assert only(message(start_ms, [0, *times_ms], [0.0, *rows[0]])) == pytest.approx(SENT, abs=1e-5)


@given(st.lists(st.integers(1, 999), unique=True, max_size=9), st.integers(1, 3), st.booleans())
def test_points_anywhere_on_a_smooth_motion_are_the_same_commands(
    inner_ms: list[int], said: int, at_time_0: bool
) -> None:
    """Such as MoveIt's: from rest to rest in 1 s, with velocities and accelerations. Points with positions alone are
    those of a straight motion. Without a point at time 0 the arm stands where the motion starts."""
    times_ms = [*([0] if at_time_0 else []), *sorted(inner_ms), 1000]
    s = np.array(times_ms) / 1000
    curves = {1: [s], 2: [3 * s**2 - 2 * s**3, 6 * s - 6 * s**2]}
    curves[3] = [10 * s**3 - 15 * s**4 + 6 * s**5, 30 * s**2 * (1 - s) ** 2, 60 * s - 180 * s**2 + 120 * s**3]
    got = only(message(None, times_ms, *(curve.tolist() for curve in curves[said])), count=10)
    t = np.linspace(0, 1, 11)
    way = {1: t, 2: 3 * t**2 - 2 * t**3, 3: 10 * t**3 - 15 * t**4 + 6 * t**5}[said]
    assert got == pytest.approx((np.diff(way) * 10).tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("velocity", [1.0, 2.0]), ("position", [0.1, 0.3]), ("delta_position", [0.05, 0.25])],
)
def test_a_command_is_what_the_model_would_have_said(kind: ActionKind, expected: list[float]) -> None:
    held = in_force(kind)
    held.put(message(0, [100, 200, 300], [0.1, 0.3, 0.4]), T0)
    assert commands(held, 0, 2, origin=0.05) == pytest.approx(expected, abs=1e-6)


def test_each_joint_is_asked_by_its_own_kind() -> None:
    robot = a_robot(["velocity", "position", "delta_position"], ["j", "k", "l"])
    held = CommandsInForce(robot, LAG_NS, lambda t_ns: np.zeros(3, np.float32))
    positions = np.repeat([[0.1], [0.3], [0.4]], 3, axis=1)
    times_ns = np.array([100, 200, 300], np.int64) * MS
    held.put(encode_trajectory(Trajectory(T0, ("j", "k", "l"), times_ns, positions)), T0)
    held.measure_starts(T0 + LATE_MS * MS)
    asked = held.actions(T0, 2, np.full(3, 0.05))
    np.testing.assert_allclose(asked, [[1.0, 0.1, 0.05], [2.0, 0.3, 0.25]], atol=1e-6)


def test_a_way_begins_where_the_arm_was_measured() -> None:
    assert only(message(0, [200], [0.3]), measured_rad=0.1, count=2) == pytest.approx([1.0, 1.0])


def test_a_seam_within_a_tick_counts_with_both_sides() -> None:
    held = in_force()
    held.put(chunk([1.0] * 4), T0)
    held.put(chunk([3.0] * 4, start_ms=250), T0 + 250 * MS)
    assert commands(held, 0, 5) == pytest.approx([1, 1, 2, 3, 3], abs=1e-6)
    positions = in_force("position")
    positions.put(message(0, [400], [0.4]), T0)
    positions.put(message(250, [0, 100], [0.5, 0.7]), T0 + 250 * MS)
    assert commands(positions, 100, 2) == pytest.approx([0.2, 0.6], abs=1e-6)


def test_after_the_last_point_nothing_is_in_force() -> None:
    assert only(message(0, [50, 350], [0.1, 0.2])) is not None, "the last tick begins before the end"
    assert only(message(0, [50, 300], [0.1, 0.2])) is None
    assert only(message(100, [400], [0.1]), count=1) is None, "not begun yet"


def test_where_the_start_cannot_be_known_its_reason_is_given() -> None:
    def joints_at(t_ns: int) -> Float32Array:
        raise ObservationRefused(ObservationReason.STALE_JOINTS, "old")

    held = CommandsInForce(a_robot(names=["j"]), LAG_NS, joints_at)
    held.put(message(0, [400], [0.4]), T0)
    with pytest.raises(ObservationRefused) as caught:
        commands(held, 0, 1)
    assert caught.value.reason is ObservationReason.STALE_JOINTS
    held.put(chunk(SENT), T0)
    assert commands(held, 0, 4) == pytest.approx(SENT), "a chunk says where it starts"


@pytest.mark.parametrize(
    ("arrival_ms", "reason"),
    [(500, MessageReason.TRAJECTORY_OVER), (-301, MessageReason.TRAJECTORY_AHEAD)],
)
def test_a_stamp_that_cannot_be_is_refused(arrival_ms: int, reason: MessageReason) -> None:
    raw = message(0, [100, 500], [0.1, 0.5])
    held = in_force()
    with pytest.raises(MessageRefused) as caught:
        held.put(raw, T0 + arrival_ms * MS)
    assert caught.value.reason is reason
    assert held.disturbed(T0 + arrival_ms * MS, T0 + LATE_MS * MS)
    for good_ms in (499, -300):
        in_force().put(raw, T0 + good_ms * MS)


def disturbed(held: CommandsInForce, ticks: range = range(60)) -> list[int]:
    return [tick for tick in ticks if held.disturbed(T0 + tick * PERIOD_NS, T0 + (tick + 1) * PERIOD_NS)]


FOREIGN = message(None, [1000], [1.0])
UNREADABLE = message(-5000, [1000], [1.0])  # it was over before it came


def test_somebody_elses_command_ends_ours_and_lasts_to_its_last_point() -> None:
    held = in_force()
    held.put(message(0, [5000], [5.0]), T0)
    held.put_foreign(FOREIGN, T0 + 1050 * MS)
    assert list(held.spans()) == [(T0, T0 + 1050 * MS)]
    assert disturbed(held) == list(range(10, 21))
    assert commands(held, 3000, 1) is None, "ours does not come to life again"
    held.put(message(None, [1000], [1.0]), T0 + 1500 * MS)
    assert disturbed(held) == list(range(10, 21)), "who of the two has the arm nobody can tell"
    assert commands(held, 2100, 3) == pytest.approx([1.0] * 3), "a later one of ours counts when that is over"


def test_ours_that_was_stamped_before_somebody_elses_came_is_over_too() -> None:
    for first, second in (("ours", "foreign"), ("foreign", "ours")):
        held = in_force()
        for sender in (first, second):
            if sender == "ours":
                held.put(message(1000, [5000], [5.0]), T0 + 1060 * MS)
            else:
                held.put_foreign(FOREIGN, T0 + 1050 * MS)
        assert list(held.spans()) == [(T0 + 1000 * MS, T0 + 1050 * MS)]
        assert commands(held, 2100, 1) is None


def test_a_copy_of_ours_that_came_first_is_nobody_elses() -> None:
    held = in_force()
    held.put(chunk([1.0] * 20), T0)
    ours = chunk([2.0] * 20, start_ms=1000)
    held.put_foreign(ours, T0 + 1050 * MS)
    assert disturbed(held)
    held.put(ours, T0 + 1060 * MS)
    assert disturbed(held) == []
    assert commands(held, 900, 2) == pytest.approx([1.0, 2.0])
    held.put_foreign(FOREIGN, T0 + 1500 * MS)
    held.put(FOREIGN, T0 + 1900 * MS)
    assert disturbed(held), "so much later it is another command"


def test_a_part_of_ours_that_came_first_is_nobody_elses_and_one_of_other_joints_is() -> None:
    def of(names: tuple[str, ...], *columns: float) -> bytes:
        rows = np.array([columns], np.float64)
        return encode_trajectory(Trajectory(T0 + 1000 * MS, names, np.array([1000 * MS]), rows))

    held = in_force()
    held.put_foreign(of(("elbow",), 0.5), T0 + 1010 * MS)
    assert disturbed(held) == list(range(10, 20)), "as long as it lasts, though it is no joint of ours"
    held = CommandsInForce(a_robot(names=["left/wrist", "left/elbow"]), LAG_NS, lambda _: np.zeros(2, np.float32))
    for part in (of(("elbow",), 0.5), of(("wrist",), 0.2), of(("wrist", "elbow"), 0.2, 0.5)):
        held.put_foreign(part, T0 + 1010 * MS)
    held.put(of(("left/wrist", "left/elbow"), 0.2, 0.5), T0 + 1020 * MS)
    assert disturbed(held) == []
    held.put_foreign(of(("elbow",), 0.6), T0 + 1030 * MS)
    assert disturbed(held) == list(range(10, 20))


def test_one_that_starts_before_it_comes_has_the_arm_from_then_on() -> None:
    held = in_force()
    held.put_foreign(message(500, [1000], [1.0]), T0 + 1050 * MS)
    assert disturbed(held) == list(range(5, 15))


def test_one_that_cannot_be_read_lasts_until_ours_has_come_and_begun() -> None:
    for put in (CommandsInForce.put_foreign, CommandsInForce.put):
        held = in_force()
        held.put(chunk([1.0] * 20), T0)
        for came_ms in (1050, 1150):
            with pytest.raises(MessageRefused):
                put(held, UNREADABLE, T0 + came_ms * MS)
        held.put(chunk([1.0] * 20, start_ms=1100), T0 + 1190 * MS)
        assert disturbed(held) == list(range(10, 60)), "the last of ours was stamped before the last of theirs came"
        held.put(chunk([1.0] * 20, start_ms=1400), T0 + 1450 * MS)
        assert disturbed(held) == list(range(10, 15))
        assert commands(held, 1500, 2) == pytest.approx([1.0, 1.0])


def test_bytes_that_are_no_message_change_nothing() -> None:
    held = in_force()
    held.put(chunk([1.0] * 20), T0)
    for put in (held.put_foreign, held.put):
        with pytest.raises(MessageRefused):
            put(b"\x00\x01\x00\x00", T0 + 500 * MS)
    assert disturbed(held) == []
    assert commands(held, 500, 1) == pytest.approx([1.0])


@pytest.mark.parametrize("ours_too", [True, False])
def test_memory_stays_bounded_whoever_sends(ours_too: bool) -> None:
    held = in_force()
    held.put(chunk([1.0]), T0)
    for t_ms in range(0, 20_000, 20):
        now_ns = T0 + t_ms * MS
        if ours_too:
            held.put(chunk([1.0], start_ms=t_ms), now_ns)
        held.put_foreign(message(None, [50], [1.0]), now_ns)
        with pytest.raises(MessageRefused):
            held.put_foreign(UNREADABLE, now_ns)
        held.forget_before(now_ns - 1000 * MS)
    assert len(held._commands) + len(held._foreign) < 200


def test_a_clock_that_falls_back_forgets_what_came_later() -> None:
    held = in_force()
    held.put(chunk([1.0] * 4, start_ms=1000), T0 + 1000 * MS)
    held.put_foreign(message(100, [5000], [1.0]), T0 + 1050 * MS)
    held.forget_after(T0)
    assert list(held.spans()) == []
    assert disturbed(held) == []
