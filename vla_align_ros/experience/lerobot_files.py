"""The parquet and video files of a LeRobotDataset, read a row group and a frame at a time."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vla_align_ros.types import UInt8Array

_AHEAD_FRAMES: Final = 4  # decoded on the way to a frame that is wanted, rather than seek


class DatasetError(ValueError):
    """A dataset is missing, broken or another robot's; the message says which file, what was expected, what to do."""


def read_info(folder: Path) -> dict[str, Any]:
    """`meta/info.json` of format 3."""
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


def read_tasks(folder: Path) -> dict[int, str]:
    """task_index -> text; pandas wrote the text as the index, under one name or another."""
    path = folder / "meta" / "tasks.parquet"
    if not path.is_file():
        return {}
    table = read_table(path, read_schema(path).names)
    texts = [
        name for name in table.column_names if pa.types.is_string(t := table[name].type) or pa.types.is_large_string(t)
    ]
    if "task_index" not in table.column_names or len(texts) != 1:
        raise DatasetError(f"{path}: expected task_index and one column of texts, got {table.column_names}")
    return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True))


def read_schema(path: Path) -> pa.Schema:
    """The columns of a parquet file. DatasetError when it is missing or torn."""
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(path, error) from None


def read_table(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of a whole, small file."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _not_whole(path, error) from None


class ParquetRows:
    """Rows of one parquet file by their number. The row group that was read last is kept."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Raises DatasetError for a file that is missing or torn, or has not all of `columns`."""
        self.path, self._columns = path, list(columns)
        names = read_schema(path).names
        if missing := [name for name in columns if name not in names]:
            raise DatasetError(f"{path}: no column {missing}, it has {names}")
        self._file = pq.ParquetFile(path)
        groups = self._file.metadata
        lengths = [groups.row_group(index).num_rows for index in range(groups.num_row_groups)]
        self._starts = np.cumsum([0, *lengths]).tolist()
        self._group, self._table = -1, pa.table({})

    def read(self, first: int, count: int) -> pa.Table:
        """Rows first .. first + count - 1, fewer at the end of the file."""
        parts, end = [], min(first + count, self._starts[-1])
        while first < end:
            group = bisect_right(self._starts, first) - 1
            stop = min(end, self._starts[group + 1])
            parts.append(self._read_group(group).slice(first - self._starts[group], stop - first))
            first = stop
        return pa.concat_tables(parts) if parts else self._file.schema_arrow.empty_table().select(self._columns)

    def _read_group(self, group: int) -> pa.Table:
        if group != self._group:
            try:
                self._group, self._table = group, self._file.read_row_group(group, self._columns)
            except (OSError, pa.ArrowException) as error:
                raise _not_whole(self.path, error) from None
        return self._table


def matrix(column: pa.ChunkedArray, length: int, where: str) -> NDArray[np.float64]:
    """A column of lists, or of numbers where `length` is 1 -> (rows, length). DatasetError when rows are longer or
    shorter than that."""
    values = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        values = values.flatten()
    numbers: NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
    if numbers.size != len(column) * length:
        raise DatasetError(
            f"{where}: {numbers.size} numbers in {len(column)} rows, meta/info.json says {length} in each: the dataset "
            "is broken, or another robot's"
        )
    return numbers.reshape(-1, length)


def check_video(path: Path, last_s: float, fps: float) -> None:
    """Does a video reach the frame at `last_s`? Nothing is decoded: its index is read, and what lies at its end.
    DatasetError for one that is missing, torn or too short."""
    if not path.is_file():
        raise DatasetError(f"{path}: the video is missing; was the dataset downloaded whole?")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            container.seek(int(last_s / stream.time_base), stream=stream)
            whole = [packet for packet in container.demux(stream) if packet.pts is not None and not packet.is_corrupt]
            end_s = max((float((packet.pts or 0) * stream.time_base) for packet in whole), default=0.0)
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path}: cannot be read as a video; is it whole? {error}") from None
    if end_s < last_s - 0.5 / fps:
        raise DatasetError(
            f"{path}: the frame at {last_s:.3f} s is not there, the last one that meta/episodes has of it; was the "
            "dataset downloaded whole?"
        )


def video_frames(path: Path, times_s: Sequence[float], fps: float) -> Iterator[UInt8Array]:
    """The frame at each of `times_s`, which rise, (height, width, 3) RGB. DatasetError for one that is not there within
    half a frame."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.time_base is not None
            frames: Iterator[av.VideoFrame] = iter(())
            at_s, ahead_s = -np.inf, _AHEAD_FRAMES / fps
            for wanted_s in times_s:
                if sought := wanted_s - at_s > ahead_s:
                    container.seek(int(wanted_s / stream.time_base), stream=stream)
                    frames = container.decode(stream)
                before_s = at_s
                for frame in frames:
                    at_s = float(frame.time or 0.0)
                    if sought and at_s <= before_s:
                        ahead_s *= 2  # key frames are farther apart than that: seeking led back
                    sought = False
                    if at_s >= wanted_s - 0.5 / fps:
                        break
                if abs(at_s - wanted_s) > 0.5 / fps:
                    raise DatasetError(
                        f"{path}: the frame at {wanted_s:.3f} s is not there, the next one is at {at_s:.3f} s"
                    )
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise DatasetError(f"{path}: the video cannot be decoded: {error}") from None


def _not_whole(path: Path, error: Exception) -> DatasetError:
    if not path.is_file():
        return DatasetError(f"{path}: missing; was the dataset downloaded whole?")
    return DatasetError(f"{path}: cannot be read as parquet; is it whole? {error}")
