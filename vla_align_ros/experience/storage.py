"""One storage file -> its messages: a plain pass from the start to the end that trusts no index in the file.

What a file is is told by its first bytes, not by its name: mcap, sqlite3, or either of them packed by zstd. What cannot
be read is said (`StorageFile.lost`), what is whole is read. Messages that were packed one by one are unpacked.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

import zstandard
from mcap.records import Channel, Message, Schema

from vla_align_ros.experience.mcap_records import MAGIC, summary_of, whole_records

_SQLITE: Final = b"SQLite format 3\x00"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"  # no message begins so: the first byte of CDR is 0
_ROS1: Final = b"#ROSBAG V"
_BLOCK_BYTES: Final = 2**20
_MOST_SKIPPED: Final = 2**24  # rows of a damaged table that are stepped over at once


class BagError(ValueError):
    """A bag is missing, unreadable, empty, or lacks a topic; the message says which and what the bag has."""


class TopicMissing(BagError):
    """There are no messages on a topic; the message names the option of `vla-align align` by which to name another."""


class BagMessage(NamedTuple):
    """One serialised message. t_ns: when it came, by the recorder's clock (`bag_clock.py` may correct it)."""

    topic: str
    msgtype: str
    t_ns: int
    raw: bytes


class StorageFile:
    """One file of a bag. `messages()` may be called again and again.

    lost: sentences, of the newest pass: what could not be read. declared: how many messages the file says it has, by
    topic; empty where it does not say.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        """`scratch`: a folder for what must be unpacked or copied. Raises BagError for a file that is no storage."""
        self.path = path
        self.declared: Counter[str] = Counter()
        self.lost: list[str] = []
        self._torn: list[str] = []
        self._scratch = scratch
        try:
            self._plain = self._unpacked() if _head(path).startswith(_ZSTD) else path
            head = _head(self._plain)
        except OSError as error:
            raise BagError(f"{path}: cannot be read, or not be unpacked into {scratch}: {error.strerror}") from None
        if not head.startswith((MAGIC, _SQLITE)):
            raise BagError("; ".join([f"{path}: {_what_else(path, head)}", *self._torn]))
        self._is_mcap = head.startswith(MAGIC)
        self.size_bytes = self._plain.stat().st_size

    def messages(self) -> Iterator[BagMessage]:
        """All messages in the order in which they are in the file. Raises BagError when it cannot be read."""
        self.lost = list(self._torn)
        unusable: Counter[tuple[str, str]] = Counter()
        read = 0
        try:
            for topic, msgtype, encoding, t_ns, packed in self._mcap_messages() if self._is_mcap else self._rows():
                read += 1
                raw = _unpacked(packed) if packed.startswith(_ZSTD) else packed
                if encoding != "cdr":
                    unusable[topic, f"are serialised as {encoding!r}, only 'cdr' is read"] += 1
                elif raw is None:
                    unusable[topic, "are packed by zstd, and damaged"] += 1
                else:
                    yield BagMessage(topic, msgtype, t_ns, raw)
        except OSError as error:
            raise BagError(f"{self.path}: cannot be read to its end: {error.strerror}") from None
        for (topic, why), count in unusable.items():
            self._lose(f"{count} messages of {topic} {why}")
        if read < self.declared.total():
            self._lose(f"{read} messages were read, the file says that it has {self.declared.total()}")

    def _lose(self, text: str) -> None:
        self.lost.append(f"{self.path.name}: {text}")

    def _unpacked(self) -> Path:
        """The file unpacked by zstd, as far as it is whole."""
        plain = self._scratch / f"{self.path.name}.unpacked"
        problem = ""
        with self.path.open("rb") as packed, plain.open("wb") as out:
            frame = zstandard.ZstdDecompressor().decompressobj()
            while not problem and (block := packed.read(_BLOCK_BYTES)):
                while block and not problem:
                    if frame.eof:  # several frames may follow one another
                        frame = zstandard.ZstdDecompressor().decompressobj()
                    try:
                        out.write(frame.decompress(block))
                    except zstandard.ZstdError as error:
                        problem = f"damaged before byte {packed.tell()}: {error}"
                    block = frame.unused_data
            if not problem and not frame.eof:
                problem = f"cut off after {packed.tell()} bytes"
        if problem:
            self._torn.append(f"{self.path.name}: the packed file is {problem}")
        return plain

    # mcap -------------------------------------------------------------------------------------------------------------

    def _mcap_messages(self) -> Iterator[tuple[str, str, str, int, bytes]]:
        with self._plain.open("rb") as stream:
            summary = summary_of(stream)
            schemas, channels, unknown = dict(summary.schemas), dict(summary.channels), 0
            if statistics := summary.statistics:
                self.declared = Counter()
                for key, count in statistics.channel_message_counts.items():
                    self.declared[channels[key].topic if key in channels else ""] += count
                if not self.declared:  # these counts may be left out
                    self.declared[""] = statistics.message_count
            stream.seek(len(MAGIC))
            for record in whole_records(stream, self.size_bytes, self._lose):
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = record
                elif isinstance(record, Message) and record.channel_id in channels:
                    channel = channels[record.channel_id]
                    schema = schemas.get(channel.schema_id)
                    msgtype = schema.name if schema else ""
                    yield channel.topic, msgtype, channel.message_encoding, record.log_time, record.data
                elif isinstance(record, Message):
                    unknown += 1
            if unknown:
                self._lose(f"{unknown} messages are of channels that no whole part of the file describes")

    # sqlite3 ----------------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[tuple[str, str, str, int, bytes]]:
        with closing(self._database()) as database:
            try:
                known = {
                    row[0]: row[1:]
                    for row in database.execute("SELECT id, name, type, serialization_format FROM topics")
                }
            except sqlite3.Error as error:
                raise BagError(f"{self.path}: is no bag, or damaged: {error}") from None
            self.declared = _declared_rows(database, known)
            unknown = 0
            for topic_id, t_ns, raw in self._whole_rows(database):
                if topic_id in known and isinstance(t_ns, int) and isinstance(raw, bytes):
                    name, msgtype, encoding = known[topic_id]
                    yield name, msgtype, encoding, t_ns, raw
                else:
                    unknown += 1
            if unknown:
                self._lose(f"{unknown} messages are of topics that the file does not describe")

    def _whole_rows(self, database: sqlite3.Connection) -> Iterator[tuple[object, object, object]]:
        """All rows in the order in which they were written, stepping over damaged ones."""
        query = "SELECT id, topic_id, timestamp, data FROM messages WHERE id > ? ORDER BY id"
        last, step, damage = -1, 1, ""
        while step <= _MOST_SKIPPED:
            try:
                for number, topic_id, t_ns, raw in database.execute(query, (last,)):
                    last, step = max(last, number), 1  # a damaged table may count backwards
                    yield topic_id, t_ns, raw
                break
            except sqlite3.Error as error:
                damage = damage or f"rows after number {last} are damaged ({error})"
                last, step = last + step, 2 * step
        if damage:
            self._lose(damage)

    def _database(self) -> sqlite3.Connection:
        """Opened so that nothing beside the bag is touched, with what is in a write-ahead log: in place under the lock
        that a live recorder respects, else (a log that somebody left, a read-only disk) from a private copy."""
        log, index = (Path(f"{self._plain}{suffix}") for suffix in ("-wal", "-shm"))
        wrote_ahead = _head(self._plain)[18:20] == b"\2\2"
        if not wrote_ahead or not log.exists() or index.exists():
            with suppress(sqlite3.Error):  # with a log and no index, sqlite would leave an index behind
                return _opened(self._plain, "immutable=1" if wrote_ahead and not log.exists() else "mode=ro")
        copy = self._scratch / f"{self.path.name}.copy"
        for suffix in ("", "-wal", "-journal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{self._plain}{suffix}", f"{copy}{suffix}")
        try:
            return _opened(copy, "mode=rw")
        except sqlite3.Error as error:
            raise BagError(f"{self.path}: cannot be read as a bag: {error}") from None


def _unpacked(packed: bytes) -> bytes | None:
    """One message; None for a damaged one."""
    frame = zstandard.ZstdDecompressor().decompressobj()
    try:
        raw = frame.decompress(packed)
    except zstandard.ZstdError:
        return None
    return raw if frame.eof else None


def _opened(path: Path, how: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)
    try:
        database.execute("PRAGMA writable_schema=ON")  # else sqlite reads nothing of a file that was cut off
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database


def _declared_rows(database: sqlite3.Connection, known: dict[object, tuple[str, str, str]]) -> Counter[str]:
    """How many messages of each topic the table has; empty for a damaged one."""
    try:
        rows = database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id").fetchall()
    except sqlite3.Error:
        return Counter()
    return Counter({known[key][0]: count for key, count in rows if key in known})


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(64)


def _what_else(path: Path, head: bytes) -> str:
    """In words, what a file is that is no storage."""
    if not head:
        return "is empty"
    if not head.strip(b"\0"):
        return f"its {path.stat().st_size} bytes begin with zeros: a recorder that lost power; there is nothing to read"
    if head.startswith(_ROS1):
        return "is a ROS 1 bag; convert it first (rosbags-convert)"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; fetch it first (git lfs pull)"
    return f"is no mcap and no sqlite3 file, it begins with {head[:16]!r}"
