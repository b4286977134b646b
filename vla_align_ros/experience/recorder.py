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

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
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
        self._connections = {
            topic: writer.add_connection(
                topic, msgtype, typestore=TYPESTORE, offered_qos_profiles=[_LATCHED] if topic in latched else []
            )
            for topic, msgtype in topics.items()
        }
        self._writer = writer

    def write(self, topic: str, raw: RawMessage, t_ns: int) -> None:
        """Append a serialised message that came at `t_ns`. RecorderError for an unknown topic, a closed bag, and a disk
        that takes no more: the bag is closed then, since what would follow a torn record could not be found.
        """
        if topic not in self._connections:
            raise RecorderError(f"{topic} is not recorded, this bag has {sorted(self._connections)}")
        with self._lock:
            if self._writer is None:
                raise RecorderError("the bag is closed")
            try:
                self._writer.write(self._connections[topic], t_ns, bytes(raw))
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Finish the bag (index, metadata.yaml). A second call does nothing. RecorderError for a full disk."""
        with self._lock:
            if self._writer is not None:
                try:
                    self._writer.close()
                except OSError as error:
                    self._give_up(error)
                self._writer = None

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
