"""How long sampling an action chunk takes, batch 1, on one thread: a zoo model, and openpi's golden sizes.

    python benchmarks/sample_actions.py --json sample_actions.json
    LEROBOT_WHEEL=... LEROBOT_PYTHON=... python benchmarks/sample_actions.py --json sample_actions.json

The first number is `policy.infer` as the node calls it: normalise, tokenise, the network with the model's own number of
Euler steps, back to robot units. At the golden sizes it is the network alone with 10 steps, and with lerobot installed
(README.md) its time over lerobot's: both processes take turns, call by call, so that both see the same machine. Only
calls whose CPU time is above 0.97 of their wall time count; of a pair, both must.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import cv2
import machine
import torch
import typer
from golden import policy_input, read_io
from rich.console import Console
from rich.table import Table
from timing import MIN_UNDISTURBED, Timing, percentile, summary_ms, timed

from vla_align_ros.policy import load_policy
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.sim.bench import Episodes
from vla_align_ros.sim.embodiment import unshifted
from vla_align_ros.zoo import find_model

NUM_STEPS = 10
WARM_UP = 5
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
    (observation,) = Episodes(unshifted(), 0, policy.model.architecture.vision.image_size).observe()
    timings = [timed(lambda: policy.infer(observation)) for _ in range(WARM_UP + calls)][WARM_UP:]
    steps = policy.config.recommended.num_steps
    about = {"model": policy.config.name, "weights_sha256": policy.weights_sha256, "num_steps": steps}
    return {**about, "infer_ms": summary_ms(timings)}


def measure_golden(folder: Path, calls: int, wheel: Path | None, python: Path | None) -> dict[str, Any]:
    """Our `sample_actions` with a golden folder's weights, and lerobot's in turn with it where there is one."""
    model: Pi0 = load_policy(folder, "cpu").model
    io = read_io(folder)
    inputs, noise = policy_input(io, model.architecture.cameras)[:1], io["in.noise"][:1]

    def call() -> Timing:
        return timed(lambda: model.sample_actions(inputs, noise, NUM_STEPS))

    if wheel is None or python is None:
        return {"ours_ms": summary_ms([call() for _ in range(WARM_UP + calls)][WARM_UP:])}
    with running_peer(folder, wheel, python) as peer:
        pairs = [(call(), peer.call()) for _ in range(WARM_UP + calls)][WARM_UP:]
        difference = peer.max_abs_difference
    ratios = [ours.wall_s / theirs.wall_s for ours, theirs in pairs if ours.undisturbed and theirs.undisturbed]
    return {
        "ours_ms": summary_ms([ours for ours, _ in pairs]),
        "lerobot_ms": summary_ms([theirs for _, theirs in pairs]),
        "lerobot_max_abs_difference_from_openpi": difference,
        "undisturbed_pairs": len(ratios),
        "ratio_to_lerobot": percentile(ratios if len(ratios) >= MIN_UNDISTURBED else [], 50),
    }


def show(tiny: dict[str, Any], golden: dict[str, dict[str, Any]]) -> None:
    """The numbers as a table."""
    table = Table(title="one thread, batch 1")
    for column in ("what", "p50 ms", "p99 ms", "undisturbed", "ours / lerobot"):
        table.add_column(column, no_wrap=True)
    rows = {f"policy.infer of {tiny['model']}": (tiny["infer_ms"], "-")}
    for name, part in golden.items():
        ratio = f"{part['ratio_to_lerobot']:.3f}" if "ratio_to_lerobot" in part else "-"
        rows[f"golden {name}"] = (part["ours_ms"], ratio)
        if "lerobot_ms" in part:
            rows[f"  lerobot's {name}"] = (part["lerobot_ms"], "-")
    for name, (times, ratio) in rows.items():
        kept = f"{times['undisturbed']} of {times['calls']}"
        table.add_row(name, f"{times['p50']:.2f}", f"{times['p99']:.2f}", kept, ratio)
    Console().print(table)


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "tiny",
    calls: Annotated[int, typer.Option(min=10, help="Calls of each; the disturbed ones don't count.")] = 300,
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
    try:
        golden = {name: measure_golden(GOLDEN / name, calls, lerobot_wheel, lerobot_python) for name in ("pi0", "pi05")}
    except PeerError as error:
        raise typer.BadParameter(str(error)) from None
    show(tiny, golden)
    machine.write(json_file, {"tiny": tiny, "golden": golden})


if __name__ == "__main__":
    typer.run(main)
