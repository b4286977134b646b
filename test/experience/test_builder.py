from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import a_robot
from simulated_run import (
    HORIZON,
    JOINTS,
    JOINTS_TOPIC,
    LAG_S,
    MS,
    PERIOD_NS,
    ROBOT,
    STRIDE,
    T0,
    TOPICS,
    Sent,
    chunk_message,
    eventful_run,
    feed,
    new_pipeline,
    same,
    sensor_messages,
)

from vla_align_ros.action.trajectory import hold_trajectory
from vla_align_ros.experience.builder import ExperienceBuilder, ExperienceReason, joint_held
from vla_align_ros.observation.assemble import (
    AssemblerLimits,
    ObservationAssembler,
    ObservationReason,
)
from vla_align_ros.observation.codecs import (
    MessageReason,
    MessageRefused,
    encode_string,
    encode_trajectory,
)
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.robot.description import ActionKind, Joint
from vla_align_ros.types import Experience, Trajectory

READER = JointStateReader(ROBOT.state)


def run(
    messages: list[Sent], until_ms: int, action_kind: str = "velocity"
) -> tuple[list[Experience], ExperienceBuilder]:
    """Every message arrives at its stamp, time moves on with them."""
    assembler, builder = new_pipeline(action_kind)
    assembler.push_prompt("red", T0)
    made = []
    for sent in sorted(messages, key=lambda sent: sent.stamp_ns):
        made += builder.advance(sent.stamp_ns)
        feed(assembler, builder, sent, sent.stamp_ns)
    return made + builder.advance(T0 + until_ms * MS), builder


def ticks(made: list[Experience]) -> list[int]:
    return [(item.observation.stamp_ns - T0) // PERIOD_NS for item in made]


def test_commands_cross_chunk_seams_and_come_from_the_newest_chunk_that_has_started() -> None:
    sensors = sensor_messages(0, 3000)
    made, _ = run([*sensors, chunk_message(0, 100), chunk_message(3, 200), chunk_message(6, 300)], 2999)
    assert ticks(made)[:4] == [0, 2, 4, 6]
    firsts = [item.commands[:, 0].tolist() for item in made]
    assert firsts[:3] == [[100, 101, 102, 200], [102, 200, 201, 202], [201, 202, 300, 301]]
    assert all(item.commands.shape == (HORIZON, 2) and item.commands.dtype == np.float32 for item in made)
    assert all(item.next_observation.stamp_ns - item.observation.stamp_ns == HORIZON * PERIOD_NS for item in made)


def test_the_ramp_is_a_command_and_after_it_there_is_none() -> None:
    made, builder = run([*sensor_messages(0, 3000), chunk_message(0, 1)], 2999)
    assert ticks(made) == [0, 2, 4, 6]  # 8 actions and 2 ramp points: the last four commands start at 6
    assert made[-1].commands[:, 0].tolist() == [7, 8, 4, 0]
    assert builder.skipped == {ExperienceReason.NO_COMMAND: 1}  # tick 8


def test_a_hold_takes_over_at_its_stamp() -> None:
    sensors = sensor_messages(0, 3000)
    stamp_ns = T0 + 5 * PERIOD_NS
    raw = [sent.raw for sent in sensors if sent.topic == JOINTS_TOPIC and sent.stamp_ns <= stamp_ns][-1]
    hold = hold_trajectory(READER.read(raw).values, stamp_ns, PERIOD_NS, JOINTS)
    sent = Sent(TOPICS.command, stamp_ns, encode_trajectory(hold))
    made, _ = run([*sensors, chunk_message(0, 1), sent], 2999)
    assert ticks(made) == [0, 2]
    np.testing.assert_allclose(made[-1].commands[:, 0], [3, 4, 5, 0], atol=1e-6)


def test_a_tick_is_judged_only_lag_after_its_end_and_only_once() -> None:
    assembler, builder = new_pipeline()
    assembler.push_prompt("red", T0)
    for sent in [*sensor_messages(0, 1500), chunk_message(0, 1)]:
        feed(assembler, builder, sent, sent.stamp_ns)
    complete_ns = T0 + HORIZON * PERIOD_NS + round(LAG_S * 1e9)
    assert builder.advance(complete_ns - 1) == []
    assert ticks(builder.advance(complete_ns)) == [0]
    assert builder.advance(complete_ns) == []
    assert builder.advance(complete_ns - 50 * MS) == []


def test_the_latest_word_replaces_what_was_sent_for_its_time() -> None:
    assembler, builder = new_pipeline()
    for sent in [Sent(TOPICS.prompt, T0, encode_string("red")), *sensor_messages(0, 1500)]:
        feed(assembler, builder, sent, sent.stamp_ns)
    for tick, first in ((0, 100), (6, 200), (3, 300), (3, 400)):
        chunk = chunk_message(tick, first)
        builder.push_command(chunk.raw, chunk.stamp_ns)
    made = builder.advance(T0 + 1450 * MS)
    assert [item.commands[:, 0].tolist() for item in made[1:4]] == [
        [102, 400, 401, 402],
        [401, 402, 403, 404],
        [403, 404, 405, 406],
    ]


def test_one_late_advance_gives_what_many_give() -> None:
    messages = [*sensor_messages(0, 1500), chunk_message(0, 1), chunk_message(3, 2)]
    many, _ = run(messages, 1450)
    assembler, builder = new_pipeline()
    assembler.push_prompt("red", T0)
    for sent in messages:
        feed(assembler, builder, sent, sent.stamp_ns)
    once = builder.advance(T0 + 1450 * MS)
    assert len(many) == len(once) == 4
    assert all(same(one, other) for one, other in zip(many, once, strict=True))


def test_changes_of_position_count_from_the_experiences_own_observation() -> None:
    chunks = [chunk_message(0, 1), chunk_message(3, 2)]
    sensors = sensor_messages(0, 3000)
    absolute, _ = run([*sensors, *chunks], 2999, "position")
    changes, _ = run([*sensors, *chunks], 2999, "delta_position")
    for one, other in zip(absolute, changes, strict=True):
        np.testing.assert_allclose(other.commands, one.commands - one.observation.state, atol=1e-6)


def test_neighbours_share_their_observation() -> None:
    made, _ = run([*sensor_messages(0, 3000), chunk_message(0, 1)], 2999)
    assert made[0].next_observation is made[2].observation


def test_a_change_of_prompt_starts_an_episode_and_no_experience_spans_it() -> None:
    made, builder = run(eventful_run(), 5999)
    changed_ns = T0 + 1450 * MS
    for item in made:
        assert (item.observation.stamp_ns >= changed_ns) == (item.next_observation.stamp_ns >= changed_ns)
    red = {item.episode for item in made if item.observation.prompt == "red"}
    blue = {item.episode for item in made if item.observation.prompt == "blue"}
    assert red == {0}
    assert blue == {1, 2}  # the pause of the policy makes a third episode
    assert builder.skipped[ExperienceReason.PROMPT_CHANGED] == 2


@pytest.mark.parametrize(("second_tick", "episodes"), [(16, {0}), (18, {0, 1})])
def test_a_gap_over_a_second_starts_an_episode(second_tick: int, episodes: set[int]) -> None:
    made, _ = run([*sensor_messages(0, 6000), chunk_message(0, 1), chunk_message(second_tick, 1)], 5999)
    assert ticks(made)[3:5] == [6, second_tick]  # 10 and 12 ticks of 0.1 s apart
    assert {item.episode for item in made} == episodes


def test_a_refused_observation_costs_the_experiences_that_need_it() -> None:
    silent = range(T0 + 900 * MS, T0 + 1500 * MS)
    sensors = [sent for sent in sensor_messages(0, 3000) if sent.topic != JOINTS_TOPIC or sent.stamp_ns not in silent]
    made, builder = run([*sensors, *(chunk_message(tick, 1) for tick in range(0, 28, 4))], 2999)
    assert not {10, 12, 14} & {tick + offset for tick in ticks(made) for offset in (0, HORIZON)}
    assert {8 - HORIZON, 16} <= set(ticks(made))
    assert builder.skipped[ObservationReason.STALE_JOINTS] == 3


def test_while_a_joint_is_held_nothing_is_learned_and_the_episode_goes_on() -> None:
    chunks = [chunk_message(tick, 1) for tick in range(0, 48, 4)]
    made, builder = run([*sensor_messages(0, 5000, held_ms=range(800, 3000)), *chunks], 4999)
    assert not set(ticks(made)) & set(range(10, 28)), "the shoulder was asked for 1 rad/s and more, and stood still"
    assert {8, 28} <= set(ticks(made)), "it moved for a part of the time"
    assert builder.skipped == {ExperienceReason.JOINT_HELD: 9}
    assert {item.episode for item in made} == {0}


@pytest.mark.parametrize(
    ("action", "commands"),
    [("velocity", [0.5, -0.1]), ("position", [0.5, 0.2]), ("delta_position", [0.4, 0.0])],
)
def test_a_joint_that_was_asked_to_go_far_and_stood_still_was_held(action: ActionKind, commands: list[float]) -> None:
    made, _ = run([*sensor_messages(0, 3000), chunk_message(0, 1)], 2999)
    seen = dataclasses.replace(made[0].observation, state=np.array([0.1, 0.2], np.float32))
    rows = np.tile(np.array(commands, np.float32), (8, 1))

    def held(*state: float) -> bool:
        after = dataclasses.replace(made[0].next_observation, state=np.array(state, np.float32))
        return joint_held(Experience(seen, rows, after, 0), a_robot(action))

    assert held(0.1, 0.9)
    assert not held(0.15, 0.2)
    assert not held(np.nan, 0.2)


def test_what_is_far_for_a_slide_is_said_in_metres_and_the_states_order_does_not_matter() -> None:
    slide, hinge = Joint((0.0, 1.0), 0.5, unit="m"), Joint((-3.0, 3.0), 2.5)
    robot = a_robot("position", ("slide", "hinge"), (slide, hinge))
    robot = dataclasses.replace(robot, state=robot.state[::-1])
    made, _ = run([*sensor_messages(0, 3000), chunk_message(0, 1)], 2999)

    def held(hinge: float, slide: float, goal: float) -> bool:
        before, after = (
            dataclasses.replace(made[0].observation, state=np.array(state, np.float32))
            for state in ([0.0, 0.1], [hinge, slide])
        )
        return joint_held(Experience(before, np.full((8, 2), [goal, 0.9], np.float32), after, 0), robot)

    assert held(0.9, 0.1, goal=0.2)
    assert not held(0.9, 0.11, goal=0.2), "it moved"
    assert not held(0.9, 0.1, goal=0.14), "not far"
    assert held(0.0, 0.2, goal=0.2), "the hinge stood still"


def test_a_joint_that_an_object_may_block_is_never_held() -> None:
    made, _ = run([*sensor_messages(0, 3000), chunk_message(0, 1)], 2999)
    stood = dataclasses.replace(made[0], next_observation=made[0].observation)
    gripper = Joint((-3.0, 3.0), 2.5, may_be_blocked=True)
    assert joint_held(stood, a_robot(joint=[gripper, Joint((-3.0, 3.0), 2.5)])), "the other one should have moved"
    assert not joint_held(stood, a_robot(joint=gripper))


def test_a_bad_chunk_is_refused_counted_and_leaves_the_others() -> None:
    _, builder = new_pipeline()
    with pytest.raises(MessageRefused):
        builder.push_command(b"\x00\x01\x00\x00", T0)
    assert builder.skipped == {MessageReason.MALFORMED: 1}


def test_while_somebody_else_commands_the_arm_there_is_no_experience() -> None:
    assembler, builder = new_pipeline()
    assembler.push_prompt("red", T0)
    other = encode_trajectory(Trajectory(0, JOINTS, np.array([550 * MS]), np.ones((1, 2))))
    chunks = [chunk_message(tick, 1) for tick in range(0, 28, 4)]
    foreign = [Sent("/other", T0 + 1010 * MS, other), Sent("/other", T0 + 1011 * MS, b"")]
    made = []
    for sent in sorted([*sensor_messages(0, 2700), *chunks, *foreign], key=lambda sent: sent.stamp_ns):
        made += builder.advance(sent.stamp_ns)
        if sent.topic == "/other":
            builder.push_foreign(sent.raw, sent.stamp_ns)
        else:
            feed(assembler, builder, sent, sent.stamp_ns)
    made += builder.advance(T0 + 2700 * MS)
    assert ticks(made) == [0, 2, 4, 6, 16, 18, 20], "theirs lasts from 1.01 to 1.56 s; the next of ours begins at 1.2 s"
    assert builder.skipped == {ExperienceReason.FOREIGN_COMMAND: 4, MessageReason.MALFORMED: 1}  # ticks 8, 10, 12, 14


def test_where_a_command_began_is_remembered_for_as_long_as_it_takes() -> None:
    """Longer than the assembler's history, which is 2 s."""
    sensors = [sent for sent in sensor_messages(0, 5000) if sent.stamp_ns >= T0]
    far = Trajectory(T0, JOINTS, np.array([4000 * MS]), np.full((1, 2), 20.0))
    made, builder = run([*sensors, Sent(TOPICS.command, T0, encode_trajectory(far))], 4999)
    assert ticks(made) == list(range(0, 38, 2))
    start = made[0].observation.state
    np.testing.assert_allclose(made[-1].commands, np.tile((20.0 - start) / 4, (4, 1)), rtol=1e-5)
    assert builder.skipped == {ExperienceReason.NO_COMMAND: 1}


def test_a_command_that_began_nobody_knows_where_gives_no_experience() -> None:
    sensors = [sent for sent in sensor_messages(0, 3000) if sent.topic != JOINTS_TOPIC or sent.stamp_ns > T0 + 500 * MS]
    far = Trajectory(T0 + 100 * MS, JOINTS, np.array([2000 * MS]), np.full((1, 2), 20.0))
    made, builder = run([*sensors, Sent(TOPICS.command, far.stamp_ns, encode_trajectory(far))], 2999)
    assert made == []
    assert builder.skipped[ObservationReason.NO_JOINTS] > 5


@pytest.mark.parametrize("back_ms", [20_000, 1_000])
def test_a_clock_that_falls_back_starts_again(back_ms: int) -> None:
    assembler, builder = new_pipeline()

    def live(offset_ms: int) -> list[Experience]:
        assembler.push_prompt("red", T0 + offset_ms * MS)
        for sent in sensor_messages(offset_ms, offset_ms + 1500, seed=offset_ms + 99_999):
            feed(assembler, builder, sent, sent.stamp_ns)
        chunk = chunk_message(offset_ms // 100, 1)
        builder.push_command(chunk.raw, chunk.stamp_ns)
        return builder.advance(T0 + (offset_ms + 1450) * MS)

    before, after = live(0), live(-back_ms)
    assert ticks(before) == [0, 2, 4, 6]
    assert ticks(after) == [tick - back_ms // 100 for tick in (0, 2, 4, 6)]
    assert builder.skipped[ExperienceReason.CLOCK_JUMP] == 1
    assert (before[-1].episode, after[0].episode) == (0, 1)


def test_years_without_messages_cost_no_time() -> None:
    assembler, builder = new_pipeline()
    for sent in [*sensor_messages(0, 1500), chunk_message(0, 1)]:
        feed(assembler, builder, sent, sent.stamp_ns)
    assert builder.advance(T0 + 10**18) == []
    assert builder.advance(T0 + 2 * 10**18) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"horizon": 0}, "horizon 0"),
        ({"stride_ticks": 0}, "stride_ticks 0"),
        ({"lag_s": math.nan}, "lag_s nan"),
        ({"horizon": 30}, "history_s must be at least 3.5"),
    ],
)
def test_senseless_numbers_are_refused(arguments: dict[str, float], message: str) -> None:
    limits = AssemblerLimits(0.2, 0.1, 1.0, 2.0, 0.2)
    assembler = ObservationAssembler(ROBOT, ("base",), 8, limits, str)
    good = {"horizon": 4, "lag_s": 0.3}
    with pytest.raises(ValueError, match=message):
        ExperienceBuilder(assembler, a_robot(), **{**good, **arguments})


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8, unique_by=lambda chunk: chunk[0]))
@settings(max_examples=40, deadline=None)
def test_every_experience_is_what_its_definition_says(chunks: list[tuple[int, int]]) -> None:
    """A second, slow reading of the definition, straight from the messages."""
    sensors = sensor_messages(0, 5000)
    sent_chunks = [chunk_message(tick, 10.0 * tick, horizon) for tick, horizon in chunks]
    made, _ = run([*sensors, *sent_chunks], 4999)
    joints = [sent for sent in sensors if sent.topic == JOINTS_TOPIC]
    images = [sent for sent in sensors if sent.topic == TOPICS.cameras["wrist"]]

    def command(tick: int) -> float | None:
        started = [chunk for chunk in chunks if chunk[0] <= tick]
        if not started:
            return None
        start, horizon = max(started)
        rows = [10.0 * start + row for row in range(horizon)]
        rows += [rows[-1] / 2, 0.0]
        return rows[tick - start] if tick - start < len(rows) else None

    newest = (4999 - round(LAG_S * 1000)) // 100 - HORIZON
    usable = {
        tick: [command(tick + step) for step in range(HORIZON)]
        for tick in range(0, newest + 1, STRIDE)
        if all(command(tick + step) is not None for step in range(HORIZON))
    }
    assert ticks(made) == list(usable)
    for item, tick in zip(made, usable, strict=True):
        np.testing.assert_allclose(item.commands[:, 0], usable[tick], atol=1e-4)
        for observation, t_ns in (
            (item.observation, T0 + tick * PERIOD_NS),
            (item.next_observation, T0 + (tick + HORIZON) * PERIOD_NS),
        ):
            state = READER.read([sent for sent in joints if sent.stamp_ns <= t_ns][-1].raw).values
            np.testing.assert_array_equal(observation.state, state)
            pixels = [sent for sent in images if sent.stamp_ns <= t_ns][-1].raw
            assert observation.images["wrist"].tobytes() in pixels  # 8 x 8 already: not resized
