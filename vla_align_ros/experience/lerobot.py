"""A LeRobotDataset (format 3: parquet and video) -> experiences, one episode at a time, in the memory of one horizon.

    meta/info.json                     fps, features with their names, where files are
    meta/tasks.parquet                 task_index -> text, the prompt
    meta/episodes/**.parquet           which rows of which file, which seconds of which video, are which episode
    data/**.parquet, videos/KEY/**.mp4

What was commanded at frame i is `action` of frame i. By lerobot's convention it is an absolute position, also where the
model's kind is `delta_position`: the change from the observation's state is taken here, as openpi does in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vla_align_ros.experience.lerobot_files import (
    DatasetError,
    ParquetRows,
    check_video,
    matrix,
    read_info,
    read_schema,
    read_table,
    read_tasks,
    video_frames,
)
from vla_align_ros.observation.resize import Scaler, area, letterbox
from vla_align_ros.robot.description import ActionField, Number, RobotDescription
from vla_align_ros.types import Experience, Observation, Picture, UInt8Array

STATE, ACTION = "observation.state", "action"
PAUSE_NS: Final = 60_000_000_000  # between episodes, whose own stamps begin at 0


@dataclass(frozen=True)
class Episode:
    """One row of meta/episodes. number: its place in the dataset. start: its first frame, counted through the dataset.
    length: in frames. row: where its data and videos are."""

    index: int
    number: int
    start: int
    length: int
    row: Mapping[str, Any]


def image_features(cameras: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """Camera -> feature: as `named`, else `observation.images.<camera>`. DatasetError for a camera that is none."""
    if unknown := sorted(set(named) - set(cameras)):
        raise DatasetError(f"cameras: the model has no camera {unknown}, it has {list(cameras)}")
    return {camera: f"observation.images.{camera}" for camera in cameras} | dict(named)


EPISODE_COLUMNS: Final = (
    "episode_index",
    "length",
    "dataset_from_index",
    "data/chunk_index",
    "data/file_index",
)
VIDEO_COLUMNS: Final = ("chunk_index", "file_index", "from_timestamp")


class LeRobotDataset:
    """One dataset on disk, read for one robot.

    cameras: the model's camera name -> the dataset's image feature; empty leaves pictures out. image_size: pictures are
    letterboxed to it as live ones are (`scale`: how). robot_column: a column of the data that says which robot an
    episode is of; without it the whole dataset is one robot. prompt: for a dataset without task texts. Raises
    DatasetError for what does not fit.
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
        scale: Scaler = area,
    ) -> None:
        self.folder, self._robot, self._cameras = folder, robot, dict(cameras)
        self._image_size, self._scale, self._robot_column, self._prompt = image_size, scale, robot_column, prompt
        self._info = read_info(folder)
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
        self._tasks = read_tasks(folder)
        if not self.prompts:
            raise DatasetError(f"{folder}: no task text in meta/tasks.parquet: give a prompt")
        self.episodes = self._read_episodes()
        self._check_files()
        self._first_rows: dict[Path, int] = {}
        for episode in self.episodes:
            path, start = self._data_path(episode), episode.start
            self._first_rows[path] = min(start, self._first_rows.get(path, start))
        self._readers: dict[tuple[str, ...], ParquetRows] = {}

    @cached_property
    def by_robot(self) -> dict[str, list[Episode]]:
        """The episodes of each robot, whose name is stable: the folder's, and what the robot column says."""
        found: dict[str, list[Episode]] = {}
        for episode in self.episodes:
            found.setdefault(self._robot_of(episode), []).append(episode)
        return found

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every text that an episode may have."""
        return tuple({*self._tasks.values(), *([self._prompt] if self._prompt else [])})

    def _robot_of(self, episode: Episode) -> str:
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
        for episode in self.episodes if robot is None else self.by_robot[robot]:
            yield from self.experiences_at(episode, range(0, episode.length - horizon, stride), horizon)

    def experiences_at(
        self, episode: Episode, firsts: Sequence[int], horizon: int, images: bool = True, beyond: int = 0
    ) -> Iterator[Experience]:
        """The experiences that begin at frames `firsts` (rising) of an episode; no other frame is kept. beyond: how
        many commands more they have than there are frames to the next observation."""
        rows = self._rows(episode, [STATE, ACTION, "task_index"])
        states = self._robot.state_scale.to_ros(self._vectors(episode, rows, STATE, self._state_columns))
        actions = self._vectors(episode, rows, ACTION, self._action_columns)
        tasks = rows["task_index"].to_pylist()
        start_ns = episode.number * PAUSE_NS + episode.start * self._robot.period_ns
        starts, begun = set(firsts), dict[int, Observation]()
        wanted = sorted({*starts, *(first + horizon for first in starts)})
        for index, seen in zip(wanted, self._pictures(episode, wanted, images), strict=True):
            stamp_ns = start_ns + index * self._robot.period_ns
            now = Observation(seen, states[index].astype(np.float32), self._text(episode, tasks[index]), stamp_ns)
            if index in starts:
                begun[index] = now
            first = index - horizon
            if (before := begun.pop(first, None)) is not None:
                commands = self._commands(actions[first : index + beyond], before.state)
                yield Experience(before, commands, now, episode.number)

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
        found: list[dict[str, Any]] = []
        for path in files:
            names = [name for name in read_schema(path).names if name.startswith(keep)]
            found += read_table(path, names).to_pylist()
        videos = [key for key in self._cameras.values() if self._info["features"][key]["dtype"] == "video"]
        needed = [*EPISODE_COLUMNS, *(f"videos/{key}/{column}" for key in videos for column in VIDEO_COLUMNS)]
        if missing := [name for name in needed if any(row.get(name) is None for row in found)]:
            text = "is a feature called otherwise in meta/info.json, or the dataset of an older format?"
            raise DatasetError(f"{self.folder}: meta/episodes does not say {missing} of every episode: {text}")
        if videos and not isinstance(self._info.get("video_path"), str):
            raise DatasetError(f"{self.folder}: meta/info.json has no video_path, where {videos} are")
        found.sort(key=lambda row: int(row["episode_index"]))
        return [
            Episode(int(row["episode_index"]), number, int(row["dataset_from_index"]), int(row["length"]), row)
            for number, row in enumerate(found)
        ]

    def _check_files(self) -> None:
        """Every file is there, and what can be seen at its end is whole: said before hours of work, not after."""
        for path in dict.fromkeys(map(self._data_path, self.episodes)):
            read_schema(path)
        for key in self._cameras.values():
            if self._info["features"][key]["dtype"] == "video":
                ends_s: dict[Path, float] = {}
                for episode in self.episodes:
                    path, last_s = self._video_path(episode, key), self._time_s(episode, key, episode.length - 1)
                    ends_s[path] = max(last_s, ends_s.get(path, 0.0))
                for path, last_s in ends_s.items():
                    check_video(path, last_s, self.fps)

    def _data_path(self, episode: Episode) -> Path:
        chunk, file = (episode.row[f"data/{part}_index"] for part in ("chunk", "file"))
        return self.folder / str(self._info["data_path"]).format(chunk_index=chunk, file_index=file)

    def _video_path(self, episode: Episode, key: str) -> Path:
        chunk, file = (episode.row[f"videos/{key}/{part}_index"] for part in ("chunk", "file"))
        return self.folder / str(self._info["video_path"]).format(video_key=key, chunk_index=chunk, file_index=file)

    def _time_s(self, episode: Episode, key: str, index: int) -> float:
        """Of an episode's frame, in its video."""
        return float(episode.row[f"videos/{key}/from_timestamp"]) + index / self.fps

    def _rows(self, episode: Episode, columns: list[str]) -> pa.Table:
        path, key = self._data_path(episode), tuple(columns)
        if key not in self._readers or self._readers[key].path != path:
            self._readers[key] = ParquetRows(path, [*columns, "episode_index"])
        rows = self._readers[key].read(episode.start - self._first_rows[path], episode.length)
        mine = rows["episode_index"].to_numpy() == episode.index
        if len(rows) != episode.length or not mine.all():
            found = f"{path}: episode {episode.index} has {mine.sum()} rows"
            raise DatasetError(f"{found} where meta/episodes says that {episode.length} are")
        return rows

    def _vectors(self, episode: Episode, rows: pa.Table, feature: str, columns: list[int]) -> NDArray[np.float64]:
        (length,) = self._info["features"][feature]["shape"]
        vectors = matrix(rows[feature], length, f"{self._data_path(episode)}, {feature}")[:, columns]
        if not np.isfinite(vectors).all():
            raise DatasetError(f"{self.folder}: NaN or infinity in {feature} of episode {episode.index}")
        return vectors

    def _pictures(self, episode: Episode, frames: Sequence[int], images: bool) -> Iterator[dict[str, Picture]]:
        """What each camera saw at some frames, which rise, letterboxed."""
        streams = [self._camera(episode, key, frames) for key in self._cameras.values()] if images else []
        for _ in frames:
            yield {
                camera: letterbox(next(stream), self._image_size, self._scale)
                for camera, stream in zip(self._cameras, streams, strict=bool(streams))
            }

    def _camera(self, episode: Episode, key: str, frames: Sequence[int]) -> Iterator[UInt8Array]:
        if self._info["features"][key]["dtype"] == "image":
            stored = self._rows(episode, [key])[key]
            return (self._still(stored[index].as_py(), key) for index in frames)
        times_s = [self._time_s(episode, key, index) for index in frames]
        return video_frames(self._video_path(episode, key), times_s, self.fps)

    def _still(self, item: Mapping[str, Any], key: str) -> UInt8Array:
        data = item["bytes"] if item.get("bytes") else (self.folder / item["path"]).read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise DatasetError(f"{self.folder}: a picture of {key} cannot be decoded")
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
