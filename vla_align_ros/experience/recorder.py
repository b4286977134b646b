"""A bag writer for places without `ros2 bag`: raw messages into an mcap that rosbags, ros2 bag and Foxglove read.

Data goes to disk in chunks of 1 MiB and metadata.yaml comes last: a killed process loses at most what came after the
last whole chunk, and `experience.bag` reads the rest.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError

from vla_align_ros.observation.codecs import TYPESTORE, RawMessage


class RecorderError(RuntimeError):
    """A bag cannot be started or written on, or a message does not belong into it."""


class BagRecorder:
    """Writes the messages of fixed topics into a new bag folder; thread-safe. A context manager: leaving it closes it.

    topics: topic -> message type, such as `sensor_msgs/msg/Image`. latched: those of them that are transient local (a
    prompt), so that `ros2 bag play` offers them so.
    """

    def __init__(self, path: Path, topics: Mapping[str, str], latched: Collection[str] = ()) -> None:
        """Raises RecorderError when `path` exists or cannot be made, or a message type is unknown."""
        if unknown := sorted(set(topics.values()) - set(TYPESTORE.types)):
            raise RecorderError(f"unknown message types {unknown}; a topic's type is written like std_msgs/msg/String")
        self._lock = threading.Lock()
        self._writer: Writer | None = None
        try:
            writer = Writer(path, version=Writer.VERSION_LATEST, storage_plugin=StoragePlugin.MCAP)
            writer.open()
        except (WriterError, OSError) as error:
            raise RecorderError(f"cannot start a bag: {error} Choose a path that does not exist yet.") from error
        self._types, self._latched = dict(topics), set(latched)
        self._connections: dict[tuple[str, str], Connection] = {}
        self._writer = writer

    def write(self, topic: str, raw: RawMessage, t_ns: int, msgtype: str = "") -> None:
        """Append a serialised message that came at `t_ns`. msgtype: another type than the topic's, as of a camera that
        turned out to send CompressedImage. RecorderError for an unknown topic, a closed bag, and a disk that takes no
        more: the bag is closed then, since what would follow a torn record could not be found.
        """
        if topic not in self._types:
            raise RecorderError(f"{topic} is not recorded, this bag has {sorted(self._types)}")
        with self._lock:
            if self._writer is None:
                raise RecorderError("the bag is closed")
            try:
                self._writer.write(self._connection(self._writer, topic, msgtype), t_ns, bytes(raw))
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Finish the bag (index, metadata.yaml). A second call does nothing. RecorderError for a full disk."""
        with self._lock:
            if self._writer is not None:
                written = {topic for topic, _ in self._connections}
                for topic in self._types:
                    if topic not in written:  # no message came, and the bag says so
                        self._connection(self._writer, topic)
                try:
                    self._writer.close()
                except OSError as error:
                    self._give_up(error)
                self._writer = None

    def _connection(self, writer: Writer, topic: str, msgtype: str = "") -> Connection:
        """Made with the first message, since only that tells a camera's type."""
        key = (topic, msgtype or self._types[topic])
        if key not in self._connections:
            qos = [_LATCHED] if topic in self._latched else []
            self._connections[key] = writer.add_connection(*key, typestore=TYPESTORE, offered_qos_profiles=qos)
        return self._connections[key]

    def _give_up(self, error: OSError) -> NoReturn:
        writer, self._writer = self._writer, None
        with suppress(OSError):  # what is buffered cannot be written either
            if writer is not None:
                writer.abort()
        raise RecorderError(
            f"the bag ends here: {error}. What is whole in it can be read; make room, and record again"
        ) from error

    def __enter__(self) -> BagRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_LATCHED = Qos(
    QosHistory.KEEP_LAST,
    1,
    QosReliability.RELIABLE,
    QosDurability.TRANSIENT_LOCAL,
    QosTime(0, 0),
    QosTime(0, 0),
    QosLiveliness.AUTOMATIC,
    QosTime(0, 0),
    False,
)
