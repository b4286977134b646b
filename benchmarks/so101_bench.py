"""The SO-101 bench: how fast it moves and draws, how often its experts succeed, and which shifts break a task.

    python benchmarks/so101_bench.py --json so101_bench.json

Rates are per second of CPU time on one thread, so that other work on the machine does not count. `misled` is an expert
that takes a shifted arm for the nominal one and sees by the front camera alone: an upper bound of the harm of a shift
that it can see, and no measure of those of the wrist camera, which it does not use.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import machine
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from vla_align_ros.bench.evaluate import expert, run, wilson_interval
from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.episodes import Episodes
from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.pictures import draw
from vla_align_ros.bench.so101.recording import draw_samples, labels
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.shifts import ALL_FAMILIES, Family, Split, draw_embodiment
from vla_align_ros.bench.so101.skeleton import rows_of, skeletons
from vla_align_ros.bench.so101.tasks import Task

HORIZON, EXECUTE = 16, 8
SIZES, SUPERSAMPLES = (64, 96, 224), (1, 2)
SHARES = (0.5, 1.0)  # of a drawn shift
ARMS, ROUNDS = 32, 3


def rate(count: int, work: Callable[[], object]) -> float:
    """`count` a CPU-second: the best of ROUNDS, after one that compiles."""
    work()
    best = 0.0
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        best = max(best, count / (time.process_time() - started))
    return best


def arms(count: int, seed: int, families: frozenset[Family] = ALL_FAMILIES) -> list[Embodiment]:
    """Test arms from a number on."""
    return [draw_embodiment(seed + place, Split.TEST, families) for place in range(count)]


def speeds() -> dict[str, Any]:
    """Of drawing, physics, recording and samples."""
    own = arms(ARMS, 0)
    bodies = skeletons(own)
    state = Episodes(own, [Task.PICK] * ARMS, range(ARMS)).state()
    frames = {
        f"{size} px, {supersample}x{supersample}": rate(
            ARMS * len(CAMERAS), lambda size=size, supersample=supersample: draw(bodies, state, size, supersample)
        )
        for size in SIZES
        for supersample in SUPERSAMPLES
    }
    episodes = Episodes([Embodiment()] * ARMS, [Task.PICK] * ARMS, range(ARMS))
    targets = episodes.expert_targets(EXECUTE)
    physics = rate(ARMS * EXECUTE, lambda: episodes.command(targets))
    behaviours = [Behaviour(row % len(Behaviour)) for row in range(ARMS)]
    tasks = [Task(row % len(Task)) for row in range(ARMS)]
    recording = record(own, tasks, range(ARMS), behaviours, own[::-1], 48)
    steps = rate(ARMS * 48, lambda: record(own, tasks, range(ARMS), behaviours, own[::-1], 48))
    rng = np.random.default_rng(0)
    tick, row = rng.integers(0, 48 - HORIZON, 256), rng.integers(0, ARMS, 256)
    return {
        "frames_per_s": frames,
        "control_steps_per_s": {"physics, all arms at work": physics, "recording, experts and setup included": steps},
        "samples_per_s": {
            "two pictures drawn again, 64 px": rate(
                256, lambda: draw(rows_of(bodies, recording.arm[row]), recording.state(tick, row), 64)
            ),
            "four pictures and the expert's chunk, 64 px": rate(
                256, lambda: draw_samples(recording, own, bodies, tick, row, HORIZON, 64)
            ),
            "the expert's chunk alone": rate(256, lambda: labels(recording, own, bodies, tick, row, HORIZON)),
        },
        "bytes_a_recorded_step": recording.states[0, 0].nbytes + 2 * recording.commands[0, 0].nbytes,
        "new_arms_per_s": rate(ARMS, lambda: skeletons(arms(ARMS, 1000))),
    }


def successes(embodiments: list[Embodiment], task: Task, seed: int, knows: bool) -> dict[str, Any]:
    """How many of as many episodes the expert does that knows the arms, or takes them for the nominal one."""
    nominal = Embodiment()
    episodes = Episodes(embodiments, [task] * len(embodiments), range(seed, seed + len(embodiments)))

    def misled(going: Episodes, _rows: object) -> FloatArray:
        return going.expert_chunks(HORIZON, [nominal] * len(going))

    done = run(episodes, expert(HORIZON) if knows else misled, EXECUTE)
    return {
        "episodes": len(done),
        "successes": int(done.sum()),
        "interval_95": wilson_interval(int(done.sum()), len(done)),
        "seconds": float(np.mean(episodes.ticks[done]) * episodes.tick_s) if done.any() else None,
    }


def weaker(embodiment: Embodiment, share: float) -> Embodiment:
    """A share of the way from the nominal arm to this one; signs and mirrors are there or not."""
    nominal, values = Embodiment(), dict[str, Any]()
    for field in fields(Embodiment):
        shifted, plain = getattr(embodiment, field.name), getattr(nominal, field.name)
        kept = field.name in ("sign", "wrist_mirrored")
        values[field.name] = shifted if kept else plain + share * (shifted - plain)
    return Embodiment(**values)


def main(
    episodes: Annotated[int, typer.Option(min=2, help="For each task, nominal and shifted.")] = 200,
    misled_episodes: Annotated[int, typer.Option(help="For each family, task and size; 0 leaves them out.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Of the first table and test arm.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Speed, experts and shifts of the SO-101 bench."""
    numbers = {"speed": speeds()}
    drawn = arms(episodes, seed)
    numbers["expert"] = {
        task.name.lower(): {
            "nominal": successes([Embodiment()] * episodes, task, seed, knows=True),
            "drawn": successes(drawn, task, seed, knows=True),
        }
        for task in Task
    }
    numbers["misled"] = {
        family.value: {
            task.name.lower(): {
                f"{share:.0%}": successes(
                    [weaker(arm, share) for arm in arms(misled_episodes, seed, frozenset([family]))],
                    task,
                    seed,
                    knows=False,
                )
                for share in SHARES
            }
            for task in Task
        }
        for family in Family
        if misled_episodes
    }
    show(numbers)
    machine.write(json_file, numbers)


def show(numbers: dict[str, Any]) -> None:
    """The numbers as tables."""
    console = Console()
    table = Table("what", "a CPU-second", title="speed, one thread")
    for group in ("frames_per_s", "control_steps_per_s", "samples_per_s"):
        for name, value in numbers["speed"][group].items():
            table.add_row(f"{group.removesuffix('_per_s').replace('_', ' ')}: {name}", f"{value:.0f}")
    console.print(table)
    table = Table("task", "nominal arm", "drawn arms", title="experts that know the arm")
    for task, part in numbers["expert"].items():
        table.add_row(task, *(words(part[kind]) for kind in ("nominal", "drawn")))
    console.print(table)
    table = Table("family", *(task.name.lower() for task in Task), title="experts that take it for the nominal one")
    for family, part in numbers["misled"].items():
        shares = [[found["successes"] / found["episodes"] for found in sizes.values()] for sizes in part.values()]
        table.add_row(family, *(" ".join(f"{share:.2f}" for share in row) for row in shares))
    console.print(table)


def words(found: dict[str, Any]) -> str:
    """Successes with their interval."""
    low, high = found["interval_95"]
    return f"{found['successes']} of {found['episodes']} ({low:.1%} to {high:.1%}), {found['seconds'] or 0:.1f} s"


if __name__ == "__main__":
    typer.run(main)
