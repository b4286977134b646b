from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.controller import Controller, Published
from vla_align_ros.action.excitation import Excitation
from vla_align_ros.action.limits import ChunkLimits, ChunkReason, ChunkRefused, check_chunk
from vla_align_ros.observation.assemble import (
    AssemblerLimits,
    ObservationAssembler,
    ObservationReason,
    ObservationRefused,
)
from vla_align_ros.observation.codecs import IMAGE, encode_image, encode_joint_state
from vla_align_ros.robot.description import Joint
from vla_align_ros.types import ActionChunk, Observation

PERIOD_NS, HORIZON, EXECUTE = 100_000_000, 8, 4
T = 10**18  # a control tick
JUMP_MAX_S, SPEED_FRACTION = 0.12, 0.56
HERE = (0.1, 0.2)  # where the arm is


class FakePolicy:
    """Answers with constant actions."""

    def __init__(self, action: Any = "velocity", value: float = 0.5) -> None:
        robot = a_robot(action)
        self.config = SimpleNamespace(robot=robot)
        self.model = SimpleNamespace(architecture=SimpleNamespace(action_horizon=HORIZON))
        self.value = value
        self.asked: list[int] = []

    def infer(self, observation: Observation, generator: Any, num_steps: int) -> ActionChunk:
        self.asked.append(num_steps)
        actions = np.full((HORIZON, 2), self.value, np.float32)
        return ActionChunk(actions, observation.state, observation.stamp_ns, PERIOD_NS)


def make_assembler(*ticks: int, position: tuple[float, float] = (0.1, 0.2)) -> ObservationAssembler:
    """One that can observe at `ticks`."""
    assembler = ObservationAssembler(a_robot(), ("front",), 8, AssemblerLimits(0.05, 0.05, 0.0, 10.0, 0.2), str)
    assembler.push_prompt("go", 0)
    for tick in ticks:
        move(assembler, tick, position)
        assembler.push_image("front", encode_image(np.full((8, 8, 3), tick % 251, np.uint8), tick), IMAGE, tick)
    return assembler


def move(assembler: ObservationAssembler, stamp_ns: int, position: tuple[float, float]) -> None:
    assembler.push_joints(encode_joint_state(("shoulder", "elbow"), np.array(position), stamp_ns), stamp_ns)


def make(
    controller: Controller, tick_ns: int, num_steps: int = 10, exploration: float = 0.0, now_ns: int | None = None
) -> Published:
    """A chunk that is done at `now_ns`, by default at once."""
    return controller.make(tick_ns, num_steps, exploration, lambda: tick_ns if now_ns is None else now_ns)


def make_controller(policy: FakePolicy | None = None, *ticks: int, seed: int = 0) -> Controller:
    policy = policy or FakePolicy()
    limits = ChunkLimits(policy.config.robot, JUMP_MAX_S, 2)
    return Controller(policy, make_assembler(*ticks), limits, seed, SPEED_FRACTION)  # type: ignore[arg-type]


def send(controller: Controller, tick_ns: int, latency_ns: int = 10_000_000) -> None:
    controller.sent(make(controller, tick_ns), tick_ns + latency_ns)


# --- when ---


@given(st.integers(0, 2**62))
def test_tick_lies_on_the_grid_and_is_reported_once(now_ns: int) -> None:
    controller = make_controller()
    tick_ns = controller.tick(now_ns)
    assert tick_ns is not None
    assert tick_ns % PERIOD_NS == 0
    assert tick_ns <= now_ns < tick_ns + PERIOD_NS
    assert controller.tick(tick_ns + PERIOD_NS - 1) is None


def test_chunk_is_due_when_the_actions_to_execute_are_used_up() -> None:
    controller = make_controller(None, T)
    assert controller.tick(T) == T
    send(controller, T)
    due = [controller.tick(T + k * PERIOD_NS) is not None for k in range(1, HORIZON)]
    assert due == [False] * (EXECUTE - 1) + [True] * EXECUTE


@pytest.mark.parametrize("ticks_back", [1, 5, 25, 1000])
def test_clock_that_falls_back_silences_nothing(ticks_back: int) -> None:
    """The queue holds chunks for every tick until the clock has passed its old reading."""
    ticks = [T + k * EXECUTE * PERIOD_NS for k in range(8)]
    controller = make_controller(None, *ticks)
    for tick in ticks:
        assert controller.tick(tick) == tick
        send(controller, tick)
    again = ticks[-1] - ticks_back * PERIOD_NS
    assert controller.tick(again) == again
    assert controller.tick(again + PERIOD_NS // 2) is None


def test_chunk_for_a_time_to_come_is_not_sent_when_the_clock_fell_back_meanwhile() -> None:
    controller = make_controller(None, T - 60 * 10**9, T)
    with pytest.raises(ObservationRefused, match="the clock fell back") as refused:
        make(controller, T, now_ns=T - 60 * 10**9)
    assert refused.value.reason is ObservationReason.CLOCK_JUMP


@pytest.mark.parametrize("action", ["velocity", "position", "delta_position"])
def test_motion_that_would_begin_far_from_where_the_arm_is_now_is_refused(action: str) -> None:
    """The observation's own state is where the arm was: a velocity chunk always begins there."""
    controller = make_controller(FakePolicy(action, value=0.1), T)
    assert make(controller, T, now_ns=T + 40_000_000).trajectory.stamp_ns == T
    move(controller._assembler, T + 30_000_000, (0.1, 1.2))
    with pytest.raises(ChunkRefused, match="elbow would begin") as refused:
        make(controller, T, now_ns=T + 40_000_000)
    assert refused.value.reason is ChunkReason.JUMP


def test_joints_that_fall_silent_while_a_chunk_is_made_keep_it_back() -> None:
    controller = make_controller(None, T)
    with pytest.raises(ObservationRefused) as refused:
        make(controller, T, now_ns=T + 60_000_000)
    assert refused.value.reason is ObservationReason.STALE_JOINTS


# --- what ---


def test_trajectory_answers_the_observation_at_the_tick_and_ends_at_rest() -> None:
    policy = FakePolicy()
    published = make(make_controller(policy, T), T, 7)
    trajectory = published.trajectory
    assert policy.asked == [7]
    assert trajectory.stamp_ns == T
    assert trajectory.positions.shape == (HORIZON + 2, 2)
    np.testing.assert_allclose(trajectory.start_position, [0.1, 0.2], atol=1e-7)
    assert (trajectory.velocities[:HORIZON] == 0.5).all()
    assert (trajectory.velocities[-1] == 0).all()


def test_without_an_observation_nothing_is_made_and_the_policy_is_not_asked() -> None:
    policy = FakePolicy()
    controller = make_controller(policy, T)
    with pytest.raises(ObservationRefused) as refused:
        make(controller, T + PERIOD_NS)
    assert refused.value.reason is ObservationReason.STALE_JOINTS
    assert not policy.asked


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, ChunkReason.NON_FINITE), (2.6, ChunkReason.VELOCITY_LIMIT), (30.0, ChunkReason.JUMP)],
)
def test_chunk_out_of_limits_is_refused_and_counted(value: float, reason: ChunkReason) -> None:
    controller = make_controller(FakePolicy(value=value), T)
    for count in (1, 2):
        with pytest.raises(ChunkRefused) as refused:
            make(controller, T)
        assert refused.value.reason is reason
        assert controller.refused == {reason: count}


@pytest.mark.parametrize("action", ["velocity", "position", "delta_position"])
@pytest.mark.parametrize("seed", range(10))
def test_exploration_is_varied_motion_inside_the_limits_whatever_an_action_is(action: str, seed: int) -> None:
    policy = FakePolicy(action)
    first, second = (make(make_controller(policy, T, seed=seed), T, exploration=1.0).trajectory for _ in range(2))
    assert not policy.asked
    np.testing.assert_array_equal(first.velocities, second.velocities)
    assert np.abs(first.velocities).max() <= 2.5 * (1 + 1e-6)
    assert np.ptp(first.velocities[:HORIZON], axis=0).min() > 0
    np.testing.assert_allclose(first.start_position, [0.1, 0.2], atol=0.26)
    np.testing.assert_allclose(np.diff(first.positions, axis=0), first.velocities[1:] * 0.1, atol=1e-6)


def test_exploration_fraction_is_the_share_of_explored_chunks() -> None:
    policy = FakePolicy()
    controller = make_controller(policy, T)
    for _ in range(400):
        try:
            make(controller, T, exploration=0.25)
        except ChunkRefused:
            continue
    assert 250 < len(policy.asked) < 350


def test_explored_chunk_passes_the_same_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        "vla_align_ros.action.controller.check_chunk", lambda *given: seen.append(given) or check_chunk(*given)
    )
    make(make_controller(None, T), T, exploration=1.0)
    assert len(seen) == 1


# --- late, and holding ---


def test_chunks_in_time_are_never_late() -> None:
    ticks = [T + k * EXECUTE * PERIOD_NS for k in range(5)]
    controller = make_controller(None, *ticks)
    for tick in ticks:
        controller.tick(tick)
        send(controller, tick)
    assert (controller.late, controller.queue.ran_dry) == (0, 0)


def test_chunk_after_the_queue_ran_empty_is_late_also_when_nobody_looked_meanwhile() -> None:
    controller = make_controller(None, T, T + EXECUTE * PERIOD_NS)
    send(controller, T)
    assert controller.queue.command_at(T) is not None
    send(controller, T + EXECUTE * PERIOD_NS, latency_ns=EXECUTE * PERIOD_NS)
    assert (controller.late, controller.queue.ran_dry) == (1, 1)


def test_first_chunk_and_the_first_after_a_hold_are_not_late() -> None:
    much_later = T + 50 * PERIOD_NS
    controller = make_controller(None, T, much_later)
    send(controller, T, latency_ns=EXECUTE * PERIOD_NS)
    controller.hold(T + PERIOD_NS // 2)
    controller.tick(much_later)
    send(controller, much_later, latency_ns=EXECUTE * PERIOD_NS)
    assert (controller.late, controller.queue.ran_dry) == (0, 0)


def test_first_chunk_after_a_refusal_is_not_late() -> None:
    policy, second, third = FakePolicy(), T + EXECUTE * PERIOD_NS, T + 3 * EXECUTE * PERIOD_NS
    controller = make_controller(policy, T, second, third)
    send(controller, T)
    assert controller.queue.command_at(T) is not None
    policy.value = 30.0
    with pytest.raises(ChunkRefused):
        make(controller, second)
    policy.value = 0.5
    send(controller, third)
    assert (controller.late, controller.queue.ran_dry) == (0, 1)


def test_hold_is_one_point_at_the_newest_position_and_forgets_the_chunks() -> None:
    controller = make_controller(None, T)
    controller.tick(T)
    send(controller, T)
    hold = controller.hold(T + PERIOD_NS // 2)
    np.testing.assert_allclose(hold.positions, [[0.1, 0.2]], atol=1e-7)
    assert (hold.velocities == 0).all()
    assert hold.stamp_ns == T + PERIOD_NS // 2
    assert controller.queue.command_at(T + PERIOD_NS) is None
    assert controller.tick(T) == T, "the tick may be used again"


@pytest.mark.parametrize("after_ns", [PERIOD_NS // 4, 2 * PERIOD_NS])
def test_hold_lets_a_gripper_keep_what_it_holds(after_ns: int) -> None:
    policy = FakePolicy("position", value=0.3)
    arm, gripper = Joint((-3.0, 3.0), 2.5), Joint((-3.0, 3.0), 2.5, may_be_blocked=True)
    policy.config.robot = a_robot("position", joint=[arm, gripper])
    controller = make_controller(policy, T)
    send(controller, T)
    move(controller._assembler, T + after_ns, (0.1, 0.2))
    hold = controller.hold(T + after_ns)
    np.testing.assert_allclose(hold.positions, [[0.1, 0.3]], atol=1e-7)
    move(controller._assembler, T + 3 * PERIOD_NS, (0.1, 0.2))
    assert controller.hold(T + 3 * PERIOD_NS) is None, "nothing was sent since, and what grips is not known"


def test_hold_needs_to_know_where_the_arm_is() -> None:
    assert make_controller().hold(T) is None, "nothing was sent"
    controller = make_controller(None, T)
    send(controller, T)
    with pytest.raises(ObservationRefused, match="stale_joints"):
        controller.hold(T + PERIOD_NS)
    assert controller.queue.command_at(T + PERIOD_NS) is None, "what was queued is forgotten all the same"
    move(controller._assembler, T + PERIOD_NS, (0.1, 0.2))
    assert controller.hold(T + PERIOD_NS) is not None, "the chunk that was sent may still run"


# --- excitation ---


def excited_controller(action: str = "position", seconds: float = 2.0) -> tuple[Controller, FakePolicy, Excitation]:
    """It has sent a chunk at T, by which the arm stays where it is."""
    policy, excitation = FakePolicy(action, value=HERE), Excitation(seconds, 0.1)
    controller = make_controller(policy, T)
    controller.tick(T)
    send(controller, T)
    controller.excite(excitation)
    return controller, policy, excitation


def seen_at(controller: Controller, tick_ns: int, position: tuple[float, float] = HERE) -> None:
    move(controller._assembler, tick_ns, position)
    image = encode_image(np.full((8, 8, 3), tick_ns // PERIOD_NS % 251, np.uint8), tick_ns)
    controller._assembler.push_image("front", image, IMAGE, tick_ns)


def run_until(controller: Controller, over: Callable[[int], bool], follows: bool = True) -> list[ActionChunk]:
    """Tick by tick, of an arm that is where it was sent by each tick, until `over` the tick; the chunks that came."""
    tick, chunks, here = T, [], HERE
    while not over(tick):
        tick += PERIOD_NS
        if chunks and follows:
            row = (tick - chunks[-1].stamp_ns) // PERIOD_NS - 1
            here = tuple(chunks[-1].actions[min(row, HORIZON - 1)])
        seen_at(controller, tick, here)
        if controller.tick(tick) is not None:
            published = make(controller, tick)
            controller.sent(published, tick)
            chunks.append(published.chunk)
    return chunks


def test_an_excitation_begins_when_the_chunk_that_runs_has_come_to_rest_and_is_followed_by_the_policy() -> None:
    controller, policy, excitation = excited_controller()
    with pytest.raises(ValueError, match="excited already"):
        controller.excite(Excitation(1.0, 0.1))
    chunks = run_until(controller, lambda tick: excitation.over)
    rest_ns = T + (HORIZON + 2) * PERIOD_NS
    assert excitation.begin_ns >= rest_ns + 0.5e9
    assert excitation.until_ns == excitation.begin_ns + 20 * PERIOD_NS
    assert not excitation.problem
    assert policy.asked == [10, 10], "before and after, and not meanwhile"
    moved = np.concatenate([chunk.actions[:EXECUTE] for chunk in chunks[:-1]])
    assert 0.03 < np.abs(moved - HERE).max() <= 0.1 + 1e-6
    np.testing.assert_array_equal(chunks[-2].actions[-1], np.float32(HERE))
    assert (controller.late, controller.queue.ran_dry) == (0, 0)


def test_an_arm_that_does_not_stand_is_not_excited() -> None:
    controller, policy, excitation = excited_controller()
    tick = T + 40 * PERIOD_NS
    seen_at(controller, tick - 5 * PERIOD_NS, (0.1, 0.4))
    seen_at(controller, tick)
    assert controller.tick(tick) == tick
    make(controller, tick)
    assert excitation.over
    assert excitation.problem == "elbow moved by 0.2 rad in 0.5 s, by no command of this node"
    assert policy.asked == [10, 10]


def test_a_hold_ends_an_excitation_and_what_was_being_made_does_not_go_out_behind_it() -> None:
    controller, _, excitation = excited_controller()
    run_until(controller, lambda tick: excitation.begin_ns > 0)
    tick = excitation.begin_ns + EXECUTE * PERIOD_NS
    seen_at(controller, tick)
    published = make(controller, tick)
    assert not controller.outdated(published)
    controller.hold(tick + PERIOD_NS // 4)
    assert excitation.over
    assert excitation.until_ns == tick + PERIOD_NS // 4
    assert controller.outdated(published)


@pytest.mark.parametrize("fault", ["stale joints", "late", "clock"])
def test_what_goes_wrong_ends_an_excitation_with_a_sentence(fault: str) -> None:
    controller, _, excitation = excited_controller()
    run_until(controller, lambda tick: excitation.begin_ns > 0)
    tick = excitation.begin_ns + (EXECUTE if fault == "stale joints" else 30) * PERIOD_NS
    excitation.until_ns += 100 * PERIOD_NS
    if fault == "stale joints":
        with pytest.raises(ObservationRefused, match="stale_joints"):
            make(controller, tick)
        assert excitation.problem.startswith("stale_joints")
    elif fault == "late":
        seen_at(controller, tick)
        make(controller, tick)
        assert "a chunk came after" in excitation.problem
    else:
        controller.tick(T - 100 * PERIOD_NS)
        assert excitation.problem == "the clock fell back"
    assert controller.excitation is None
