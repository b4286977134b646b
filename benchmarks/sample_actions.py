"""How long sampling an action chunk takes, batch 1, on one thread: a zoo model, the golden sizes, and a larger one.

    python benchmarks/sample_actions.py --json sample_actions.json
    LEROBOT_WHEEL=... LEROBOT_PYTHON=... python benchmarks/sample_actions.py --json sample_actions.json

The first number is `policy.infer` as the node calls it: normalise, tokenise, the network with the model's own number of
Euler steps, back to robot units. At the golden and medium sizes (`medium.py`) it is the network alone with 10 steps:
`Policy.sample_actions`, the model's own readable `sample_actions` beside it, and with lerobot installed (README.md) the
time over lerobot's: all take turns, call by call, so that they see the same machine. Only calls whose CPU time is above
0.97 of their wall time count; of a pair, both must. On a machine that is never idle `cpu_ratio_to_lerobot` remains: the
median of the same over all pairs, in CPU time.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import cv2
import golden
import machine
import medium
import torch
import typer
from golden import new_pictures, policy_input, read_io
from rich.console import Console
from rich.table import Table
from timing import MIN_UNDISTURBED, Timing, percentile, summary_ms, timed
from torch import Tensor

from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.policy import PolicyError, load_policy
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.zoo import find_model

NUM_STEPS = 10
VARIANTS = ("pi0", "pi05")
WARM_UP = 3
HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent / "test" / "data" / "golden"


class PeerError(RuntimeError):
    """lerobot's network did not start; the message says what its process printed."""


class Peer:
    """lerobot's network in its own process, which waits between two calls."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.max_abs_difference: float = self._answer()["max_abs_difference"]

    def call(self) -> Timing:
        """One `sample_actions`, timed over there."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Timing(**self._answer())

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(
                f"lerobot's process ended with {self._process.wait()}; its error is above. README.md says which "
                "packages LEROBOT_PYTHON must have"
            )
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def running_peer(folder: Path, wheel: Path, python: Path) -> Iterator[Peer]:
    """Start lerobot's network with a golden folder's weights; it ends with the block."""
    command = [str(python), str(HERE / "lerobot_peer.py"), str(folder), str(wheel)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Peer(process)
        finally:
            process.terminate()


def measure_infer(model: str, calls: int) -> dict[str, Any]:
    """`policy.infer` on the bench's images, with the model's own number of steps."""
    policy = load_policy(find_model(model), "cpu")
    robots = [BENCH.embodiment(row) for row in range(2)]
    seen = cycle(BENCH.episodes(robots, 0, policy.model.architecture.vision.image_size).observe())
    timings = [timed(lambda: policy.infer(next(seen))) for _ in range(WARM_UP + calls)][WARM_UP:]
    steps = policy.config.recommended.num_steps
    about = {"model": policy.config.name, "weights_sha256": policy.weights_sha256, "num_steps": steps}
    return {**about, "infer_ms": summary_ms(timings)}


def measure_network(folder: Path, calls: int, wheel: Path | None, python: Path | None) -> dict[str, Any]:
    """Our `sample_actions` with the weights of a folder in the golden form, fast and readable, and lerobot's in turn
    with them where there is one."""
    model, io = golden.load(folder), read_io(folder)
    inputs, noise = policy_input(io, model.architecture.cameras)[:1], io["in.noise"][:1]
    sampler, seen = FastSampler(model), new_pictures(inputs)
    ours: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: sampler(next(seen), noise, NUM_STEPS),
        "readable": partial(model.sample_actions, inputs, noise, NUM_STEPS),
    }
    exact = sampler(inputs, noise, NUM_STEPS)
    difference = (exact - ours["readable"]()).abs().max().item()
    with suppress(PolicyError):  # where bfloat16 is slower than float32 it is not offered
        coarse = FastSampler(golden.load(folder, "bfloat16"))
        seen_coarse = new_pictures(inputs)
        ours["bfloat16"] = lambda: coarse(next(seen_coarse), noise, NUM_STEPS)
    rounds: list[dict[str, Timing]] = []
    with ExitStack() as stack:
        peer = None if wheel is None or python is None else stack.enter_context(running_peer(folder, wheel, python))
        for _ in range(WARM_UP + calls):
            rounds.append({name: timed(call) for name, call in ours.items()})
            if peer is not None:
                rounds[-1]["lerobot"] = peer.call()
    rounds = rounds[WARM_UP:]
    found: dict[str, Any] = {f"{name}_ms": summary_ms([timings[name] for timings in rounds]) for name in rounds[0]}
    found["max_abs_difference_from_readable"] = difference
    if "bfloat16" in ours:
        found["bfloat16_relative_error"] = float((coarse(inputs, noise, NUM_STEPS) - exact).norm() / exact.norm())
    if peer is not None:
        pairs = [(timings["ours"], timings["lerobot"]) for timings in rounds]
        calm = [a.wall_s / b.wall_s for a, b in pairs if a.undisturbed and b.undisturbed]
        found |= {
            "lerobot_max_abs_difference": peer.max_abs_difference,
            "undisturbed_pairs": len(calm),
            "ratio_to_lerobot": percentile(calm if len(calm) >= MIN_UNDISTURBED else [], 50),
            "cpu_ratio_to_lerobot": percentile([a.cpu_s / b.cpu_s for a, b in pairs], 50),
        }
    return found


def show(tiny: dict[str, Any], sizes: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The numbers as a table."""
    table = Table(title="one thread, batch 1")
    for column in ("what", "p50 ms", "p99 ms", "CPU p50 ms", "undisturbed", "ours / lerobot", "in CPU time"):
        table.add_column(column, no_wrap=True)

    def row(name: str, times: dict[str, float], *ratios: float) -> None:
        numbers = [f"{times[key]:.2f}" for key in ("p50", "p99", "cpu_p50")]
        kept = f"{times['undisturbed']} of {times['calls']}"
        table.add_row(name, *numbers, kept, *(f"{ratio:.3f}" for ratio in ratios))

    row(f"policy.infer of {tiny['model']}", tiny["infer_ms"])
    for size, variants in sizes.items():
        for variant, part in variants.items():
            ratios = [part[key] for key in ("ratio_to_lerobot", "cpu_ratio_to_lerobot") if key in part]
            row(f"{size} {variant}", part["ours_ms"], *ratios)
            for name in ("readable", "bfloat16", "lerobot"):
                if f"{name}_ms" in part:
                    row(f"  {name}", part[f"{name}_ms"])
    Console().print(table)


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "tiny",
    calls: Annotated[int, typer.Option(min=10, help="Calls of each; the disturbed ones don't count.")] = 300,
    medium_calls: Annotated[int, typer.Option(min=10, help="The same at the medium size.")] = 20,
    lerobot_wheel: Annotated[
        Path | None, typer.Option(envvar="LEROBOT_WHEEL", help="Folder that lerobot's wheel was unzipped to.")
    ] = None,
    lerobot_python: Annotated[
        Path | None, typer.Option(envvar="LEROBOT_PYTHON", help="Python of the environment that it runs in.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Time `policy.infer` and `sample_actions`."""
    if (lerobot_wheel is None) != (lerobot_python is None):
        raise typer.BadParameter("give both LEROBOT_WHEEL and LEROBOT_PYTHON, or none; README.md says how to make them")
    os.environ["OMP_NUM_THREADS"] = "1"  # for lerobot's process
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    tiny = measure_infer(model, calls)
    peer = lerobot_wheel, lerobot_python
    try:
        golden = {name: measure_network(GOLDEN / name, calls, *peer) for name in VARIANTS}
        with tempfile.TemporaryDirectory() as folder:
            folders = {name: medium.write(Path(folder) / name, name, NUM_STEPS) for name in VARIANTS}
            larger = {name: measure_network(folders[name], medium_calls, *peer) for name in VARIANTS}
    except PeerError as error:
        raise typer.BadParameter(str(error)) from None
    show(tiny, {"golden": golden, "medium": larger})
    machine.write(json_file, {"tiny": tiny, "golden": golden, "medium": larger})


if __name__ == "__main__":
    typer.run(main)
