from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np
import pytest
from bag_files import arrivals, write_mcap, write_metadata, write_sqlite
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import IndexType
from rosbags.rosbag2 import StoragePlugin, Writer
from simulated_run import (
    JOINTS,
    JOINTS_TOPIC,
    MS,
    PERIOD_NS,
    ROBOT,
    T0,
    TOPICS,
    TYPES,
    Sent,
    chunk_message,
    eventful_run,
    new_pipeline,
    record,
    same,
    sensor_messages,
)

from vla_align_ros.action.trajectory import hold_trajectory
from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.bag_topics import BagTopics
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.experience.recording import bag_messages, grouped
from vla_align_ros.experience.storage import BagError
from vla_align_ros.observation.assemble import ObservationReason
from vla_align_ros.observation.codecs import (
    JOINT_STATE,
    STRING,
    TYPESTORE,
    MessageReason,
    decode_trajectory,
    encode_image,
    encode_joint_state,
    encode_string,
    encode_trajectory,
)
from vla_align_ros.types import Experience, Trajectory

RUN = eventful_run()


def read(path: Path, topics: BagTopics = TOPICS) -> list[Experience]:
    return list(BagReading(path, topics, *new_pipeline()))


def recorded(path: Path, run: list[Sent] = RUN) -> Path:
    record(path, [(sent.stamp_ns, sent) for sent in run])
    return path


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return recorded(tmp_path / "bag")


def assert_all_same(some: list[Experience], others: list[Experience]) -> None:
    assert len(some) == len(others) > 10
    assert all(same(one, other) for one, other in zip(some, others, strict=True))


def test_sqlite3_bags_give_the_same(tmp_path: Path, bag: Path) -> None:
    with Writer(tmp_path / "sqlite", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=TYPESTORE) for topic, kind in TYPES.items()}
        for sent in RUN:
            writer.write(connections[sent.topic], sent.stamp_ns, sent.raw)
    assert_all_same(read(tmp_path / "sqlite"), read(bag))
    assert_all_same(read(tmp_path / "sqlite" / "sqlite.db3"), read(bag))
    (tmp_path / "sqlite" / "metadata.yaml").unlink()
    assert_all_same(read(tmp_path / "sqlite"), read(bag))


Rewrite = Callable[[Trajectory], Trajectory]


def twice_the_points(chunk: Trajectory) -> Trajectory:
    """The same motion in points of 20 Hz."""
    times_ns = np.arange(1, 2 * len(chunk.times_ns) + 1) * PERIOD_NS // 2
    velocities = np.repeat(chunk.velocities, 2, axis=0)
    start = chunk.positions[0] - chunk.velocities[0] * PERIOD_NS * 1e-9
    return replace(
        chunk,
        times_ns=times_ns,
        velocities=velocities,
        positions=start + np.cumsum(velocities, axis=0) * PERIOD_NS * 0.5e-9,
    )


def positions_from_time_0(chunk: Trajectory) -> Trajectory:
    """The same motion as another sender would write it: to start now, with a point at time 0, positions only."""
    start = chunk.positions[:1] - chunk.velocities[:1] * PERIOD_NS * 1e-9
    times_ns, positions = np.concatenate([[0], chunk.times_ns]), np.concatenate([start, chunk.positions])
    return Trajectory(0, chunk.joint_names, times_ns, positions)


def now(chunk: Trajectory) -> Trajectory:
    return replace(chunk, stamp_ns=0)


@pytest.mark.parametrize("rewrite", [twice_the_points, positions_from_time_0, now])
def test_commands_are_read_by_their_times_however_they_are_written(tmp_path: Path, bag: Path, rewrite: Rewrite) -> None:
    run = [
        replace(sent, raw=encode_trajectory(rewrite(decode_trajectory(sent.raw, JOINTS))))
        if sent.topic == TOPICS.command
        else sent
        for sent in RUN
    ]
    others, expected = read(recorded(tmp_path / "rewritten", run)), read(bag)
    assert len(others) == len(expected) > 10
    for one, other in zip(others, expected, strict=True):
        np.testing.assert_allclose(one.commands, other.commands, atol=1e-5)
        assert same(replace(one, commands=other.commands), other)


def test_a_single_mcap_file_and_a_folder_without_metadata_give_the_same(bag: Path) -> None:
    expected = read(bag)
    assert_all_same(read(bag / "bag.mcap"), expected)
    (bag / "metadata.yaml").unlink()
    assert_all_same(read(bag), expected)


def test_a_bag_split_in_many_files_is_read_in_their_order(tmp_path: Path, bag: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    size = len(RUN) // 11
    for part in range(12):
        recorded(tmp_path / f"part_{part}", RUN[part * size : (part + 1) * size if part < 11 else None])
        (tmp_path / f"part_{part}" / f"part_{part}.mcap").rename(folder / f"part_{part}.mcap")
    assert_all_same(read(folder), read(bag))


@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
def test_a_file_cut_anywhere_gives_what_is_whole(tmp_path: Path, keep: float) -> None:
    run = eventful_run(image_shape=(96, 128))
    whole = recorded(tmp_path / "whole", run)
    storage = (whole / "whole.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(storage[: int(keep * len(storage))])
    expected, got = read(whole), read(tmp_path / "cut.mcap")
    assert all(same(one, other) for one, other in zip(got, expected, strict=False))
    assert len(got) >= int(keep * len(expected)) - 8


def test_the_end_of_a_bag_whose_messages_may_be_missing_gives_nothing(bag: Path) -> None:
    last_ns = max(message.t_ns for message in bag_messages(bag))
    assert max(item.next_observation.stamp_ns for item in read(bag)) <= last_ns - 300 * MS


def test_bad_messages_cost_themselves_only_and_are_counted(tmp_path: Path, bag: Path) -> None:
    bad = [
        Sent(TOPICS.cameras["base"], T0 + 505 * MS, b"\x00\x01\x00\x00 no image"),
        Sent(TOPICS.prompt, T0 + 506 * MS, encode_string(" ")),
        Sent(TOPICS.command, T0 + 507 * MS, b""),
    ]
    run = sorted([*RUN, *bad], key=lambda sent: sent.stamp_ns)
    assembler, builder = new_pipeline()
    made = list(BagReading(recorded(tmp_path / "dirty", run), TOPICS, assembler, builder))
    assert_all_same(made, read(bag))
    assert assembler.refused[MessageReason.MALFORMED] == 1
    assert assembler.refused[ObservationReason.PROMPT_EMPTY] == 1
    assert builder.skipped[MessageReason.MALFORMED] == 1


def test_a_missing_bag_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="nowhere: no such bag"):
        read(tmp_path / "nowhere")


def test_a_folder_without_a_bag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r"no metadata\.yaml and no \.mcap"):
        read(tmp_path)


def test_missing_topics_are_named_with_the_option_to_give_and_what_the_bag_has(tmp_path: Path) -> None:
    run = [sent for sent in RUN if sent.topic != TOPICS.command]
    cameras = {"base": "/cam/image_raw", "wrist": TOPICS.cameras["wrist"]}
    topics = replace(TOPICS, cameras=cameras)
    with pytest.raises(BagError) as error:
        BagReading(recorded(tmp_path / "bag", run), topics, *new_pipeline())
    for words in (
        "camera base: no messages on /cam/image_raw, give --camera base=/base/image",
        "commands: no messages on /chunk, give --command-topic TOPIC",
        "the bag has /base/image (sensor_msgs/msg/Image, 128 messages), /joints (sensor_msgs/msg/JointState",
    ):
        assert words in str(error.value)


def test_missing_topics_of_a_torn_bag_are_named_with_what_is_missing_of_it(tmp_path: Path) -> None:
    run = [sent for sent in RUN if sent.topic != JOINTS_TOPIC]
    storage = write_mcap(tmp_path / "whole.mcap", arrivals(run)).read_bytes()
    (tmp_path / "cut.mcap").write_bytes(storage[: len(storage) // 2])
    with pytest.raises(BagError, match=r"joints: no messages on /joints.*cut\.mcap: the last"):
        read(tmp_path / "cut.mcap")


def test_a_topic_of_another_type_is_refused(tmp_path: Path) -> None:
    types = {**TYPES, TOPICS.prompt: JOINT_STATE}
    with BagRecorder(tmp_path / "bag", types) as recorder:
        for sent in RUN:
            recorder.write(sent.topic, sent.raw, sent.stamp_ns)
    with pytest.raises(BagError, match="/prompt must be std_msgs/msg/String, it is sensor_msgs/msg/JointState"):
        read(tmp_path / "bag")


def test_an_empty_bag_is_refused(tmp_path: Path) -> None:
    BagRecorder(tmp_path / "bag", {"/prompt": STRING}).close()
    with pytest.raises(BagError, match="no messages"):
        read(tmp_path / "bag")


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3", "bag.txt"])
def test_a_file_that_is_no_bag_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is not a bag, but it is long enough to look like one " * 20)
    with pytest.raises(BagError, match=name):
        read(tmp_path / name)


# Whatever way the same messages are stored, the same experiences come out ---------------------------------------------


@pytest.mark.slow
@given(st.data())
@settings(max_examples=10)
def test_any_order_split_and_chunking_of_the_same_messages_gives_the_same(data: st.DataObject) -> None:
    late_ns = data.draw(st.sampled_from([0, 40 * MS]))
    messages = arrivals(RUN, late_ns)
    burst = data.draw(st.sampled_from([1, 7, 60, len(messages)]))
    shuffle = data.draw(st.randoms(use_true_random=False)).shuffle
    written = []
    for start in range(0, len(messages), burst):
        part = messages[start : start + burst]
        shuffle(part)
        written += part
    cuts = sorted(data.draw(st.lists(st.integers(0, len(messages)), max_size=11)))
    with tempfile.TemporaryDirectory() as name:
        folder, paths = Path(name), []
        for number, (begin, end) in enumerate(zip([0, *cuts], [*cuts, len(messages)], strict=True)):
            if data.draw(st.booleans()):
                options = {
                    "use_chunking": data.draw(st.booleans()),
                    "chunk_size": data.draw(st.sampled_from([1, 3000, 10**6])),
                    "index_types": data.draw(st.sampled_from([IndexType.ALL, IndexType.CHUNK, IndexType.NONE])),
                    "use_statistics": data.draw(st.booleans()),
                }
                paths.append(write_mcap(folder / f"bag_{number}.mcap", written[begin:end], **options))
            else:
                paths.append(write_sqlite(folder / f"bag_{number}.db3", written[begin:end]))
        (group,) = grouped(paths)
        assert_all_same(list(BagReading(group, TOPICS, *new_pipeline())), experiences_when(late_ns))


@cache
def experiences_when(late_ns: int) -> list[Experience]:
    with tempfile.TemporaryDirectory() as name:
        return read(write_mcap(Path(name) / "plain.mcap", arrivals(RUN, late_ns)))


# Two clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset_s", [-1.7e9, -2.0, -0.5, -0.06, 0.5, 2.0, 3600.0])
def test_a_recorder_with_another_clock_gives_the_same_and_is_said_to_have_one(tmp_path: Path, offset_s: float) -> None:
    reading = BagReading(write_mcap(tmp_path / "a.mcap", arrivals(RUN, round(offset_s * 1e9))), TOPICS, *new_pipeline())
    assert_all_same(list(reading), experiences_when(0))
    word = "later" if offset_s > 0 else "earlier"
    assert f"/joints was received {abs(offset_s):.3f} s {word}" in reading.summary.notes[0]
    assert {topic.age_s for topic in reading.summary.topics if topic.age_s is not None} == {0.0}


@pytest.mark.parametrize("rate", [0.5, 0.9, 3.0])
def test_a_recorder_beside_a_simulation_that_is_slower_or_faster_gives_nearly_all(tmp_path: Path, rate: float) -> None:
    received = [(round(T0 + 5e8 + (sent.stamp_ns - T0) / rate), sent) for sent in RUN]
    made = read(write_mcap(tmp_path / "a.mcap", received))
    assert all(same(one, other) for one, other in zip(made, experiences_when(0), strict=False))
    assert len(made) >= len(experiences_when(0)) - 1


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("offset_s", [-3600.0, -3.0, 3.0, 3600.0])
def test_a_recorders_clock_that_is_set_meanwhile_costs_a_few_experiences_at_most(
    tmp_path: Path, offset_s: float, share: float
) -> None:
    """By NTP, say: the stamps, of another computer, go on."""
    place = round(share * len(RUN))
    received = [(sent.stamp_ns + round(offset_s * 1e9) * (number >= place), sent) for number, sent in enumerate(RUN)]
    made = read(write_mcap(tmp_path / "a.mcap", received))
    whole = {item.observation.stamp_ns: item for item in experiences_when(0)}
    assert len(made) >= len(whole) - (5 if offset_s > 0 else 0)
    for item in made:
        assert np.array_equal(item.commands, whole[item.observation.stamp_ns].commands)
        assert np.array_equal(item.next_observation.state, whole[item.observation.stamp_ns].next_observation.state)


@pytest.mark.parametrize("offset_s", [-3600, -2, 2, 3600])
def test_other_joints_on_the_same_topic_may_have_a_clock_of_their_own(tmp_path: Path, offset_s: int) -> None:
    """As live: they are passed over."""
    messages = arrivals(RUN)
    for t_ns, sent in arrivals(RUN):
        if sent.topic == JOINTS_TOPIC:
            raw = encode_joint_state(("wheel", f"left_{JOINTS[0]}"), np.zeros(2), t_ns + offset_s * 10**9)
            messages.append((t_ns + 1, Sent(JOINTS_TOPIC, t_ns, raw)))
    reading = BagReading(write_mcap(tmp_path / "a.mcap", sorted(messages, key=itemgetter(0))), TOPICS, *new_pipeline())
    assert_all_same(list(reading), experiences_when(0))
    assert reading.summary.notes == []


def test_a_recorder_on_the_same_machine_is_believed(tmp_path: Path) -> None:
    reading = BagReading(write_mcap(tmp_path / "a.mcap", arrivals(RUN, 30 * MS)), TOPICS, *new_pipeline())
    assert list(reading)
    assert reading.summary.notes == []
    assert {round(topic.age_s or 0.03, 6) for topic in reading.summary.topics} == {0.03}


def test_a_camera_with_a_clock_of_its_own_is_named(tmp_path: Path) -> None:
    topic = TOPICS.cameras["wrist"]
    run = [(sent.stamp_ns - (2000 * MS if sent.topic == topic else 0), sent) for sent in RUN]
    reading = BagReading(write_mcap(tmp_path / "a.mcap", run), TOPICS, *new_pipeline())
    list(reading)
    assert "camera wrist: the stamps are 2.000 s ahead of /joints's" in reading.summary.notes[0]
    run = [(sent.stamp_ns + (2000 * MS if sent.topic == topic else 0), sent) for sent in RUN]
    reading = BagReading(write_mcap(tmp_path / "b.mcap", run), TOPICS, *new_pipeline())
    list(reading)
    assert "camera wrist: the stamps are 2.000 s old when they come" in reading.summary.notes[0]


# Reasons --------------------------------------------------------------------------------------------------------------


def test_the_summary_says_what_was_refused_and_what_was_left_out_and_why(tmp_path: Path) -> None:
    camera = TOPICS.cameras["base"]
    zero = [
        Sent(camera, sent.stamp_ns, encode_image(np.zeros((8, 8, 3), np.uint8), 0))
        for sent in RUN
        if sent.topic == camera
    ]
    run = sorted([*(sent for sent in RUN if sent.topic != camera), *zero], key=lambda sent: sent.stamp_ns)
    reading = BagReading(recorded(tmp_path / "bag", run), TOPICS, *new_pipeline())
    assert list(reading) == []
    summary = reading.summary
    base = next(topic for topic in summary.topics if topic.topic == camera)
    assert (base.messages, base.declared, base.refused) == (len(zero), len(zero), {"bad_stamp": len(zero)})
    assert "header.stamp is 0 s 0 ns" in base.first["bad_stamp"]
    assert summary.experiences == 0
    assert summary.left_out["no_image"] > 10
    assert "at the end of the bag: no_image: camera 'base' has sent no image" in summary.notes[-1]
    text = "\n".join(summary.lines())
    for words in (
        f"camera base: {camera} (sensor_msgs/msg/Image), {len(zero)} messages, {len(zero)} refused",
        f"{len(zero)} bad_stamp, the first: bad_stamp: header.stamp is 0 s 0 ns",
        "1 non_finite, the first: non_finite: the position of shoulder is NaN",
        "experiences: 0; left out: ",
    ):
        assert words in text
    assert json.loads(json.dumps(summary.to_json()))["topics"][0]["refused"] == {"bad_stamp": len(zero)}


def test_messages_that_the_bag_should_have_are_counted_by_topic(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    write_mcap(folder / "bag_0.mcap", arrivals(RUN))
    counts = dict(Counter(sent.topic for sent in RUN))
    write_metadata(folder, ["bag_0.mcap", "bag_1.mcap"], {**counts, JOINTS_TOPIC: counts[JOINTS_TOPIC] + 50})
    reading = BagReading(folder, TOPICS, *new_pipeline())
    assert_all_same(list(reading), experiences_when(0))
    text = "\n".join(reading.summary.lines())
    assert (
        f"joints: /joints (sensor_msgs/msg/JointState), {counts[JOINTS_TOPIC]} of {counts[JOINTS_TOPIC] + 50}" in text
    )
    assert "missing: bag_1.mcap is missing, metadata.yaml lists it" in text
    assert "missing: metadata.yaml counts messages that were not read: 50 of" in text


def test_commands_of_another_time_are_asked_about(tmp_path: Path) -> None:
    run = [sent for sent in RUN if sent.topic != TOPICS.command]
    command = chunk_message(100_000, 1.0)
    reading = BagReading(
        recorded(tmp_path / "bag", [*run, Sent(command.topic, T0 + 900 * MS, command.raw)]), TOPICS, *new_pipeline()
    )
    assert list(reading) == []
    assert any("are the commands' stamps right?" in note for note in reading.summary.notes)
    assert any("commands: the stamps are 9" in note and "ahead" in note for note in reading.summary.notes)


# Somebody else's commands ---------------------------------------------------------------------------------------------


def test_commands_on_another_topic_take_their_time_out_and_are_named(tmp_path: Path) -> None:
    other = "/teleop/joint_trajectory"
    moves = [Sent(other, T0 + tick * PERIOD_NS, chunk_message(tick, -3.0, horizon=2).raw) for tick in (12, 13, 14)]
    run = sorted([*RUN, *moves], key=lambda sent: sent.stamp_ns)
    reading = BagReading(write_mcap(tmp_path / "a.mcap", arrivals(run)), TOPICS, *new_pipeline())
    made = [item.observation.stamp_ns for item in reading]
    expected = [item.observation.stamp_ns for item in experiences_when(0)]
    assert set(made) < set(expected)
    assert all(T0 + 5 * PERIOD_NS < stamp_ns < T0 + 22 * PERIOD_NS for stamp_ns in set(expected) - set(made))
    assert reading.summary.left_out["foreign_command"] > 0
    assert f"3 trajectories on {other} are not on /chunk: somebody else's commands" in reading.summary.notes[0]


def part(raw: bytes, name: str = "shoulder") -> bytes:
    """What the controller of a command group gets of a command."""
    whole = decode_trajectory(raw, JOINTS)
    rows = (whole.positions[:, :1], whole.velocities[:, :1])
    return encode_trajectory(Trajectory(whole.stamp_ns, (name,), whole.times_ns, *rows))


def test_somebody_elses_command_to_one_controller_by_its_own_names_is_noticed(tmp_path: Path) -> None:
    group = {"topic": "arm", "type": "joint_trajectory"}
    groups = [{**group, "joints": ["shoulder"], "prefix": "shou"}, {**group, "topic": "hand", "joints": ["elbow"]}]
    topics = replace(TOPICS, robot=replace(ROBOT, command_groups=groups))
    move = Sent("/arm", T0 + 12 * PERIOD_NS, part(chunk_message(12, -3.0).raw, "lder"))
    parts = [Sent("/arm", sent.stamp_ns, part(sent.raw, "lder")) for sent in RUN if sent.topic == TOPICS.command]
    for others, count in ((parts, 0), ([*parts, move], 1)):
        run = sorted([*RUN, *others], key=lambda sent: sent.stamp_ns)
        reading = BagReading(write_mcap(tmp_path / "a.mcap", arrivals(run)), topics, *new_pipeline())
        made = list(reading)
        assert (len(made) == len(experiences_when(0))) is (count == 0)
        assert len(reading.summary.notes) == count
        assert (reading.summary.left_out.get("foreign_command", 0) > 0) is (count > 0)


@pytest.mark.parametrize("kind", ["relay", "gripper", "broken", "group"])
def test_copies_of_our_commands_and_those_for_other_joints_cost_nothing(tmp_path: Path, kind: str) -> None:
    gripper = hold_trajectory(np.zeros(1), T0, PERIOD_NS, ("gripper",))
    raw = {"gripper": encode_trajectory(gripper), "broken": b"nonsense"}
    copies = [
        Sent("/other/commands", sent.stamp_ns + MS, part(sent.raw) if kind == "group" else raw.get(kind, sent.raw))
        for sent in RUN
        if sent.topic == TOPICS.command
    ]
    run = sorted([*RUN, *copies], key=lambda sent: sent.stamp_ns)
    reading = BagReading(write_mcap(tmp_path / "a.mcap", arrivals(run)), TOPICS, *new_pipeline())
    assert_all_same(list(reading), experiences_when(0))
    assert reading.summary.notes == []


# The prompt -----------------------------------------------------------------------------------------------------------


def test_a_bag_without_prompt_uses_the_one_that_is_given_and_says_so(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", [sent for sent in RUN if sent.topic != TOPICS.prompt])
    with pytest.raises(BagError, match="prompt: no messages on /prompt, give --prompt-topic TOPIC, or --prompt TEXT"):
        read(bag)
    reading = BagReading(bag, TOPICS, *new_pipeline(), prompt="green")
    made = list(reading)
    assert len(made) > 10
    assert {item.observation.prompt for item in made} == {"green"}
    assert reading.summary.notes == ["no messages on /prompt: the prompt is 'green', as given"]


def test_a_bag_with_prompts_keeps_them_and_says_so(bag: Path) -> None:
    reading = BagReading(bag, TOPICS, *new_pipeline(), prompt="green")
    assert_all_same(list(reading), read(bag))
    assert reading.summary.notes == ["the prompt that was given is not used: /prompt has 2"]


def test_a_latched_prompt_is_carried_over_to_later_splits_and_experience_reaches_over_the_seam(tmp_path: Path) -> None:
    run = sorted(
        [*sensor_messages(0, 6000), *(chunk_message(tick, 1.0) for tick in range(2, 60, 4))],
        key=lambda sent: sent.stamp_ns,
    )
    run.insert(0, Sent(TOPICS.prompt, T0, encode_string("red")))
    whole = read(write_mcap(tmp_path / "whole.mcap", arrivals(run)))
    seams = [0, 200, 201, 390, len(run)]
    splits = [
        write_mcap(tmp_path / f"bag_{part}.mcap", arrivals(run[begin:end]))
        for part, (begin, end) in enumerate(pairwise(seams))
    ]
    (group,) = grouped(reversed(splits))
    assert_all_same(list(BagReading(group, TOPICS, *new_pipeline())), whole)
