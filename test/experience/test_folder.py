"""A watched folder: real splits, read once each and in order, with the experiences of the unsplit bag to the bit."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from simulated_run import (
    JOINTS,
    LAG_S,
    MS,
    PERIOD_NS,
    STRIDE,
    TOPICS,
    TYPES,
    Sent,
    eventful_run,
    new_pipeline,
    record,
    same,
)

from vla_align_ros.action.trajectory import hold_trajectory
from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.buffer import ExperienceBuffer
from vla_align_ros.experience.builder import ExperienceReason
from vla_align_ros.experience.folder import BagFolder, Pipeline
from vla_align_ros.experience.ledger import Ledger
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.observation.codecs import JOINT_TRAJECTORY, TYPESTORE, encode_trajectory
from vla_align_ros.types import Experience

RUN = eventful_run()
PARTS = 6
HISTORY = round(2e9 / (PERIOD_NS * STRIDE)) + 1


class Watched:
    """What one process has: a buffer, and a BagFolder that feeds it."""

    def __init__(self, folder: Path, capacity: int = 1000, made_with: str = "test") -> None:
        self.buffer = ExperienceBuffer(capacity)
        self.ledger = Ledger(folder.parent / "store", folder, {"test": made_with})
        self.folder = BagFolder(folder, TOPICS, fresh_pipeline, self.ledger, self.buffer, HISTORY)

    def read(self) -> tuple[Experience, ...]:
        """Everything there is to read now."""
        self.folder._next_look_s = 0.0
        self.folder.work(60.0)
        return self.buffer.snapshot()


def fresh_pipeline(prompt: str) -> Pipeline:
    assembler, builder = new_pipeline()
    if prompt:
        assembler.push_prompt(prompt, 0)
    return Pipeline(assembler, builder)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The run in PARTS files, as a recorder leaves them."""
    return parts_of(tmp_path_factory.mktemp("splits"), RUN)


def parts_of(folder: Path, run: Sequence[Sent], count: int = PARTS) -> list[Path]:
    cuts = [len(run) * part // count for part in range(count + 1)]
    for part in range(count):
        some = run[cuts[part] : cuts[part + 1]]
        record(folder / f"run_{part}", [(sent.stamp_ns, sent) for sent in some])
    return [folder / f"run_{part}" / f"run_{part}.mcap" for part in range(count)]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[Experience]:
    """Of the same run in one bag."""
    path = tmp_path_factory.mktemp("whole") / "bag"
    record(path, [(sent.stamp_ns, sent) for sent in RUN])
    return list(BagReading(path, TOPICS, *new_pipeline()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bags" / "run").mkdir(parents=True)
    return tmp_path / "bags"


def close(folder: Path, *splits: Path) -> None:
    for split in splits:
        shutil.copy(split, folder / "run" / split.name)


def assert_same(some: Sequence[Experience], others: Sequence[Experience], first_episode: int | None = None) -> None:
    """Equal to the bit; episodes are counted from the first one on."""
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.episode - some[0].episode == other.episode - others[0].episode
        assert same(Experience(one.observation, one.commands, one.next_observation, other.episode), other)


def test_splits_that_come_one_by_one_give_the_experiences_of_the_unsplit_bag(folder, splits, expected):
    watched = Watched(folder)
    assert watched.read() == ()
    lengths = []
    for split in splits:
        close(folder, split)
        lengths.append(len(watched.read()))
    assert lengths == sorted(lengths)
    assert 0 < lengths[1] < lengths[-1] == len(expected) > 10
    assert_same(watched.buffer.snapshot(), expected)
    assert watched.folder.new_experiences == len(expected)


def test_messages_that_were_written_over_the_seam_do_not_turn_the_time_back(folder, expected):
    first, swapped = len(RUN) // 2, 12
    early, late = RUN[first : first + swapped], RUN[first - swapped : first]
    assert 120 * MS < early[-1].stamp_ns - late[0].stamp_ns < LAG_S * 1e9
    assert not [sent for sent in (*early, *late) if sent.topic == TOPICS.prompt]
    run = [*RUN[: first - swapped], *early, *late, *RUN[first + swapped :]]
    close(folder, *parts_of(folder.parent, run, 2))
    assert_same(Watched(folder).read(), expected)


def test_a_torn_split_gives_what_is_whole_and_is_named(folder, splits, expected):
    torn = folder / "run" / "run_0.mcap"
    torn.write_bytes(splits[0].read_bytes()[:-5000])
    os.utime(torn, (time.time() - 60,) * 2)
    close(folder, *splits[1:])
    watched = Watched(folder)
    held = watched.read()
    assert "run/run_0.mcap: " in watched.folder.problem
    assert len(expected) - 5 < len(held) < len(expected)
    assert_same(Watched(folder).read(), held)


def test_commands_of_somebody_else_leave_their_time_out_as_at_the_desk(folder, tmp_path, expected):
    stamp_ns = RUN[len(RUN) // 4].stamp_ns
    foreign = Sent("/other", stamp_ns, encode_trajectory(hold_trajectory([0, 0], stamp_ns, PERIOD_NS, JOINTS)))
    with BagRecorder(folder / "bag", {**TYPES, "/other": JOINT_TRAJECTORY}) as recorder:
        for sent in sorted([*RUN, foreign], key=lambda sent: sent.stamp_ns):
            recorder.write(sent.topic, sent.raw, sent.stamp_ns)
    at_the_desk = list(BagReading(folder / "bag", TOPICS, *new_pipeline()))
    watched = Watched(folder)
    assert_same(watched.read(), at_the_desk)
    assert 0 < len(at_the_desk) < len(expected)
    assert watched.folder.refused[ExperienceReason.FOREIGN_COMMAND] > 0


def test_what_was_unpacked_is_deleted_when_it_stops_in_the_middle_of_a_split(folder, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("vla_align_ros.experience.folder.time.monotonic", itertools.count().__next__)
    close(folder, splits[0])
    watched = Watched(folder)
    watched.folder.work(3.0)
    assert list(tmp_path.glob("vla_align_bag_*")), "in the middle of it"
    watched.folder.close()
    assert not list(tmp_path.glob("vla_align_bag_*"))
    assert watched.read() == ()


def test_a_split_is_read_when_it_is_closed_and_not_before(folder, splits, expected):
    watched = Watched(folder)
    storage = splits[0].read_bytes()
    (folder / "run" / "run_0.mcap").write_bytes(storage[:-1])  # its recorder, or a copy, is not done
    close(folder, *splits[1:])
    assert watched.read() == ()
    assert watched.folder.waiting == ("run/run_0.mcap",)
    (folder / "run" / "run_0.mcap").write_bytes(storage)
    assert_same(watched.read(), expected)
    assert watched.folder.waiting == ()


def test_a_file_without_an_end_is_closed_once_a_later_one_exists_and_it_is_left_alone(folder, splits):
    watched = Watched(folder)
    torn = folder / "run" / "run_0.mcap"
    torn.write_bytes(splits[0].read_bytes()[:-30])
    close(folder, splits[1])
    assert watched.read() == ()
    os.utime(torn, (time.time() - 60,) * 2)
    watched.read()
    assert [split.name for split in watched.ledger.splits] == ["run/run_0.mcap", "run/run_1.mcap"]


def test_a_sqlite_bag_is_read_when_its_metadata_names_it_and_no_journal_is_left(folder, expected):
    path = folder / "bag"
    with Writer(path, version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {topic: writer.add_connection(topic, kind, typestore=TYPESTORE) for topic, kind in TYPES.items()}
        for sent in RUN:
            writer.write(connections[sent.topic], sent.stamp_ns, sent.raw)
    watched, wal = Watched(folder), path / "bag.db3-wal"
    os.utime(path / "bag.db3", (time.time() - 60,) * 2)
    wal.write_bytes(b"something")
    assert watched.read() == ()
    wal.unlink()
    metadata = (path / "metadata.yaml").read_text()
    (path / "metadata.yaml").write_text(metadata[:60])
    assert watched.read() == ()
    (path / "metadata.yaml").write_text(metadata)
    assert_same(watched.read(), expected)


@pytest.mark.parametrize("capacity", [1000, 8])
@pytest.mark.parametrize("taken", [2, PARTS])
def test_a_restart_gives_the_buffer_of_before_and_reads_nothing_as_new(folder, splits, expected, capacity, taken):
    before = Watched(folder, capacity)
    close(folder, *splits[:taken])
    held = before.read()
    before.ledger.mark_aligned(before.ledger.total - 3)
    again = Watched(folder, capacity)
    assert_same(again.read(), held)
    assert again.folder.new_experiences == 3
    assert len(again.ledger.splits) == taken, "each once"
    close(folder, *splits)
    assert_same(again.read(), expected[-capacity:])
    assert again.folder.new_experiences == 3 + len(expected) - before.ledger.total


def test_a_restart_reads_no_more_than_the_buffer_needs(folder, splits, expected):
    many = parts_of(folder.parent, RUN, 20)
    close(folder, *many)
    held = Watched(folder, 8).read()
    for split in many[:4]:
        (folder / "run" / split.name).write_bytes(split.read_bytes()[:-400] + bytes(400))  # the same size
    again = Watched(folder, 8)
    assert_same(again.read(), held)
    assert again.folder.problem == ""


def test_old_splits_may_be_removed_and_their_prompt_stays_valid(folder, splits, expected):
    close(folder, *splits[:4])
    Watched(folder).read()
    for split in splits[:3]:
        (folder / "run" / split.name).unlink()
    again = Watched(folder)
    close(folder, *splits[4:])
    held = again.read()
    assert_same(held, expected[-len(held) :])
    assert len(held) >= 5
    assert again.folder.new_experiences == len(expected)


def test_what_was_forgotten_does_not_come_back(folder, splits, expected):
    watched = Watched(folder)
    close(folder, *splits[:4])
    count = len(watched.read())
    assert watched.folder.new_experiences == count
    watched.folder.forget()
    assert watched.folder.new_experiences == len(watched.buffer) == 0
    assert Watched(folder).read() == ()
    again = Watched(folder)
    close(folder, *splits[4:])
    assert_same(again.read(), expected[count:])
    assert again.folder.new_experiences == len(expected) - count


def test_an_unreadable_split_is_named_and_passed_over_until_its_size_changes(folder, splits, expected, caplog):
    close(folder, splits[0], splits[2])
    bad = folder / "run" / "run_1.mcap"
    storage = splits[1].read_bytes()
    bad.write_bytes(bytes(200) + storage[200:])
    watched = Watched(folder)
    watched.read()
    assert watched.folder.problem.startswith("run/run_1.mcap: cannot be read")
    assert "run_1.mcap" in caplog.text
    assert len(watched.ledger.splits) == 3, "the next one was read"
    caplog.clear()
    watched.read()
    Watched(folder).read()
    assert "run_1.mcap" not in caplog.text
    bad.write_bytes(storage[:200] + storage)
    Watched(folder).read()
    assert "run_1.mcap" in caplog.text


def test_a_recording_of_other_topics_says_what_it_has(folder):
    renamed = [Sent(sent.topic.replace("/chunk", "/other"), sent.stamp_ns, sent.raw) for sent in RUN]
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic.replace("/chunk", "/other"): writer.add_connection(
                topic.replace("/chunk", "/other"), kind, typestore=TYPESTORE
            )
            for topic, kind in TYPES.items()
        }
        for sent in renamed:
            writer.write(connections[sent.topic], sent.stamp_ns, sent.raw)
    watched = Watched(folder)
    assert watched.read() == ()
    assert "no messages on ['/chunk']" in watched.folder.problem
    assert "/other" in watched.folder.problem


def test_other_settings_read_everything_anew(folder, splits, expected):
    close(folder, *splits)
    first = Watched(folder)
    first.read()
    first.ledger.mark_aligned(first.ledger.total)
    other = Watched(folder, made_with="another stride")
    assert other.ledger.restarted
    assert_same(other.read(), expected)
    assert other.folder.new_experiences == len(expected)
    assert not Watched(folder, made_with="another stride").ledger.restarted


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_ledger_is_begun_anew(folder, splits, expected, damage):
    close(folder, *splits)
    Watched(folder).read()
    (folder.parent / "store" / "BAG_FOLDERS.json").write_bytes(damage)
    watched = Watched(folder)
    assert watched.ledger.restarted == (damage != b'{"a": 1}'), "which is of another folder alone"
    assert_same(watched.read(), expected)
    assert not Watched(folder).ledger.restarted


def test_two_recordings_are_two_episodes(folder, splits, expected):
    close(folder, *splits)
    shutil.copytree(folder / "run", folder / "later")
    held = Watched(folder).read()
    assert_same(held[: len(expected)], expected)
    assert_same(held[len(expected) :], expected)
    assert not {item.episode for item in held[: len(expected)]} & {item.episode for item in held[len(expected) :]}


def test_a_ledger_that_cannot_be_written_costs_nothing(folder, splits, expected, monkeypatch):
    close(folder, *splits)
    watched = Watched(folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("vla_align_ros.experience.ledger.replace_synced", full)
        with pytest.raises(OSError, match="No space"):
            watched.read()
        with pytest.raises(OSError, match="No space"):
            watched.read()
    assert_same(watched.read(), expected)


def test_a_folder_that_comes_later_is_waited_for(tmp_path, splits, expected):
    watched = Watched(tmp_path / "bags")
    assert watched.read() == ()
    assert "cannot be listed" in watched.folder.problem
    (tmp_path / "bags" / "run").mkdir(parents=True)
    close(tmp_path / "bags", *splits)
    assert_same(watched.read(), expected)
    assert watched.folder.problem == ""


KILLED = """
import sys, time
sys.path[:0] = [sys.argv[2], sys.argv[2] + "/.."]
from pathlib import Path
from test_folder import Watched
watched = Watched(Path(sys.argv[1]))
while True:
    watched.folder._next_look_s = 0.0
    watched.folder.work(0.01)
    print(len(watched.ledger.splits), flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_reads_leaves_a_folder_that_gives_the_same(folder, splits, expected):
    close(folder, *splits)
    for wanted in (1, 3, 5):
        command = [sys.executable, "-c", KILLED, str(folder), str(Path(__file__).parent)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while int(process.stdout.readline()) < wanted:
                pass
            process.send_signal(signal.SIGKILL)
    watched = Watched(folder)
    assert_same(watched.read(), expected)
    assert [split.name for split in watched.ledger.splits] == [f"run/run_{part}.mcap" for part in range(PARTS)]


@pytest.mark.parametrize("offset_s", [-3600.0, -2.0, -0.2, 2.0, 3600.0])
def test_a_recorders_clock_that_is_set_between_two_splits_costs_nothing(folder, expected, offset_s, caplog):
    cut, offset_ns = len(RUN) // 3, round(offset_s * 1e9)
    record(folder.parent / "run_0", [(sent.stamp_ns, sent) for sent in RUN[:cut]])
    record(folder.parent / "run_1", [(sent.stamp_ns + offset_ns, sent) for sent in RUN[cut:]])
    close(folder, *(folder.parent / name / f"{name}.mcap" for name in ("run_0", "run_1")))
    assert_same(Watched(folder).read(), expected)
    assert "run_1.mcap: the recorder's clock is not that of the stamps" in caplog.text


def test_copies_of_our_commands_behind_the_seam_cost_nothing(folder, expected):
    """A relay's copy of the last command of a split, as the first message of the next one."""
    run: list[Sent] = []
    for sent in RUN:
        copy = [Sent("/relay", sent.stamp_ns, sent.raw)] if sent.topic == TOPICS.command else []
        run += [sent, *copy]
    cut = [place for place, sent in enumerate(run) if sent.topic == "/relay"][2]
    for number, part in enumerate((run[:cut], run[cut:])):
        with BagRecorder(folder.parent / f"run_{number}", {**TYPES, "/relay": JOINT_TRAJECTORY}) as recorder:
            for sent in part:
                recorder.write(sent.topic, sent.raw, sent.stamp_ns)
        close(folder, folder.parent / f"run_{number}" / f"run_{number}.mcap")
    assert_same(Watched(folder).read(), expected)


@pytest.mark.parametrize("capacity", [1000, 8])
def test_a_split_that_grows_after_it_was_read_gives_nothing_twice(folder, splits, capacity):
    """A copy that stalled, with later splits there already."""
    close(folder, splits[0], splits[2])
    grown = folder / "run" / "run_1.mcap"
    grown.write_bytes(splits[1].read_bytes()[:-3000])
    os.utime(grown, (time.time() - 60,) * 2)
    watched = Watched(folder, capacity)
    count = len(watched.read())
    close(folder, splits[1])
    stamps = [item.observation.stamp_ns for item in watched.read()]
    assert count <= len(stamps) == len(set(stamps))
    close(folder, *splits[3:])
    held = watched.read()
    stamps = [item.observation.stamp_ns for item in held]
    assert len(stamps) == len(set(stamps))
    again = Watched(folder, capacity)
    stamps = [item.observation.stamp_ns for item in again.read()]
    assert len(stamps) == len(set(stamps))
    assert len(held) - 2 <= len(stamps) <= len(held), "over its seams it is read otherwise now"
    assert again.folder.new_experiences == watched.folder.new_experiences
