from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from simulated_run import (
    JOINTS,
    MS,
    PERIOD_NS,
    T0,
    TOPICS,
    TYPES,
    Sent,
    eventful_run,
    new_pipeline,
    record,
    same,
)

from vla_align_ros.action.trajectory import Trajectory
from vla_align_ros.experience.bag import BagError, BagTopics, bag_messages, read_bag
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.observation.assemble import ObservationReason
from vla_align_ros.observation.codecs import (
    JOINT_STATE,
    STRING,
    TYPESTORE,
    MessageReason,
    decode_trajectory,
    encode_string,
    encode_trajectory,
)
from vla_align_ros.types import Experience

RUN = eventful_run()


def read(path: Path, topics: BagTopics = TOPICS) -> list[Experience]:
    return list(read_bag(path, topics, *new_pipeline()))


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
        if sent.topic == TOPICS.chunk
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
        Sent(TOPICS.chunk, T0 + 507 * MS, b""),
    ]
    run = sorted([*RUN, *bad], key=lambda sent: sent.stamp_ns)
    assembler, builder = new_pipeline()
    made = list(read_bag(recorded(tmp_path / "dirty", run), TOPICS, assembler, builder))
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


def test_missing_topics_are_named_beside_those_that_are_there(tmp_path: Path) -> None:
    run = [sent for sent in RUN if sent.topic not in (TOPICS.chunk, TOPICS.cameras["wrist"])]
    with pytest.raises(
        BagError, match=r"no messages on \['/chunk', '/wrist/image'\].*/joints \(sensor_msgs/msg/JointState"
    ):
        read_bag(recorded(tmp_path / "bag", run), TOPICS, *new_pipeline())


def test_missing_topics_are_named_for_a_bag_without_metadata_too(tmp_path: Path) -> None:
    path = recorded(tmp_path / "bag", [sent for sent in RUN if sent.topic != TOPICS.joints])
    storage = (path / "bag.mcap").read_bytes()
    (tmp_path / "cut.mcap").write_bytes(storage[:-200])
    with pytest.raises(BagError, match=r"no messages on \['/joints'\]"):
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


@pytest.mark.parametrize("damage", ["metadata.yaml", "bag.mcap"])
def test_a_whole_bag_with_a_damaged_file_is_refused(bag: Path, damage: str) -> None:
    (bag / damage).write_bytes((bag / damage).read_bytes()[:100])
    with pytest.raises(BagError, match="cannot be read as a bag"):
        read(bag)
