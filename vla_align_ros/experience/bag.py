"""A recording -> experiences, through the very assembler and builder that the live node uses.

Reads rosbag2 folders (mcap or sqlite3), single `.mcap` and `.db3` files, and what a killed recorder leaves: an mcap
without index and without metadata.yaml, as far as it is whole. The last `lag_s` of a bag give no experience, because
messages of that time may be missing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mcap.exceptions import InvalidMagic
from mcap.reader import NonSeekingReader
from rosbags.rosbag2 import Reader

from vla_align_ros.experience.builder import ExperienceBuilder
from vla_align_ros.observation.assemble import ObservationAssembler, ObservationRefused
from vla_align_ros.observation.codecs import (
    COMPRESSED_IMAGE,
    IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STRING,
    MessageRefused,
)
from vla_align_ros.types import Experience

log = logging.getLogger(__name__)


class BagError(ValueError):
    """A bag is missing, unreadable, empty, or lacks a topic; the message says which and what the bag has."""


@dataclass(frozen=True)
class BagTopics:
    """Which topics of a bag are what, as absolute names. cameras: the model's camera name -> topic."""

    cameras: Mapping[str, str]
    joints: str
    prompt: str
    chunk: str

    @property
    def types(self) -> dict[str, tuple[str, ...]]:
        """Every needed topic with the message types that it may have."""
        cameras = {topic: (IMAGE, COMPRESSED_IMAGE) for topic in self.cameras.values()}
        return {**cameras, self.joints: (JOINT_STATE,), self.prompt: (STRING,), self.chunk: (JOINT_TRAJECTORY,)}


class BagMessage(NamedTuple):
    """One serialised message. t_ns: when it was recorded."""

    topic: str
    msgtype: str
    t_ns: int
    raw: bytes


def read_bag(
    path: Path, topics: BagTopics, assembler: ObservationAssembler, builder: ExperienceBuilder
) -> Iterator[Experience]:
    """The experiences in the bag at `path`, oldest first. `assembler`, `builder`: fresh ones, made as for a live run.

    Messages are fed in recorded order. One that is refused costs nothing but itself and is counted in
    `assembler.refused` or `builder.skipped`, as live. Raises BagError at once for a bag that is missing, empty or
    without a needed topic, and while iterating for one that turns out to be corrupt.
    """
    _check_topics(path, topics)
    return _experiences(bag_messages(path), topics, assembler, builder)


def bag_messages(path: Path) -> Iterator[BagMessage]:
    """All messages of a bag in recorded order. Raises BagError for a missing or corrupt one."""
    for part in _parts(path):
        yield from _indexed_messages(part) if _has_index(part) else _unindexed_messages(part)


def _experiences(
    messages: Iterator[BagMessage], topics: BagTopics, assembler: ObservationAssembler, builder: ExperienceBuilder
) -> Iterator[Experience]:
    for message in messages:
        # before the message: what became complete in the silence before it must not meet a history that it shortened
        yield from builder.advance(message.t_ns)
        try:
            if message.topic == topics.chunk:
                builder.push_command(message.raw, message.t_ns)
            else:
                push_sensed(message, topics, assembler)
        except (MessageRefused, ObservationRefused) as refused:
            log.debug("%s at %d ns: %s", message.topic, message.t_ns, refused)


def push_sensed(message: BagMessage, topics: BagTopics, assembler: ObservationAssembler) -> None:
    """Feed a message of a camera, the joints or the prompt; another topic's is passed over. Raises as `push_*` does."""
    cameras = {topic: camera for camera, topic in topics.cameras.items()}
    if message.topic in cameras:
        assembler.push_image(cameras[message.topic], message.raw, message.msgtype)
    elif message.topic == topics.joints:
        assembler.push_joints(message.raw)
    elif message.topic == topics.prompt:
        assembler.push_prompt(message.raw, message.t_ns)


def _check_topics(path: Path, topics: BagTopics) -> None:
    counts: Counter[str] = Counter()
    types: dict[str, str] = {}
    for part in _parts(path):
        for topic, msgtype, count in _indexed_topics(part) if _has_index(part) else _unindexed_topics(part):
            counts[topic] += count
            types[topic] = msgtype
    if not counts.total():
        raise BagError(f"{path}: the bag has no messages")
    if missing := sorted(topic for topic in topics.types if not counts[topic]):
        found = ", ".join(f"{topic} ({types[topic]}, {count} messages)" for topic, count in sorted(counts.items()))
        raise BagError(f"{path}: no messages on {missing}; the bag has {found}. Name the right topics or record them.")
    for topic, allowed in topics.types.items():
        if types[topic] not in allowed:
            raise BagError(f"{path}: {topic} must be {' or '.join(allowed)}, it is {types[topic]}")


def _parts(path: Path) -> list[Path]:
    """What to read one after the other: the folder itself when it is whole, else its storage files, or the file."""
    if not path.exists():
        raise BagError(f"{path}: no such bag")
    if path.is_file() or (path / "metadata.yaml").exists():
        return [path]
    files = [file for file in path.iterdir() if file.suffix in (".mcap", ".db3")]
    if not files:
        raise BagError(f"{path}: no bag, there is no metadata.yaml and no .mcap or .db3 file in this folder")
    return sorted(files, key=lambda file: (len(file.name), file.name))  # bag_2 before bag_10


def _has_index(part: Path) -> bool:
    """Whether rosbags can read it; only an .mcap can be read without that."""
    if part.suffix != ".mcap" or part.is_dir():
        return True
    try:
        with Reader(part):
            return True
    except Exception as error:  # noqa: BLE001 - rosbags lets struct.error, AssertionError and more out of torn files
        log.warning("%s has no usable index (%s); reading it from the start, as far as it is whole", part, error)
        return False


def _indexed_topics(part: Path) -> list[tuple[str, str, int]]:
    try:
        with Reader(part) as reader:
            return [(item.topic, item.msgtype, item.msgcount) for item in reader.connections]
    except Exception as error:  # as above
        raise BagError(f"{part}: cannot be read as a bag: {error}") from error


def _indexed_messages(part: Path) -> Iterator[BagMessage]:
    try:
        with Reader(part) as reader:
            for connection, t_ns, raw in reader.messages():
                yield BagMessage(connection.topic, connection.msgtype, t_ns, raw)
    except Exception as error:  # as above
        raise BagError(f"{part}: the bag is corrupt: {error}") from error


def _unindexed_topics(part: Path) -> list[tuple[str, str, int]]:
    counts = Counter((message.topic, message.msgtype) for message in _unindexed_messages(part))
    return [(topic, msgtype, count) for (topic, msgtype), count in counts.items()]


def _unindexed_messages(part: Path) -> Iterator[BagMessage]:
    with part.open("rb") as stream:
        try:
            for schema, channel, message in NonSeekingReader(stream).iter_messages(log_time_order=False):
                if schema is not None:
                    yield BagMessage(channel.topic, schema.name, message.log_time, message.data)
        except InvalidMagic as error:
            raise BagError(f"{part}: no mcap file: {error}") from None
        except Exception as error:  # noqa: BLE001 - a torn record: mcap raises struct.error, EndOfFile and more
            log.info("%s ends inside a record (%r)", part, error)
