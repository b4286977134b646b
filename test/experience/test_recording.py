"""Folders and split files -> one stream in the order in which messages came."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from bag_files import PACK, Arrival, arrivals, write_mcap, write_metadata, write_sqlite
from simulated_run import JOINTS_TOPIC, MS, T0, TOPICS, TYPES, Sent, eventful_run

from vla_align_ros.experience.bag_order import OrderScan, in_order
from vla_align_ros.experience.recording import Recording, bag_messages, grouped
from vla_align_ros.experience.storage import BagError, BagMessage

RUN = arrivals(eventful_run())
COUNTS = dict(Counter(sent.topic for _, sent in RUN))
EXPECTED = [BagMessage(sent.topic, TYPES[sent.topic], t_ns, sent.raw) for t_ns, sent in RUN]


def read(*paths: Path) -> tuple[list[BagMessage], list[str], list[str]]:
    with Recording(paths) as recording:
        return list(recording.messages()), recording.lost, recording.notes


def in_parts(folder: Path, count: int, name: str = "bag_{}.mcap") -> list[Path]:
    """The run in `count` split files."""
    folder.mkdir(exist_ok=True)
    edges = [len(RUN) * part // count for part in range(count + 1)]
    return [write_mcap(folder / name.format(part), RUN[begin:end]) for part, (begin, end) in enumerate(pairwise(edges))]


@pytest.mark.parametrize(
    "changes",
    [
        {"storage_identifier": ""},
        {"version": 2},
        {"version": 99},
        {"files": None, "custom_data": None},
        {"compression_mode": "MESSAGE", "compression_format": "zstd"},
        {"relative_file_paths": [f"elsewhere/bag_{part}.mcap" for part in range(12)]},
    ],
    ids=str,
)
def test_metadata_is_a_hint_only(tmp_path: Path, changes: dict[str, object]) -> None:
    files = in_parts(tmp_path / "bag", 12)
    write_metadata(tmp_path / "bag", [file.name for file in files], COUNTS, **changes)
    assert read(tmp_path / "bag") == (EXPECTED, [], [])


def test_a_qos_that_differs_from_the_storages_costs_nothing(tmp_path: Path) -> None:
    in_parts(tmp_path / "bag", 1)
    qos = [{"history": 3, "depth": 0, "reliability": 1, "durability": 2}]
    topics = [
        {
            "topic_metadata": {"name": topic, "type": TYPES[topic], "offered_qos_profiles": qos},
            "message_count": count,
        }
        for topic, count in COUNTS.items()
    ]
    write_metadata(tmp_path / "bag", ["bag_0.mcap"], COUNTS, topics_with_message_count=topics)
    assert read(tmp_path / "bag") == (EXPECTED, [], [])


@pytest.mark.parametrize(
    "torn", [b"rosbag2_bagfile_information:\n  version: 9\n  rel", b"", bytes(300), b"\xff\xfe[", b"a: b"]
)
def test_a_torn_metadata_is_said_and_the_files_are_read(tmp_path: Path, torn: bytes) -> None:
    in_parts(tmp_path / "bag", 12)
    (tmp_path / "bag" / "metadata.yaml").write_bytes(torn)
    messages, lost, notes = read(tmp_path / "bag")
    assert (messages, lost) == (EXPECTED, [])
    assert "metadata.yaml is damaged" in notes[0]


def test_packed_files_without_metadata_are_read_and_an_unpacked_twin_is_read_once(tmp_path: Path) -> None:
    for file in in_parts(tmp_path / "bag", 3):
        file.with_name(f"{file.name}.zstd").write_bytes(PACK.compress(file.read_bytes()))
        if file.name != "bag_1.mcap":
            file.unlink()
    messages, lost, notes = read(tmp_path / "bag")
    assert (messages, lost) == (EXPECTED, [])
    assert "has no metadata.yaml" in notes[0]
    write_metadata(tmp_path / "bag", [f"bag_{part}.mcap.zstd" for part in range(3)], COUNTS)
    (tmp_path / "bag" / "bag_1.mcap.zstd").unlink()
    assert read(tmp_path / "bag") == (EXPECTED, [], [])


def test_a_file_that_lost_power_and_one_that_is_gone_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    files = in_parts(tmp_path / "bag", 4)
    write_metadata(tmp_path / "bag", [file.name for file in files], COUNTS)
    files[2].unlink()
    files[3].write_bytes(bytes(4096))
    messages, lost, _ = read(tmp_path / "bag")
    assert messages == EXPECTED[: len(messages)]
    assert messages
    assert "bag_2.mcap is missing" in lost[0]
    assert "bag_3.mcap: its 4096 bytes begin with zeros" in lost[1]
    assert "metadata.yaml counts messages that were not read" in lost[2]
    assert f"of {COUNTS['/joints']} on /joints" in lost[2]


def test_where_nothing_can_be_read_every_file_is_named(tmp_path: Path) -> None:
    for file in in_parts(tmp_path / "bag", 2):
        file.write_bytes(bytes(100))
    with pytest.raises(BagError, match=r"bag_0\.mcap: .*zeros.*bag_1\.mcap: .*zeros"):
        read(tmp_path / "bag")


def test_splits_that_metadata_does_not_know_are_read_and_other_files_are_not(tmp_path: Path) -> None:
    files = in_parts(tmp_path / "bag", 3)
    write_metadata(tmp_path / "bag", ["bag_0.mcap", "bag_1.mcap"], {})
    write_mcap(tmp_path / "bag" / "filtered.mcap", RUN[:9])
    messages, lost, notes = read(tmp_path / "bag")
    assert (messages, lost) == (EXPECTED, [])
    assert notes == [
        f"{files[2].name}: not listed in metadata.yaml, read too",
        "filtered.mcap: not listed in metadata.yaml and not read; give the file to read it",
    ]


def test_loss_is_logged_where_only_messages_are_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (file,) = in_parts(tmp_path / "bag", 1)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert list(bag_messages(file))
    assert "bytes are no whole record" in caplog.text


def test_a_folder_of_bags_says_which_it_has(tmp_path: Path) -> None:
    for name in ("monday", "tuesday"):
        in_parts(tmp_path / name, 1)
        write_metadata(tmp_path / name, ["bag_0.mcap"], COUNTS)
    with pytest.raises(BagError, match="give one of the bags in it: monday, tuesday"):
        read(tmp_path)


def test_split_files_named_one_by_one_are_one_recording_and_others_are_not(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    splits = in_parts(bag, 12)
    other = write_mcap(bag / "other_0.mcap", RUN)
    assert grouped([splits[10], splits[2], other, splits[1], splits[1]]) == [
        [splits[1], splits[2], splits[10]],
        [other],
    ]
    assert grouped([bag, splits[3]]) == [[bag]]
    assert grouped([bag / "metadata.yaml"]) == [[bag]]
    assert read(*grouped(splits)[0]) == (EXPECTED, [], [])


def messages_of(times_ms: list[tuple[str, int]]) -> list[BagMessage]:
    return [BagMessage(topic, "", T0 + t_ms * MS, b"%d" % number) for number, (topic, t_ms) in enumerate(times_ms)]


def ordered(messages: list[BagMessage], second_file: int = -1) -> list[BagMessage]:
    """second_file: the number of its first message."""
    scan = OrderScan()
    for number, message in enumerate(messages):
        if number in (0, second_file):
            scan.begin_file()
        scan.note(message.topic, message.t_ns)
    return list(in_order(messages, scan.spans()))


STEADY = [("/a" if t_ms % 20 else "/b", t_ms) for t_ms in range(0, 6000, 10)]


@pytest.mark.parametrize("kind", ["late", "by topic", "shuffled", "files swapped", "backwards", "one very late"])
def test_messages_in_any_order_come_out_by_time(kind: str) -> None:
    expected = messages_of(STEADY)
    written = list(expected)
    if kind == "late":  # as a recorder whose cache is written in bursts
        written = [message for start in range(0, 600, 40) for message in reversed(written[start : start + 40])]
    elif kind == "by topic":
        written.sort(key=lambda message: message.topic)
    elif kind == "shuffled":
        random.Random(0).shuffle(written)
    elif kind == "files swapped":
        written = written[300:] + written[:300]
    elif kind == "backwards":
        written.reverse()
    else:
        written.insert(550, written.pop(10))
    assert ordered(written, second_file=300 if kind == "files swapped" else -1) == expected


def test_a_clock_that_was_set_back_within_a_file_changes_no_order() -> None:
    messages = messages_of(STEADY)
    was_set = [*messages[300:], *messages[:300]]
    assert ordered(was_set) == was_set


def test_a_clock_that_fell_back_keeps_the_time_before_and_after_apart() -> None:
    runs = messages_of(STEADY + STEADY + STEADY[:200])
    late = [*runs[:700], *reversed(runs[700:720]), *runs[720:]]
    assert ordered(late) == runs


def test_only_what_is_late_is_held_in_memory() -> None:
    messages = messages_of(STEADY)
    swapped = [message for pair in zip(messages[1::2], messages[::2], strict=True) for message in pair]
    scan = OrderScan()
    for message in swapped:
        scan.note(message.topic, message.t_ns)
    taken = []

    def source():  # type: ignore[no-untyped-def]
        for message in swapped:
            taken.append(message)
            yield message

    for given, message in enumerate(in_order(source(), scan.spans())):
        assert message == messages[given]
        assert len(taken) - given <= 4


def test_a_db3_and_an_mcap_may_lie_in_one_recording(tmp_path: Path) -> None:
    sensors: list[Arrival] = [item for item in RUN if item[1].topic != TOPICS.command]
    commands: list[Arrival] = [item for item in RUN if item[1].topic == TOPICS.command]
    write_mcap(tmp_path / "b.mcap", sensors)
    write_sqlite(tmp_path / "a.db3", commands)
    assert sorted(read(tmp_path)[0]) == sorted(EXPECTED)
    assert [message.t_ns for message in read(tmp_path)[0]] == sorted(t_ns for t_ns, _ in RUN)


def test_a_message_without_a_stamp_has_no_age(tmp_path: Path) -> None:
    short = Sent(JOINTS_TOPIC, T0, b"\0\1\0\0")
    with Recording([write_mcap(tmp_path / "a.mcap", [*RUN[:40], (T0, short)])], TOPICS.joint_names) as recording:
        list(recording.messages())
        assert set(recording.ages_ns[JOINTS_TOPIC]) == {0.0}
        assert TOPICS.prompt not in recording.ages_ns
