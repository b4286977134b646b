"""Writes a small LeRobotDataset (format 3) as lerobot does: two episodes in one file, one video a camera."""

import json
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NAMES = [
    f"{name}.pos" for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
]
CAMERAS = {"front": "observation.images.front", "wrist": "observation.images.wrist"}
FPS = 30
SIZE = 64


def brightness(index: int) -> int:
    """Of every pixel of frame `index` of the video: so that a test knows which frame it was given."""
    return 20 + 5 * (index % 40)


def write_dataset(
    folder: Path, lengths: Sequence[int] = (14, 20), fps: int = FPS, height: int = SIZE, striped: bool = False
) -> Path:
    """Degrees that rise with the frame; `wrist` is darker than `front` by 10; striped: with black."""
    total = sum(lengths)
    feature = {"dtype": "float32", "shape": [6], "names": NAMES}
    video = {"dtype": "video", "shape": [height, SIZE, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0",
        "robot_type": "so101_follower",
        "fps": fps,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {"observation.state": feature, "action": feature, **dict.fromkeys(CAMERAS.values(), video)},
    }
    for name in ("meta/episodes/chunk-000", "data/chunk-000"):
        (folder / name).mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["pick the red cube", "push the blue cube"]})
    pq.write_table(tasks, folder / "meta" / "tasks.parquet")
    episode = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    state = (np.arange(total)[:, None] + 100.0 * np.arange(6)) * 0.1
    data = {
        "observation.state": state.astype(np.float32).tolist(),
        "action": (state + 1.0).astype(np.float32).tolist(),
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": episode,
        "index": np.arange(total),
        "task_index": episode % 2,
        "unit": [f"arm{number}" for number in episode],
    }
    pq.write_table(pa.table(data), folder / "data" / "chunk-000" / "file-000.parquet", row_group_size=9)
    ends = np.cumsum(lengths)
    rows = {
        "episode_index": list(range(len(lengths))),
        "length": list(lengths),
        "dataset_from_index": (ends - lengths).tolist(),
        "dataset_to_index": ends.tolist(),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
    }
    for key in CAMERAS.values():
        rows |= {f"videos/{key}/chunk_index": [0] * len(lengths), f"videos/{key}/file_index": [0] * len(lengths)}
        rows |= {f"videos/{key}/from_timestamp": ((ends - lengths) / fps).tolist()}
        _write_video(
            folder / "videos" / key / "chunk-000" / "file-000.mp4", total, fps, 10 * ("wrist" in key), height, striped
        )
    pq.write_table(pa.table(rows), folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return folder


def _write_video(path: Path, count: int, fps: int, darker: int, height: int, striped: bool) -> None:
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "1", "g": "4"})
        stream.width, stream.height = SIZE, height
        stream.pix_fmt = "yuv444p"
        for index in range(count):
            pixels = np.full((height, SIZE, 3), brightness(index) - darker, np.uint8)
            if striped:
                pixels[:, ::3] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
