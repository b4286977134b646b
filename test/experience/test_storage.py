"""Storage files of every kind are read whole, or as far as they are whole, and what is missing is said."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from bag_files import PACK, Arrival, arrivals, fill_sqlite, listing, write_mcap, write_sqlite
from hypothesis import given
from hypothesis import strategies as st
from mcap.writer import CompressionType, IndexType
from simulated_run import TYPES, Sent, eventful_run

from vla_align_ros.experience.storage import BagError, BagMessage, StorageFile

RUN = arrivals(eventful_run())
EXPECTED = [BagMessage(sent.topic, TYPES[sent.topic], t_ns, sent.raw) for t_ns, sent in RUN]
PLAIN = {"compression": CompressionType.NONE}


def read(path: Path) -> tuple[list[BagMessage], list[str]]:
    scratch = path.parent.parent / f"{path.parent.name}_scratch"
    scratch.mkdir(exist_ok=True)
    file = StorageFile(path, scratch)
    return list(file.messages()), file.lost


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bag").mkdir()
    return tmp_path / "bag"


@pytest.mark.parametrize(
    "options",
    [
        {"index_types": IndexType.CHUNK},  # chunks are listed, messages are not: rosbags gives nothing, mcap all
        {"index_types": IndexType.MESSAGE},
        {"index_types": IndexType.NONE, "use_statistics": False, "use_summary_offsets": False},
        {"repeat_channels": False, "repeat_schemas": False},
        {"use_chunking": False},  # rosbag2's fastwrite
        {"compression": CompressionType.LZ4, "enable_crcs": False},
        PLAIN,
    ],
    ids=str,
)
def test_an_mcap_is_read_whole_whatever_index_it_has(folder: Path, options: dict[str, object]) -> None:
    assert read(write_mcap(folder / "a.mcap", RUN, **options)) == (EXPECTED, [])


@pytest.mark.parametrize("version", [1, 4])
def test_a_db3_of_any_schema_version_is_read_whole(folder: Path, version: int) -> None:
    assert read(write_sqlite(folder / "a.db3", RUN, version)) == (EXPECTED, [])


LIVE_WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA journal_mode=WAL")
database.execute("PRAGMA wal_autocheckpoint=0")
database.execute("INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, timestamp, data FROM messages")
database.commit()
print("written", flush=True)
sys.stdin.read()
import os; os._exit(0)  # as if it was killed: the log stays
"""


def test_what_a_live_recorder_has_in_its_write_ahead_log_is_read_and_so_is_what_it_left(folder: Path) -> None:
    path = write_sqlite(folder / "a.db3", RUN)
    command = [sys.executable, "-c", LIVE_WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "written\n"
        assert read(path) == (EXPECTED + EXPECTED, [])
    assert {file.name for file in folder.iterdir()} == {"a.db3", "a.db3-wal", "a.db3-shm"}
    (folder / "a.db3-shm").unlink()  # as when the two others are copied from a robot
    before = listing(folder)
    assert read(path) == (EXPECTED + EXPECTED, [])
    assert listing(folder) == before


def test_a_closed_bag_that_was_written_ahead_is_read_and_nothing_is_left_beside_it(folder: Path) -> None:
    database = sqlite3.connect(folder / "a.db3")
    database.execute("PRAGMA journal_mode=WAL")
    fill_sqlite(database, RUN)
    database.close()
    assert read(folder / "a.db3") == (EXPECTED, [])
    assert set(listing(folder)) == {"a.db3"}


CUT_OFF = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size=1")
database.execute("UPDATE messages SET data = zeroblob(3000)")
os._exit(0)  # in the middle of a transaction
"""


def test_a_transaction_that_a_power_cut_left_open_is_rolled_back_in_a_copy(folder: Path) -> None:
    path = write_sqlite(folder / "a.db3", RUN)
    subprocess.run([sys.executable, "-c", CUT_OFF, str(path)], check=True)
    assert set(listing(folder)) == {"a.db3", "a.db3-journal"}
    before = listing(folder)
    assert read(path) == (EXPECTED, [])
    assert listing(folder) == before


@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_a_file_packed_by_zstd_is_read_under_any_name(folder: Path, kind: str) -> None:
    plain = (write_mcap if kind == "mcap" else write_sqlite)(folder / f"a.{kind}", RUN).read_bytes()
    for name in (f"b.{kind}.zstd", f"c.{kind}"):
        half = len(plain) // 2
        (folder / name).write_bytes(PACK.compress(plain[:half]) + PACK.compress(plain[half:]))
        assert read(folder / name) == (EXPECTED, [])


@pytest.mark.parametrize("write", [write_mcap, write_sqlite])
def test_messages_packed_one_by_one_are_unpacked_and_a_bad_one_costs_itself(folder: Path, write) -> None:  # type: ignore[no-untyped-def]
    packed: list[Arrival] = [(t_ns, Sent(sent.topic, t_ns, PACK.compress(sent.raw))) for t_ns, sent in RUN]
    bad = Sent("/prompt", RUN[5][0], PACK.compress(b"x" * 100)[:-9] + b"nonsense!")
    messages, lost = read(write(folder / "a", [*packed[:5], (bad.stamp_ns, bad), *packed[5:]]))
    assert messages == EXPECTED
    assert len(lost) == 1
    assert "1 messages of /prompt are packed by zstd, and damaged" in lost[0]


def test_messages_in_another_format_are_left_out_and_counted(folder: Path) -> None:
    messages, lost = read(write_mcap(folder / "a.mcap", RUN[:20], encoding="json"))
    assert messages == []
    assert any("/joints are serialised as 'json', only 'cdr' is read" in text for text in lost)


@pytest.mark.parametrize("options", [{"use_chunking": False}, PLAIN, {}], ids=str)
@pytest.mark.parametrize("end", ["cut", "zeros"])
def test_a_torn_mcap_gives_what_is_whole_and_says_how_much_is_not(
    folder: Path, options: dict[str, object], end: str
) -> None:
    whole = write_mcap(folder / "whole.mcap", RUN, **options).read_bytes()
    keep = int(0.6 * len(whole))
    (folder / "torn.mcap").write_bytes(whole[:keep] + (bytes(len(whole) - keep) if end == "zeros" else b""))
    messages, lost = read(folder / "torn.mcap")
    assert messages == EXPECTED[: len(messages)]
    assert len(messages) > 0.4 * len(EXPECTED)
    assert "torn.mcap: the last" in lost[0]
    assert "bytes are no whole record" in lost[0]


def test_a_damaged_chunk_costs_itself_and_is_counted(folder: Path) -> None:
    data = bytearray(write_mcap(folder / "a.mcap", RUN, **PLAIN).read_bytes())
    place = data.index(RUN[100][1].raw)
    data[place + 9] ^= 0xFF
    (folder / "a.mcap").write_bytes(data)
    messages, lost = read(folder / "a.mcap")
    assert 0 < len(EXPECTED) - len(messages) < 40
    assert messages == [message for message in EXPECTED if message in messages]
    assert "are damaged" in lost[0]
    assert f"{len(messages)} messages were read, the file says that it has {len(EXPECTED)}" in lost[1]


@pytest.mark.parametrize("damage", ["cut", "hole"])
def test_a_damaged_db3_gives_the_rows_that_are_whole(folder: Path, damage: str) -> None:
    path = write_sqlite(folder / "a.db3", RUN)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[int(0.6 * len(data)) // 4096 * 4096 :]
    else:
        start = data.index(RUN[300][1].raw) // 4096 * 4096
        data[start : start + 4096] = bytes(4096)
    path.write_bytes(data)
    messages, lost = read(path)
    assert 0.2 * len(EXPECTED) < len(messages) < len(EXPECTED)
    assert messages == [message for message in EXPECTED if message in messages]
    assert damage == "cut" or messages[-1] == EXPECTED[-1]
    assert "damaged" in lost[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (bytes(5000), "begin with zeros: a recorder that lost power"),
        (b"#ROSBAG V2.0\n", "is a ROS 1 bag"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"<html>", "is no mcap and no sqlite3 file"),
        (b"SQLite format 3\0" + bytes(4000), "cannot be read as a bag"),
        (PACK.compress(b"hello"), "is no mcap"),
    ],
)
def test_what_is_no_storage_is_called_what_it_is(folder: Path, content: bytes, words: str) -> None:
    path = folder / "bag_3.mcap"
    path.write_bytes(content)
    with pytest.raises(BagError, match=rf"bag_3\.mcap: .*{words}"):
        read(path)


def test_a_database_that_is_no_bag_is_refused(folder: Path) -> None:
    database = sqlite3.connect(folder / "a.db3")
    database.execute("CREATE TABLE something(id INTEGER)")
    database.close()
    with pytest.raises(BagError, match=r"a\.db3: is no bag, or damaged: no such table: topics"):
        read(folder / "a.db3")


def test_a_packed_file_that_was_cut_off_gives_what_is_whole(folder: Path) -> None:
    run = arrivals(eventful_run(image_shape=(96, 128)))
    packed = PACK.compress(write_mcap(folder / "a.mcap", run, **PLAIN).read_bytes())
    (folder / "a.mcap.zstd").write_bytes(packed[: int(0.7 * len(packed))])
    messages, lost = read(folder / "a.mcap.zstd")
    assert [message.raw for message in messages] == [sent.raw for _, sent in run[: len(messages)]]
    assert len(messages) > 0.5 * len(run)
    assert "the packed file is cut off" in lost[0]
    (folder / "a.mcap.zstd").write_bytes(packed[:12])
    with pytest.raises(BagError, match=r"is empty; .*the packed file is cut off after 12 bytes"):
        read(folder / "a.mcap.zstd")


DAMAGE = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 0.999), st.integers(0, 255)),
    st.tuples(st.just("cut"), st.floats(0, 0.999), st.just(0)),
    st.tuples(st.just("zeros"), st.floats(0, 0.999), st.just(0)),
)


@cache
def sound(kind: str) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        if kind == "db3":
            return write_sqlite(Path(name) / "a.db3", RUN[:99]).read_bytes()
        data = write_mcap(Path(name) / "a", RUN[:99], use_chunking=kind != "loose").read_bytes()
        return PACK.compress(data) if kind == "packed" else data


@pytest.mark.slow
@given(st.sampled_from(["db3", "chunks", "loose", "packed"]), st.lists(DAMAGE, min_size=1, max_size=9))
def test_whatever_is_damaged_a_file_is_read_or_refused_in_words(
    kind: str, damages: list[tuple[str, float, int]]
) -> None:
    data = bytearray(sound(kind))
    for what, place, value in damages:
        index = int(place * len(data))
        if what == "flip":
            data[index : index + 1] = bytes([value])
        else:
            data[index:] = b"" if what == "cut" else bytes(len(data) - index)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bag" / "a"
        path.parent.mkdir()
        path.write_bytes(data)
        with suppress(BagError):
            messages, lost = read(path)
            assert lost or len(messages) == 99 or kind == "db3"  # cut off between two rows, sqlite knows of none
        assert set(listing(path.parent)) == {"a"}
