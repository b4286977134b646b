"""How fast the bench draws: frames a second by image size and batch, on one thread.

    python benchmarks/frames.py --json frames.json

A frame is one picture of one camera. `draw` is what training data is made with; `robot` adds sensor noise and
serialisation, as `sim_robot` sends them.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.camera import CAMERAS, draw
from vla_align_ros.bench.reach2.embodiment import sample_embodiments
from vla_align_ros.bench.robot import SimulatedRobot

SIZES = (64, 224, 640)
BATCHES = (1, 32)


def rate(frames: int, work: Callable[[], object], seconds: float) -> float:
    """Frames a second: the best of as many rounds as fit into `seconds`, at least 3."""
    best, rounds, end = 0.0, 0, time.perf_counter() + seconds
    while rounds < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        best = max(best, frames / (time.perf_counter() - started))
        rounds += 1
    return best


def drawing(size: int, batch: int, seconds: float) -> float:
    """Frames a second of `draw` for `batch` arms at once."""
    arms, rng = sample_embodiments(batch, 1), np.random.default_rng(0)
    scene, pose = task.sample_scene(batch, rng), task.sample_pose(batch, rng)
    return rate(batch * len(CAMERAS), lambda: draw(arms, pose, scene, size), seconds)


def sending(size: int, seconds: float) -> float:
    """Frames a second of a robot on its simulated clock, joint states at 100 Hz beside them."""
    robot = SimulatedRobot(BENCH, BENCH.embodiment(0), 10**18, image_hz=100.0, image_size=size)
    return rate(20 * len(CAMERAS), lambda: robot.advance(robot.now_ns + 200_000_000), seconds)


def main(
    seconds: Annotated[float, typer.Option(help="Time for each number.")] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Frames a second of the bench."""
    cv2.setNumThreads(1)
    found = [
        {
            "size": size,
            **{f"draw_{batch}": drawing(size, batch, seconds) for batch in BATCHES},
        }
        | {"robot": sending(size, seconds)}
        for size in SIZES
    ]
    table = Table("image", *(f"draw, {batch} arms" for batch in BATCHES), "robot", title="frames a second, one thread")
    for row in found:
        table.add_row(f"{row['size']} px", *(f"{row[key]:.0f}" for key in (*(f"draw_{b}" for b in BATCHES), "robot")))
    Console().print(table)
    if json_file is not None:
        versions = {"machine": platform.machine(), "opencv": cv2.__version__, "numpy": np.__version__}
        json_file.write_text(json.dumps({"frames_per_second": found, **versions}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
