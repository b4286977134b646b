"""How fast a LeRobotDataset is read against a plain read of the same files, and how memory grows with its length.

    python benchmarks/lerobot_reading.py --json lerobot_reading.json

The dataset is made here: one robot, two cameras of 320 x 240 at 30 frames a second, h264 with a key frame every second
frame, as lerobot writes. A sample of the plain read is a frame of each camera as RGB with its row of numbers; of ours
an experience: observation, H commands in ROS's units, next observation, letterboxed to 224. In order, each frame is
decoded once; shuffled, a training shard is drawn from anywhere, two frames a sample, whose pictures stay in memory
(`shard_mib`, less where samples share a frame, as they do more often in a short dataset). Each measurement has a
process of its own, so that its peak memory is its own; as large a shard is drawn from the long dataset as from the
short one.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import av
import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from vla_align_ros.experience.lerobot import LeRobotDataset
from vla_align_ros.experience.lerobot_source import lerobot_sources
from vla_align_ros.robot.description import load_description

FPS, HEIGHT, WIDTH, SIZE, HORIZON = 30, 240, 320, 224, 50
EPISODE_S = 10
CAMERAS = {"front": "observation.images.front", "wrist": "observation.images.wrist"}
ROBOT = machine.ROOT / "config" / "robots" / "so101.yaml"
LONGER = 4
DATA, VIDEO = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "videos/{video_key}/{file_index:03d}.mp4"


def make_dataset(folder: Path, episodes: int) -> None:
    """Files of at most 4 episodes, as long recordings have."""
    names = [field.label for field in load_description(ROBOT).state]
    numbers = {"dtype": "float32", "shape": [len(names)], "names": names}
    video = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    features = {"observation.state": numbers, "action": numbers, **dict.fromkeys(CAMERAS.values(), video)}
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features, "data_path": DATA, "video_path": VIDEO}
    (folder / "meta" / "episodes").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "task": ["pick the cube"]}), folder / "meta" / "tasks.parquet")
    length, rng, rows = EPISODE_S * FPS, np.random.default_rng(0), []
    for file, first in enumerate(range(0, episodes, 4)):
        numbers_of = range(first, min(first + 4, episodes))
        write_numbers(folder / DATA.format(chunk_index=0, file_index=file), numbers_of, length, len(names), rng)
        for key in CAMERAS.values():
            write_video(folder / VIDEO.format(video_key=key, file_index=file), len(numbers_of) * length, rng)
        for episode in numbers_of:
            row = {"episode_index": episode, "length": length, "dataset_from_index": episode * length}
            row |= {"data/chunk_index": 0, "data/file_index": file}
            for key in CAMERAS.values():
                row |= {f"videos/{key}/chunk_index": 0, f"videos/{key}/file_index": file}
                row |= {f"videos/{key}/from_timestamp": (episode - first) * EPISODE_S}
            rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), folder / "meta" / "episodes" / "file-000.parquet")


def write_numbers(path: Path, episodes: range, length: int, fields: int, rng: np.random.Generator) -> None:
    """State and action that wander, in degrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = len(episodes) * length
    state = rng.normal(0, 1, (count, fields)).cumsum(0).astype(np.float32)
    table = {"observation.state": state.tolist(), "action": (state + 1).tolist(), "task_index": [0] * count}
    table |= {"episode_index": np.repeat(episodes, length), "index": np.arange(count) + episodes[0] * length}
    pq.write_table(pa.table(table), path)


def write_video(path: Path, count: int, rng: np.random.Generator) -> None:
    """A bright patch that moves over a noisy table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = rng.integers(60, 200, (HEIGHT, WIDTH, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "30", "g": "2", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(count):
            pixels = table.copy()
            pixels[80:140, index % (WIDTH - 60) : index % (WIDTH - 60) + 60] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def plain(folder: Path, samples: int) -> int:
    """Every number and every frame, by pyarrow and PyAV alone."""
    rows = sum(
        len(pq.read_table(path, columns=["observation.state", "action"])) for path in folder.rglob("data/**/*.parquet")
    )
    for path in folder.rglob("*.mp4"):
        with av.open(str(path)) as container:
            for frame in container.decode(container.streams.video[0]):
                frame.to_ndarray(format="rgb24")
    return rows


def in_order(folder: Path, samples: int) -> int:
    """Every experience, one a frame."""
    dataset = LeRobotDataset(folder, load_description(ROBOT), CAMERAS, SIZE)
    return sum(1 for _ in dataset.experiences(HORIZON, 1))


def shuffled(folder: Path, samples: int) -> int:
    """A shard of training samples from anywhere."""
    dataset = LeRobotDataset(folder, load_description(ROBOT), CAMERAS, SIZE)
    source = lerobot_sources([dataset], []).training
    raw = source.samples(np.zeros(samples, np.int64), HORIZON, SIZE, np.random.default_rng(0))
    return len(raw.experiences)


KINDS: dict[str, Callable[[Path, int], int]] = {"plain": plain, "in_order": in_order, "shuffled": shuffled}


def measured(kind: str, folder: Path, samples: int) -> dict[str, float]:
    """In a process of its own."""
    before_mib, wall_s, cpu_s = machine.memory_mib("VmRSS"), time.perf_counter(), time.process_time()
    count = KINDS[kind](folder, samples)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {
        "samples": count,
        "samples_per_s": count / wall_s,
        "samples_per_cpu_s": count / cpu_s,
        "peak_memory_mib": machine.memory_mib("VmHWM") - before_mib,
    }


def main(
    episodes: Annotated[int, typer.Option(min=2, help="Of the short dataset, of 10 s each.")] = 4,
    samples: Annotated[int, typer.Option(min=1, help="Of a shuffled shard.")] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Read a dataset, and one that is 4 times as long."""
    shard_mib = samples * 2 * len(CAMERAS) * SIZE**2 * 3 / 2**20
    found: dict[str, Any] = {"episodes": episodes, "frames": episodes * EPISODE_S * FPS, "shard_mib": shard_mib}
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in (("short", episodes), ("long", LONGER * episodes)):
            folder = Path(scratch) / name
            make_dataset(folder, count)
            found[name] = {}
            for kind in KINDS:
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    found[name][kind] = pool.submit(measured, kind, folder, samples).result()
    for kind in ("in_order", "shuffled"):
        long, short, base = found["long"][kind], found["short"][kind], found["long"]["plain"]
        found[f"{kind}_over_plain_per_cpu_s"] = long["samples_per_cpu_s"] / base["samples_per_cpu_s"]
        found[f"{kind}_memory_growth_mib"] = long["peak_memory_mib"] - short["peak_memory_mib"]
    print(json.dumps(found, indent=2))
    machine.write(json_file, found)


if __name__ == "__main__":
    typer.run(main)
