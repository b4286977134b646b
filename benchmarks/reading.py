"""How fast LeRobotDatasets and bags are read against what training eats, and how memory grows with their length.

    python benchmarks/reading.py --json reading.json

Both are made here, of one robot: two cameras of 320 x 240 at 30 frames a second, h264 with a key frame every second
frame, as lerobot writes, or JPEGs in mcap. A sample is an experience: observation, H commands in ROS's units, next
observation, letterboxed to the 64 pixels of `models/tiny`. `in_order`: each one, as an alignment at the desk reads.
`shuffled`: a shard drawn from anywhere, as training reads; where frames are many and samples few it costs more a
sample, and of bags a whole pass. `plain`: every number and frame of the dataset, by pyarrow and PyAV alone. What eats
is the step of config/train/tiny.yaml, which sees each sample of a shard `shard_epochs` times.

Each measurement has a process of its own, so that its peak memory is its own. The one of `shuffled` holds its shard,
as large a one from the long recordings as from the short ones.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
import machine
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import training
import typer
from rosbags.typesys.stores import ros2_jazzy as ros

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.cli.sources import Untrained, open_sources
from vla_align_ros.experience.bag_topics import COMMAND, PROMPT, bag_topics
from vla_align_ros.experience.lerobot import LeRobotDataset
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.experience.source import Source
from vla_align_ros.observation.codecs import (
    COMPRESSED_IMAGE,
    JOINT_STATE,
    JOINT_TRAJECTORY,
    STRING,
    TYPESTORE,
    encode_joint_state,
    encode_string,
    encode_trajectory,
)
from vla_align_ros.offline import read_bag
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy.config import ModelConfig, load_model_description
from vla_align_ros.robot.description import load_description
from vla_align_ros.training.recipe import load_recipe
from vla_align_ros.types import ActionChunk, Float32Array, UInt8Array

FPS, HEIGHT, WIDTH, SIZE, HORIZON = 30, 240, 320, 64, 50
EPISODE_S = 10
PATCH = 60  # pixels
CAMERAS = {"front": "observation.images.front", "wrist": "observation.images.wrist"}
RECIPES = machine.ROOT / "config" / "train"
EATER = RECIPES / "tiny.yaml"
EATER_STEPS = 10
LONGER = 4
T0_TICKS = 1_700_000_000 * FPS
TASK = "pick the cube"
ROBOT = load_description(machine.ROOT / "config" / "robots" / "so101.yaml")
DATA, VIDEO = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "videos/{video_key}/{file_index:03d}.mp4"


def make_dataset(folder: Path, episodes: int) -> None:
    """Files of at most 4 episodes, as long recordings have."""
    names = [field.label for field in ROBOT.state]
    numbers = {"dtype": "float32", "shape": [len(names)], "names": names}
    video = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3], "names": ["height", "width", "channels"]}
    features = {"observation.state": numbers, "action": numbers, **dict.fromkeys(CAMERAS.values(), video)}
    info = {"codebase_version": "v3.0", "fps": FPS, "features": features, "data_path": DATA, "video_path": VIDEO}
    (folder / "meta" / "episodes").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    pq.write_table(pa.table({"task_index": [0], "task": [TASK]}), folder / "meta" / "tasks.parquet")
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


def picture(table: UInt8Array, index: int) -> UInt8Array:
    """A bright patch that moves over the table."""
    pixels, left = table.copy(), index % (WIDTH - PATCH)
    pixels[80 : 80 + PATCH, left : left + PATCH] = 230
    return pixels


def a_table(rng: np.random.Generator) -> UInt8Array:
    """Noise."""
    return rng.integers(60, 200, (HEIGHT, WIDTH, 3), np.uint8)


def write_video(path: Path, count: int, rng: np.random.Generator) -> None:
    """One camera's frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = a_table(rng)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "30", "g": "2", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(count):
            pixels = picture(table, index)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def make_bag(path: Path, episodes: int) -> None:
    """What the robot and its policy send in as many seconds as the dataset has, without a pause."""
    rng, period_ns, joints = np.random.default_rng(0), ROBOT.period_ns, list(ROBOT.joints)
    tables = {topic: a_table(rng) for topic in ROBOT.cameras.values()}
    topics = {topic: COMPRESSED_IMAGE for topic in tables} | {"joint_states": JOINT_STATE, PROMPT: STRING}
    with BagRecorder(path, {f"/{name}": kind for name, kind in {**topics, COMMAND: JOINT_TRAJECTORY}.items()}) as bag:
        for tick in range(T0_TICKS, T0_TICKS + episodes * EPISODE_S * FPS):
            stamp_ns = tick * period_ns
            if tick == T0_TICKS:
                bag.write(f"/{PROMPT}", encode_string(TASK), stamp_ns - period_ns)
            for topic, table in tables.items():
                bag.write(f"/{topic}", jpeg(picture(table, tick), stamp_ns), stamp_ns)
            positions = targets(tick)
            bag.write("/joint_states", encode_joint_state(joints, positions, stamp_ns), stamp_ns)
            if tick % ROBOT.execute == 0:
                actions = np.stack([targets(tick + 1 + ahead) for ahead in range(HORIZON)])
                chunk = ActionChunk(actions, positions, stamp_ns, period_ns)
                bag.write(f"/{COMMAND}", encode_trajectory(to_trajectory(chunk, ROBOT, 2)), stamp_ns + period_ns // 2)


def targets(tick: int) -> Float32Array:
    """Of each joint, rad: slow waves."""
    phase = 2 * np.pi * tick / (4 * FPS) + np.arange(len(ROBOT.action))
    return (0.15 * np.sin(phase)).astype(np.float32)


def jpeg(pixels: UInt8Array, stamp_ns: int) -> bytes:
    """A CompressedImage, as image_transport sends it."""
    _, data = cv2.imencode(".jpg", pixels[..., ::-1])
    header = ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(*divmod(stamp_ns, 10**9)), "camera")
    message = ros.sensor_msgs__msg__CompressedImage(header, "rgb8; jpeg compressed bgr8", data.reshape(-1))
    return bytes(TYPESTORE.serialize_cdr(message, COMPRESSED_IMAGE))


def model() -> ModelConfig:
    """Of the SO-101 with two cameras and pictures as small as the eater's."""
    found = load_model_description(RECIPES / "so101.model.yaml")
    vision = replace(found.architecture.vision, image_size=SIZE)
    architecture = replace(found.architecture, cameras=tuple(CAMERAS), action_horizon=HORIZON, vision=vision)
    return replace(found, robot=ROBOT, architecture=architecture)


def plain(folder: Path) -> int:
    """Every number and every frame, by pyarrow and PyAV alone."""
    rows = sum(
        len(pq.read_table(path, columns=["observation.state", "action"])) for path in folder.rglob("data/**/*.parquet")
    )
    for path in folder.rglob("*.mp4"):
        with av.open(str(path)) as container:
            for frame in container.decode(container.streams.video[0]):
                frame.to_ndarray(format="rgb24")
    return rows


def dataset_in_order(folder: Path) -> int:
    """Every experience, one a frame."""
    dataset = LeRobotDataset(folder / "dataset", ROBOT, CAMERAS, SIZE)
    return sum(1 for _ in dataset.experiences(HORIZON, 1))


def bag_in_order(folder: Path) -> int:
    """The same."""
    params = PolicyParams.from_mapping({"experience_stride_ticks": 1})
    return sum(1 for _ in read_bag(Untrained(model()), folder / "bag", bag_topics(ROBOT), params))


def dataset(folder: Path) -> Source:
    """As a recipe names it."""
    return open_sources({"lerobot": [folder / "dataset"], "cameras": CAMERAS}, model(), 0).training


def bag(folder: Path) -> Source:
    """The same; opening counts its experiences, which is a pass over it."""
    return open_sources({"bags": {"arm": [folder / "bag"]}}, model(), 0).training


def shard(source: Source, samples: int) -> int:
    """Of training samples, from anywhere."""
    raw = source.samples(np.zeros(samples, np.int64), HORIZON, SIZE, np.random.default_rng(0))
    return len(raw.experiences)


OPENED: dict[str, Callable[[Path], Source]] = {"dataset_shuffled": dataset, "bag_shuffled": bag}
IN_ORDER: dict[str, Callable[[Path], int]] = {
    "plain": plain,
    "dataset_in_order": dataset_in_order,
    "bag_in_order": bag_in_order,
}


def measured(kind: str, folder: Path, samples: int) -> dict[str, float]:
    """In a process of its own, on one thread. Opening a source, once a training, is not counted."""
    cv2.setNumThreads(1)
    before_mib = machine.memory_mib("VmRSS")
    source = OPENED[kind](folder) if kind in OPENED else None
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    count = IN_ORDER[kind](folder) if source is None else shard(source, samples)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {
        "samples": count,
        "samples_per_s": count / wall_s,
        "samples_per_cpu_s": count / cpu_s,
        "peak_memory_mib": machine.memory_mib("VmHWM") - before_mib,
    }


def alone(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def main(
    episodes: Annotated[int, typer.Option(min=2, help="Of the short recordings, of 10 s each.")] = 2,
    samples: Annotated[int, typer.Option(min=1, help="Of a shuffled shard; as config/train/base.yaml has.")] = 2048,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Read recordings, others that are 4 times as long, and train."""
    recipe = load_recipe(EATER)
    eaten = alone(training.run, EATER, training.shortened(recipe, EATER_STEPS))["samples_per_cpu_s"]
    found: dict[str, Any] = {"episodes": episodes, "frames": episodes * EPISODE_S * FPS}
    found |= {"eaten_per_cpu_s": eaten, "shard_epochs": recipe.shard_epochs}
    with tempfile.TemporaryDirectory() as scratch:
        for name, count in (("short", episodes), ("long", LONGER * episodes)):
            folder = Path(scratch) / name
            make_dataset(folder / "dataset", count)
            make_bag(folder / "bag", count)
            found[name] = {kind: alone(measured, kind, folder, samples) for kind in (*IN_ORDER, *OPENED)}
    for kind in (*IN_ORDER, *OPENED):
        long, short = found["long"][kind], found["short"][kind]
        found[f"{kind}_memory_growth_mib"] = long["peak_memory_mib"] - short["peak_memory_mib"]
    for kind in OPENED:
        found[f"{kind}_over_eaten"] = found["long"][kind]["samples_per_cpu_s"] * recipe.shard_epochs / eaten
    print(json.dumps(found, indent=2))
    machine.write(json_file, found)


if __name__ == "__main__":
    typer.run(main)
