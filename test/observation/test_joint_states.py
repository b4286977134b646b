"""JointState messages -> the state, by name: any joints, in any messages, from any topics, with any prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.observation.assemble import AssemblerLimits, ObservationAssembler, ObservationRefused
from vla_align_ros.observation.codecs import MessageReason, MessageRefused, encode_joint_state
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.robot.description import Entry, RobotDescription, StateField, load_description

EXAMPLES = sorted((Path(__file__).parents[2] / "config" / "robots").glob("*.yaml"))
NAMES = ("shoulder", "elbow")
MS = 1_000_000
T0 = 1_700_000_000_000 * MS
LIMITS = AssemblerLimits(0.5, 0.2, frozen_s=0.2, history_s=3.0, stamp_ahead_max_s=0.2)
READER = JointStateReader(a_robot().state)
# position and velocity of the shoulder, effort of the elbow: what a message must have depends on its names
MIXED = JointStateReader(
    (
        StateField(joint="elbow", entry="effort", name="load"),
        StateField(joint="shoulder"),
        StateField(joint="shoulder", entry="velocity", name="speed"),
        StateField(joint="elbow"),
    )
)


def message(
    names: list[str] | tuple[str, ...], position: Any = (), velocity: Any = (), effort: Any = (), stamp_ns: int = T0
) -> bytes:
    return encode_joint_state(names, position, stamp_ns, velocity, effort)


def assembler(robot: RobotDescription) -> ObservationAssembler:
    return ObservationAssembler(robot, tuple(robot.cameras), 8, LIMITS, str)


@given(st.integers(1, (2**31 - 1) * 10**9), st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=2))
def test_joints_survive_the_wire(stamp_ns: int, position: list[float]) -> None:
    read = READER.read(message(NAMES, position, stamp_ns=stamp_ns))
    assert (read.stamp_ns, read.values.tolist(), read.values.dtype) == (stamp_ns, position, np.float32)
    assert not read.values.flags.writeable


def test_every_field_reads_its_entry_of_its_joint() -> None:
    raw = message(["wheel", "elbow", "shoulder"], [np.nan, 2.0, 1.0], [9.0, np.nan, 3.0], [np.inf, 4.0, np.nan])
    read = MIXED.read(raw)
    assert read.layout.columns == (0, 1, 2, 3)
    assert read.values.tolist() == [4.0, 1.0, 3.0, 2.0]
    assert read.values[read.layout.positions].tolist() == [1.0, 2.0], "by which motion is told"
    part = MIXED.read(message(["elbow"], [2.0], effort=[4.0]))
    assert (part.layout.columns, part.values.tolist()) == ((0, 3), [4.0, 2.0])


def test_a_message_may_hold_some_of_the_joints_or_none_whatever_else_is_in_it() -> None:
    some = READER.read(message(["wheel", "elbow"], [np.inf, 2.0]))
    assert (some.layout.columns, some.values.tolist()) == ((1,), [2.0])
    for raw in (message(["wheel", "wheel"], [1.0, 1.0]), message(["wheel"])):
        assert READER.read(raw).layout.columns == ()


def test_what_no_field_reads_does_not_matter() -> None:
    assert READER.read(message(NAMES, [1.0, 2.0], effort=[np.nan] * 3)).values.tolist() == [1.0, 2.0]
    speed = JointStateReader([StateField(joint="elbow", entry="velocity")])
    assert speed.read(message(["elbow"], velocity=[5.0])).values.tolist() == [5.0]


@pytest.mark.parametrize(
    ("reader", "raw", "reason", "sentence"),
    [
        (READER, message([*NAMES, "elbow"], [1, 2, 3]), MessageReason.DUPLICATE_JOINT, "elbow"),
        (READER, message(NAMES), MessageReason.EMPTY_POSITION, r"2 names and no position; .* of \['shoulder', 'elbow'"),
        (READER, message([]), MessageReason.EMPTY_POSITION, "0 names and no position"),
        (READER, message([], [1.0]), MessageReason.LENGTH_MISMATCH, "one position a name, got 1 for 0"),
        (READER, message(NAMES, [1.0]), MessageReason.LENGTH_MISMATCH, "one position a name, got 1 for 2"),
        (READER, message(NAMES, [1.0, np.nan]), MessageReason.NON_FINITE, "the position of elbow is NaN"),
        (READER, message(NAMES, [1.0, -np.inf]), MessageReason.NON_FINITE, "elbow"),
        (READER, message(NAMES, [1.0, 1e300]), MessageReason.NON_FINITE, "elbow"),
        (READER, message(NAMES, [1.0, 1.0], stamp_ns=0), MessageReason.BAD_STAMP, "header.stamp"),
        (
            MIXED,
            message(NAMES, [1, 2], effort=[1, 2]),
            MessageReason.EMPTY_VELOCITY,
            r"2 names and no velocity; the state reads that of \['shoulder'\]",
        ),
        (MIXED, message(["elbow"], [2.0]), MessageReason.EMPTY_EFFORT, "no effort; the state reads that of"),
        (MIXED, message(["elbow"], [2.0], effort=[1, 2]), MessageReason.LENGTH_MISMATCH, "one effort a name"),
        (MIXED, message(["elbow"], [2.0], effort=[np.nan]), MessageReason.NON_FINITE, "the effort of elbow is NaN"),
    ],
)
def test_a_bad_joint_state_is_refused_with_what_was_expected(
    reader: JointStateReader, raw: bytes, reason: MessageReason, sentence: str
) -> None:
    with pytest.raises(MessageRefused, match=sentence) as caught:
        reader.read(raw)
    assert caught.value.reason is reason


@st.composite
def splits(draw: st.DrawFn) -> tuple[RobotDescription, list[tuple[str, list[str]]]]:
    """A robot, and how its joints come: (prefix, names on the wire), one a message."""
    prefixes = draw(st.lists(st.sampled_from(["", "left/", "right_", "a/b/"]), min_size=1, max_size=3, unique=True))
    joints = [
        f"{prefix}{name}"
        for prefix in prefixes
        for name in draw(st.lists(st.sampled_from(["waist", "elbow", "finger", "x"]), min_size=1, unique=True))
    ]
    entries: list[Entry] = ["position", "velocity", "effort"]
    more = draw(st.lists(st.tuples(st.sampled_from(joints), st.sampled_from(entries[1:])), unique=True, max_size=4))
    fields = draw(st.permutations([*((name, "position") for name in joints), *more]))
    sources = [{"topic": f"topic_{number}", "prefix": prefix} for number, prefix in enumerate(prefixes)]
    robot = a_robot(
        names=joints,
        state=tuple(StateField(joint=name, entry=entry, name=f"{name}.{entry}") for name, entry in fields),
        joint_states=sources,
    )
    parts: dict[tuple[str, int], list[str]] = {}
    for name in draw(st.permutations(joints)):
        prefix = draw(st.sampled_from([prefix for prefix in prefixes if name.startswith(prefix)]))
        parts.setdefault((prefix, draw(st.integers(0, 2))), []).append(name.removeprefix(prefix))
    extra = st.lists(st.sampled_from(["wheel_1", "wheel_2", "mimic"]), unique=True)
    messages = [(prefix, draw(st.permutations([*names, *draw(extra)]))) for (prefix, _), names in parts.items()]
    return robot, draw(st.permutations(messages))


@given(splits(), st.integers(0, 2**32 - 1))
def test_any_split_into_messages_topics_orders_and_prefixes_gives_the_same_state(
    split: tuple[RobotDescription, list[tuple[str, list[str]]]], seed: int
) -> None:
    robot, messages = split
    rng = np.random.default_rng(seed)
    truth: dict[str, dict[str, float]] = {
        name: {entry: float(np.float32(rng.normal())) for entry in ("position", "velocity", "effort")}
        for name in robot.joints
    }
    seen = assembler(robot)
    for prefix, names in messages:
        known = [truth.get(f"{prefix}{name}", {}) for name in names]
        arrays = {entry: [each.get(entry, np.nan) for each in known] for entry in ("position", "velocity", "effort")}
        seen.push_joints(message(names, **arrays), T0, prefix)
    expected = [truth[field.joint][field.entry] for field in robot.state]
    assert seen.measured(T0).tolist() == expected == seen.joints_at(T0).tolist()
    assert robot.measured(seen.measured(T0)).tolist() == [truth[name]["position"] for name in robot.action_joints]
    assert not seen.refused


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_state_of_every_example_comes_from_its_own_topics(path: Path) -> None:
    robot = load_description(path)
    seen = assembler(robot)
    where = {name: 0.1 * number for number, name in enumerate(robot.joints)}
    for source in robot.joint_states:
        with pytest.raises(ObservationRefused, match="no joint state of"):
            seen.measured(T0)
        names = ["mimic_joint", *robot.names_on(source)[::-1]]
        position = [where.get(source.prefix + name, np.nan) for name in names]
        seen.push_joints(message(names, position), T0, source.prefix)
    np.testing.assert_allclose(seen.measured(T0), [where[field.joint] for field in robot.state], atol=1e-6)
    np.testing.assert_allclose(
        robot.measured(seen.measured(T0)), [where[name] for name in robot.action_joints], atol=1e-6
    )


def test_two_arms_of_equal_joint_names_are_told_apart_and_each_may_go_stale_by_itself() -> None:
    robot = load_description(EXAMPLES[0])  # aloha_bimanual
    seen = assembler(robot)
    names = robot.names_on(robot.joint_states[0])
    assert names == robot.names_on(robot.joint_states[1])
    for prefix, value in (("left/", 1.0), ("right/", 2.0)):
        seen.push_joints(message(names, np.full(7, value)), T0, prefix)
    assert seen.measured(T0).tolist() == [1.0] * 7 + [2.0] * 7
    seen.push_joints(message(names, np.full(7, 3.0), stamp_ns=T0 + 150 * MS), T0 + 150 * MS, "left/")
    with pytest.raises(ObservationRefused, match=r"stale_joints.*right/waist") as caught:
        seen.joints_at(T0 + 250 * MS)
    assert "left/waist" not in str(caught.value)
    _, values = seen.diagnose(T0 + 150 * MS)
    assert {"arrival_delay_ms.joints.left/", "arrival_delay_ms.joints.right/", "age_ms.joints"} == set(values)


def test_joints_under_a_wrong_prefix_are_named_with_it() -> None:
    seen = assembler(load_description(EXAMPLES[0]))
    seen.push_joints(message(["waist"], [1.0]), T0)
    with pytest.raises(ObservationRefused, match=r"A joint state names \['waist'\]"):
        seen.measured(T0)
    seen.push_joints(message(["left/waist"], [1.0]), T0, "left/")
    with pytest.raises(ObservationRefused, match=r"A joint state names \['left/left/waist'\]"):
        seen.measured(T0)


@pytest.mark.parametrize(("entry", "moved"), [("velocity", False), ("effort", False), ("position", True)])
def test_only_positions_tell_that_a_joint_has_moved(entry: Entry, moved: bool) -> None:
    robot = a_robot(
        names=["elbow"],
        state=(StateField(joint="elbow"), StateField(joint="elbow", entry="effort", name="load"))
        if entry == "effort"
        else (StateField(joint="elbow"), StateField(joint="elbow", entry="velocity", name="speed")),
    )
    seen = assembler(robot)
    for number in range(10):
        arrays = {name: [float(number) if name == entry else 0.0] for name in ("position", "velocity", "effort")}
        seen.push_joints(message(["elbow"], stamp_ns=T0 + number * MS, **arrays), T0 + number * MS)
    assert (seen._joints.moved_ns(T0 + 10 * MS) > 0) is moved
