"""How many instructions one `sample_actions` takes, ours and lerobot's: a number that a busy machine does not change.

    LEROBOT_WHEEL=... LEROBOT_PYTHON=... python benchmarks/instructions.py --json instructions.json

Counted by callgrind of valgrind, which knows no AVX-512: both sides run their AVX2 code there. A process loads the
network, samples once, and is counted while it samples again. About 10 min.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import golden
import machine
import medium
import torch
import typer
from golden import new_pictures, policy_input, read_io
from sample_actions import GOLDEN, NUM_STEPS, VARIANTS
from timing import timed

from vla_align_ros.policy.fast import FastSampler

HERE = Path(__file__).resolve().parent
CALLGRIND = ("valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=/dev/null")


def serve(folder: Path) -> None:
    """As `lerobot_peer.py`: a line when ready, then one call for every line on stdin."""
    torch.set_num_threads(1)
    model, io = golden.load(folder), read_io(folder)
    inputs, noise = policy_input(io, model.architecture.cameras)[:1], io["in.noise"][:1]
    sample, seen = FastSampler(model), new_pictures(inputs)
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(asdict(timed(lambda: sample(next(seen), noise, NUM_STEPS)))), flush=True)


def count(command: list[str]) -> int:
    """Instructions of the second call of a process that serves calls."""
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen(
            [*CALLGRIND, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=messages, text=True
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def answer() -> None:
            assert process.stdout is not None
            if not process.stdout.readline():
                messages.seek(0)
                raise RuntimeError(f"{command[1]} ended: {messages.read()[-2000:]}")

        def call() -> None:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            answer()

        def counting(switch: str) -> None:
            subprocess.run(["callgrind_control", "-i", switch, str(process.pid)], check=True, capture_output=True)

        answer()
        call()
        counting("on")
        call()
        counting("off")
        process.stdin.close()
        process.wait()
        messages.seek(0)
        (collected,) = re.findall(r"Collected : (\d+)", messages.read())
    return int(collected)


def measure(folder: Path, wheel: Path, python: Path) -> dict[str, Any]:
    """Both networks with one folder's weights."""
    ours = count([sys.executable, str(Path(__file__)), "--serve", str(folder)])
    theirs = count([str(python), str(HERE / "lerobot_peer.py"), str(folder), str(wheel)])
    print(f"{folder}: {ours / 1e6:.1f} million, lerobot {theirs / 1e6:.1f}, ratio {ours / theirs:.3f}", flush=True)
    return {"ours": ours, "lerobot": theirs, "ratio_to_lerobot": ours / theirs}


def main(
    serve_folder: Annotated[Path | None, typer.Option("--serve", hidden=True)] = None,
    lerobot_wheel: Annotated[Path | None, typer.Option(envvar="LEROBOT_WHEEL")] = None,
    lerobot_python: Annotated[Path | None, typer.Option(envvar="LEROBOT_PYTHON")] = None,
    medium_too: Annotated[bool, typer.Option("--medium", help="The medium size too; hours.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Count instructions of `sample_actions` at the golden sizes."""
    if serve_folder is not None:
        serve(serve_folder)
        return
    if lerobot_wheel is None or lerobot_python is None:
        raise typer.BadParameter("give LEROBOT_WHEEL and LEROBOT_PYTHON; README.md says how to make them")
    os.environ["OMP_NUM_THREADS"] = "1"
    peer = lerobot_wheel, lerobot_python
    numbers = {"golden": {name: measure(GOLDEN / name, *peer) for name in VARIANTS}}
    if medium_too:
        with tempfile.TemporaryDirectory() as folder:
            made = {name: medium.write(Path(folder) / name, name, NUM_STEPS) for name in VARIANTS}
            numbers["medium"] = {name: measure(made[name], *peer) for name in VARIANTS}
    machine.write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
