"""A LeRobotDataset (format 3: parquet and video) -> experiences, one episode at a time, in the memory of one horizon.

    meta/info.json                     fps, features with their names, where files are
    meta/tasks.parquet                 task_index -> text, the prompt
    meta/episodes/**.parquet           which rows of which file, which seconds of which video, are which episode
    data/**.parquet, videos/KEY/**.mp4

What was commanded at frame i is `action` of frame i. By lerobot's convention it is an absolute position, also where the
model's kind is `delta_position`: the change from the observation's state is taken here, as openpi does in training.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla_align_ros.observation.resize import letterbox
from vla_align_ros.robot.description import ActionField, Number, RobotDescription
from vla_align_ros.types import Experience, Observation, UInt8Array

STATE, ACTION = "observation.state", "action"
PAUSE_NS: Final = 60_000_000_000  # between episodes, whose own stamps begin at 0


class DatasetError(ValueError):
    """A dataset is missing, broken or another robot's; the message says which file, what was expected, what to do."""


@dataclass(frozen=True)
class Episode:
    """One row of meta/episodes: number, tasks, length in frames, and where its data and videos are."""

    index: int
    row: Mapping[str, Any]

    @property
    def length(self) -> int:
        return int(self.row["length"])


class LeRobotDataset:
    """One dataset on disk, read for one robot.

    cameras: the model's camera name -> the dataset's image feature; empty leaves pictures out. image_size: pictures are
    letterboxed to it as live ones are. robot_column: a column of the data that says which robot an episode is of;
    without it the whole dataset is one robot. prompt: for a dataset without task texts. Raises DatasetError for what
    does not fit.
    """

    def __init__(
        self,
        folder: Path,
        robot: RobotDescription,
        cameras: Mapping[str, str],
        image_size: int,
        *,
        robot_column: str | None = None,
        prompt: str | None = None,
    ) -> None:
        self.folder, self._robot, self._cameras = folder, robot, dict(cameras)
        self._image_size, self._robot_column, self._prompt = image_size, robot_column, prompt
        self._info = _read_info(folder)
        self.fps = float(self._info["fps"])
        if abs(self.fps - robot.control_rate_hz) > 1e-6 * self.fps:
            raise DatasetError(
                f"{folder}: recorded at {self.fps:g} fps, the robot's control_rate_hz is {robot.control_rate_hz:g}: "
                "an action would last another time. Resample the dataset, or describe the robot at that rate"
            )
        self._state_columns = self._columns(STATE, robot.state)
        self._action_columns = self._columns(ACTION, robot.action)
        features = self._info["features"]
        images = [name for name, feature in features.items() if feature.get("dtype") in ("video", "image")]
        for camera, key in self._cameras.items():
            if key not in images:
                raise DatasetError(f"{folder}: camera {camera!r} is to be {key!r}, the dataset has images {images}")
        self._tasks = _read_tasks(folder)
        self.episodes = self._read_episodes()

    @property
    def robots(self) -> tuple[str, ...]:
        """Every robot of the dataset, as in `robot_of`, in the order of their first episodes."""
        return tuple(dict.fromkeys(self.robot_of(episode) for episode in self.episodes))

    def robot_of(self, episode: Episode) -> str:
        """A stable name of the robot that an episode is of."""
        if self._robot_column is None:
            return self.folder.name
        values = self._rows(episode, [self._robot_column])[self._robot_column].to_pylist()
        if len(set(map(str, values))) != 1:
            raise DatasetError(f"{self.folder}: {self._robot_column} changes within episode {episode.index}")
        return f"{self.folder.name}/{values[0]}"

    def experiences(self, horizon: int, stride: int, robot: str | None = None) -> Iterator[Experience]:
        """All experiences of one robot (of all, when None) in order of time; one begins every `stride` frames.

        commands (horizon, A) and states (S,) in ROS's units, as live. DatasetError where a file is broken.
        """
        for number, episode in enumerate(self.episodes):
            if robot is not None and self.robot_of(episode) != robot:
                continue
            seen: deque[tuple[Observation, NDArray[np.float64]]] = deque(maxlen=horizon + 1)
            for index, frame in enumerate(self.frames(episode, number)):
                seen.append(frame)
                first = index - horizon
                if first >= 0 and first % stride == 0:
                    observation = seen[0][0]
                    commands = self._commands(np.stack([action for _, action in list(seen)[:-1]]), observation.state)
                    yield Experience(observation, commands, frame[0], number)

    def frames(self, episode: Episode, number: int = 0) -> Iterator[tuple[Observation, NDArray[np.float64]]]:
        """Each frame of an episode: the observation, and the action (A,) in the dataset's own numbers, absolute."""
        rows = self._rows(episode, [STATE, ACTION, "task_index"])
        states, actions = (_matrix(rows[name]) for name in (STATE, ACTION))
        states, actions = states[:, self._state_columns], actions[:, self._action_columns]
        if not (np.isfinite(states).all() and np.isfinite(actions).all()):
            raise DatasetError(f"{self.folder}: NaN or infinity in the state or action of episode {episode.index}")
        in_ros = self._robot.state_scale.to_ros(states).astype(np.float32)
        pictures = [self._pictures(episode, key) for key in self._cameras.values()]
        start_ns = number * PAUSE_NS + self._start_ns(episode)
        together = zip(*pictures, strict=True) if pictures else repeat((), episode.length)
        for index, images in enumerate(together):
            prompt = self._text(episode, int(rows["task_index"][index].as_py()))
            stamp_ns = start_ns + index * self._robot.period_ns
            seen = dict(zip(self._cameras, images, strict=True))
            yield Observation(seen, in_ros[index], prompt, stamp_ns), actions[index]

    def _start_ns(self, episode: Episode) -> int:
        return int(episode.row["dataset_from_index"]) * self._robot.period_ns

    def _commands(self, actions: NDArray[np.float64], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, A) of the dataset -> the robot's kinds, in ROS's units."""
        delta = self._robot.kinds == "delta_position"
        commands = self._robot.goal_scale.to_ros(actions)
        commands[:, delta] -= self._robot.measured(state)[delta]
        return commands.astype(np.float32)

    def _text(self, episode: Episode, task_index: int) -> str:
        text = self._tasks.get(task_index) or self._prompt
        if not text:
            raise DatasetError(
                f"{self.folder}: episode {episode.index} has no task text (task_index {task_index}): give a prompt"
            )
        return text

    def _columns(self, feature: str, fields: Sequence[Number]) -> list[int]:
        """Where each field is in a feature's vector: by name, or by place where the dataset has no names."""
        about = self._info["features"].get(feature)
        if about is None:
            raise DatasetError(f"{self.folder}: no feature {feature!r}, it has {sorted(self._info['features'])}")
        (length,), names = about["shape"], about.get("names")
        if isinstance(names, dict):  # {"motors": [...]}
            names = [name for group in names.values() for name in group]
        labels = [item.label for item in fields]
        if not names:
            if length != len(labels):
                raise DatasetError(
                    f"{self.folder}: {feature} has {length} numbers without names, the robot needs {labels}"
                )
            return list(range(length))
        if missing := [label for label in labels if label not in names]:
            vector = "action" if isinstance(fields[0], ActionField) else "state"
            raise DatasetError(
                f"{self.folder}: {feature} has {names}, the robot's {vector} needs {missing}. Is it another robot's "
                "dataset? Else say the dataset's names in the robot description (name: ...)"
            )
        return [names.index(label) for label in labels]

    def _read_episodes(self) -> list[Episode]:
        files = sorted((self.folder / "meta" / "episodes").rglob("*.parquet"))
        if not files:
            raise DatasetError(
                f"{self.folder}: no meta/episodes/**.parquet; format 3 is read, see `lerobot` to convert"
            )
        keep = ("episode_index", "length", "dataset_from_index", "data/", "videos/")
        found = []
        for path in files:
            names = [name for name in _schema(path).names if name.startswith(keep)]
            found += [Episode(int(row["episode_index"]), row) for row in _table(path, names).to_pylist()]
        return sorted(found, key=lambda episode: episode.index)

    def _rows(self, episode: Episode, columns: list[str]) -> pa.Table:
        path = self.folder / self._info["data_path"].format(
            chunk_index=episode.row["data/chunk_index"], file_index=episode.row["data/file_index"]
        )
        if missing := [name for name in columns if name not in _schema(path).names]:
            raise DatasetError(f"{path}: no column {missing}, it has {_schema(path).names}")
        rows = _table(path, columns, ("episode_index", "=", episode.index))
        if len(rows) != episode.length:
            raise DatasetError(
                f"{path}: episode {episode.index} has {len(rows)} rows, meta/episodes says {episode.length}"
            )
        return rows

    def _pictures(self, episode: Episode, key: str) -> Iterator[UInt8Array]:
        if self._info["features"][key]["dtype"] == "image":
            stored = self._rows(episode, [key])[key].to_pylist()
            return (letterbox(self._still(item, key), self._image_size) for item in stored)
        path = self.folder / self._info["video_path"].format(
            video_key=key,
            chunk_index=episode.row[f"videos/{key}/chunk_index"],
            file_index=episode.row[f"videos/{key}/file_index"],
        )
        start_s = float(episode.row[f"videos/{key}/from_timestamp"])
        frames = _video_frames(path, start_s, self.fps, episode.length)
        return (letterbox(frame, self._image_size) for frame in frames)

    def _still(self, item: Mapping[str, Any], key: str) -> UInt8Array:
        data = item["bytes"] if item.get("bytes") else (self.folder / item["path"]).read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise DatasetError(f"{self.folder}: a picture of {key} cannot be decoded")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _video_frames(path: Path, start_s: float, fps: float, count: int) -> Iterator[UInt8Array]:
    """`count` frames from `start_s` on, (height, width, 3) RGB, each within half a frame of its time."""
    if not path.is_file():
        raise DatasetError(f"{path}: the video is missing; was the dataset downloaded whole?")
    given = 0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            container.seek(int(start_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if given == count:
                    return
                ahead = (Fraction(frame.pts or 0) * stream.time_base - Fraction(start_s)) * Fraction(fps) - given
                if ahead < -0.5:
                    continue  # from the key frame before
                if ahead > 0.5:
                    break
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                given += 1
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path}: the video cannot be decoded: {error}") from None
    if given < count:
        raise DatasetError(f"{path}: {count} frames from {start_s:.3f} s on are needed, frame {given} is not there")


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "meta" / "info.json"
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, _ = str(info["codebase_version"]), info["fps"] and info["features"] and info["data_path"]
    except OSError:
        raise DatasetError(f"{folder}: no LeRobotDataset, there is no meta/info.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path}: expected codebase_version, fps, features and data_path: {error!r}") from None
    if not version.startswith("v3."):
        raise DatasetError(
            f"{folder}: format {version}; v3 is read. Convert it with lerobot's convert_dataset_v21_to_v30"
        )
    return info


def _read_tasks(folder: Path) -> dict[int, str]:
    """task_index -> text; pandas wrote the text as the index, under one name or another."""
    path = folder / "meta" / "tasks.parquet"
    if not path.is_file():
        return {}
    table = _table(path, _schema(path).names)
    texts = [
        name for name in table.column_names if pa.types.is_string(t := table[name].type) or pa.types.is_large_string(t)
    ]
    if "task_index" not in table.column_names or len(texts) != 1:
        raise DatasetError(f"{path}: expected task_index and one column of texts, got {table.column_names}")
    return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as parquet; is it whole? {error}") from None


def _table(path: Path, columns: list[str], where: tuple[str, str, int] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, filters=None if where is None else [where])
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path}: cannot be read as parquet; is it whole? {error}") from None


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column of lists -> (rows, length)."""
    return np.array(column.to_pylist(), np.float64)
