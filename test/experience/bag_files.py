"""Writers of the storage files that recorders and their ends leave behind. For the tests beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
import zstandard
from mcap.writer import Writer
from simulated_run import TYPES, Sent

from vla_align_ros.observation.codecs import JOINT_TRAJECTORY

Arrival = tuple[int, Sent]  # receive time in ns, message
PACK = zstandard.ZstdCompressor()


def arrivals(run: Iterable[Sent], late_ns: int = 0) -> list[Arrival]:
    """Every message received `late_ns` after its stamp."""
    return [(sent.stamp_ns + late_ns, sent) for sent in run]


def write_mcap(path: Path, messages: Iterable[Arrival], encoding: str = "cdr", **options: Any) -> Path:
    """Messages in the order given, with the options of mcap's own writer."""
    with path.open("wb") as stream:
        writer = Writer(stream, **{"chunk_size": 2000, **options})
        writer.start(profile="ros2")
        channels: dict[str, int] = {}
        for t_ns, sent in messages:
            if sent.topic not in channels:
                schema = writer.register_schema(TYPES.get(sent.topic, JOINT_TRAJECTORY), "ros2msg", b"")
                channels[sent.topic] = writer.register_channel(sent.topic, encoding, schema)
            writer.add_message(channels[sent.topic], t_ns, sent.raw, t_ns)
        writer.finish()
    return path


TABLES = {
    1: "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT);",
    4: "CREATE TABLE schema(schema_version INTEGER PRIMARY KEY, ros_distro TEXT);"
    "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT, type TEXT, serialization_format TEXT,"
    " offered_qos_profiles TEXT NOT NULL DEFAULT '', type_description_hash TEXT NOT NULL DEFAULT '');",
}
MESSAGES = (
    "CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, data BLOB);"
    "CREATE INDEX timestamp_idx ON messages (timestamp ASC);"
)


def fill_sqlite(database: sqlite3.Connection, messages: Iterable[Arrival], version: int = 4) -> None:
    """Tables of a rosbag2 schema version, with the messages."""
    database.executescript(TABLES[version] + MESSAGES)
    ids = {topic: number for number, topic in enumerate(TYPES, 1)}
    topics = [(ids[topic], topic, kind, "cdr") for topic, kind in TYPES.items()]
    database.executemany("INSERT INTO topics(id, name, type, serialization_format) VALUES (?, ?, ?, ?)", topics)
    rows = [(ids[sent.topic], t_ns, sent.raw) for t_ns, sent in messages]
    database.executemany("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", rows)
    database.commit()


def write_sqlite(path: Path, messages: Iterable[Arrival], version: int = 4) -> Path:
    """A closed db3 file."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA synchronous=OFF")
    fill_sqlite(database, messages, version)
    database.close()
    return path


def write_metadata(folder: Path, names: Iterable[str], counts: dict[str, int], **changes: Any) -> None:
    """What rosbag2 writes beside the storage files."""
    topics = [
        {"topic_metadata": {"name": topic, "type": TYPES[topic], "serialization_format": "cdr"}, "message_count": count}
        for topic, count in counts.items()
    ]
    content = {
        "version": 9,
        "storage_identifier": "mcap",
        "relative_file_paths": list(names),
        "message_count": sum(counts.values()),
        "topics_with_message_count": topics,
        "compression_format": "",
        "compression_mode": "",
        **changes,
    }
    (folder / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))


def listing(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
