"""How fast sampling and aligning are on a GPU at full size: pi0 and pi0.5, 2 of 3 cameras, 10 steps, bfloat16, batch 1.

    python benchmarks/gpu_speed.py --json gpu_speed.json
    LEROBOT_WHEEL=... LEROBOT_PYTHON=... python benchmarks/gpu_speed.py --json gpu_speed.json

**Not run on a GPU yet.** Meant for under 8 minutes on an H200. Random weights. In turn: the fast path (CUDA graphs),
the readable model and, where it is there, lerobot's network; then the parts beside the GPU's limit, the fast path while
another thread aligns, and memory. To try the script without a GPU: `--device cpu --size golden --calls 2`.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import machine
import torch
import typer
from golden import new_pictures, policy_input
from medium import CAMERAS, observation
from safetensors.torch import save_file
from sample_actions import NUM_STEPS, VARIANTS, WARM_UP, running_peer
from timing import percentile, timed

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.policy.config import Architecture
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.load import to_bfloat16
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.streams import LAST, own_stream
from vla_align_ros.speed import measure
from vla_align_ros.speed.sizes import Size, Variant, architecture, network

STEP_ROWS = 32  # experiences in one align step, of one draw each


def on(device: torch.device, inputs: PolicyInput) -> PolicyInput:
    """On a device."""
    images, masks = (tuple(x.to(device) for x in part) for part in (inputs.images, inputs.image_masks))
    return PolicyInput(images, masks, *(x.to(device) for x in (inputs.tokens, inputs.token_masks, inputs.state)))


def write_folder(folder: Path, a: Architecture, device: torch.device) -> Path:
    """What lerobot's process reads: sizes and an observation, no weights."""
    stacks = {"vlm": a.vlm, "expert": a.action_expert, "vision": a.vision}
    names = ("vocab_size", "action_dim", "action_horizon", "max_token_len", "cameras")
    sizes = {name: getattr(a, name) for name in names} | {name: asdict(part) for name, part in stacks.items()}
    sizes |= {"pi05": a.variant == "pi05", "dtype": "bfloat16", "device": str(device)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(sizes))
    save_file(observation(sizes, torch.Generator().manual_seed(0)), folder / "io.safetensors")
    return folder


def ms(call: Callable[[], object], device: torch.device) -> float:
    """Until the GPU is done."""

    def done() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return timed(done).wall_s * 1e3


def percentiles(values: list[float]) -> dict[str, float]:
    """Of all but the first calls, in ms."""
    return {f"p{percent}": percentile(values[WARM_UP:], percent) for percent in (50, 95, 99)}


@contextmanager
def aligning(step: Callable[[], object], device: torch.device) -> Iterator[None]:
    """Another thread takes align steps meanwhile. Raises what a step raised."""
    stop = threading.Event()

    def work() -> None:
        with own_stream(device, LAST):
            while not stop.is_set():
                step()

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(work)
        try:
            yield
        finally:
            stop.set()
        done.result()


def gpu_gb(device: torch.device, peak: bool = False) -> float | None:
    """Allocated now, or at most since the last reset; None without a GPU."""
    if device.type != "cuda":
        return None
    return (torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)) / 1e9


def measure_variant(
    a: Architecture, device: torch.device, calls: int, experiences: int, peer: tuple[Path | None, Path | None]
) -> dict[str, Any]:
    """All numbers of one network."""
    model = network(a, device)
    to_bfloat16(model)
    sampler, token = FastSampler(model, padded=True), cast(torch.Tensor, model.peft_prefix_token)
    generator = torch.Generator().manual_seed(0)
    sizes = {"vision": asdict(a.vision), **{key: getattr(a, key) for key in ("max_token_len", "vocab_size")}}
    io = observation({**sizes, "action_dim": a.action_dim, "action_horizon": a.action_horizon}, generator)
    inputs, noise = on(device, policy_input(io, a.cameras)), io["in.noise"].to(device)
    seen = new_pictures(inputs)
    found: dict[str, Any] = {
        "weights_gb": measure.weights_mb(model) / 1e3,
        "first_call_ms": ms(lambda: sampler(inputs, noise, NUM_STEPS), device),
    }
    times: dict[str, list[float]] = {}
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        wheel, python = peer
        lerobot = None
        if wheel is not None and python is not None:
            lerobot = stack.enter_context(running_peer(write_folder(Path(folder) / "peer", a, device), wheel, python))
        for _ in range(WARM_UP + calls):
            times.setdefault("fast", []).append(ms(lambda: sampler(next(seen), noise, NUM_STEPS), device))
            times.setdefault("readable", []).append(ms(lambda: model.sample_actions(inputs, noise, NUM_STEPS), device))
            if lerobot is not None:
                times.setdefault("lerobot", []).append(lerobot.call().wall_s * 1e3)
    exact = model.sample_actions(inputs, noise, NUM_STEPS)
    found["relative_difference"] = float((sampler(inputs, noise, NUM_STEPS) - exact).norm() / exact.norm())
    found |= {"sampling_gb": gpu_gb(device), "sampling_peak_gb": gpu_gb(device, peak=True)}

    limit = measure.peak(model, device, torch.bfloat16)
    found["parts"] = measure.sampling(measure.plan_of(model, NUM_STEPS), calls, limit)
    losses = ExperienceLosses.of_inputs(model, *measure.random_inputs(model, experiences), LossWeights())
    rows = torch.arange(min(STEP_ROWS, experiences))

    def step() -> None:
        losses.gradient(token, rows, 1, 0)

    times["align_step"] = [ms(step, device) for _ in range(WARM_UP + calls)]
    with aligning(step, device):
        times["fast_while_aligning"] = [
            ms(lambda: sampler(next(seen), noise, NUM_STEPS), device) for _ in range(WARM_UP + calls)
        ]
    return found | {
        "ms": {name: percentiles(values) for name, values in times.items()},
        "kv_gb": experiences * losses.bytes_per_experience / 1e9,
        "aligning_peak_gb": gpu_gb(device, peak=True),
    }


def main(
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the script.")] = "cuda",
    size: Annotated[str, typer.Option(help="full; golden to try the script.")] = "full",
    calls: Annotated[int, typer.Option(min=1)] = 100,
    experiences: Annotated[int, typer.Option(min=1, help="Held while aligning.")] = 256,
    lerobot_wheel: Annotated[Path | None, typer.Option(envvar="LEROBOT_WHEEL", help="As in sample_actions.py.")] = None,
    lerobot_python: Annotated[Path | None, typer.Option(envvar="LEROBOT_PYTHON")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Time `sample_actions` and align steps."""
    numbers: dict[str, Any] = {}
    for variant in VARIANTS:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        a = architecture(cast(Size, size), cast(Variant, variant), CAMERAS)
        peer = lerobot_wheel, lerobot_python
        numbers[variant] = measure_variant(a, torch.device(device), calls, experiences, peer)
        print(variant, json.dumps(numbers[variant], indent=1), flush=True)
        machine.write(json_file, numbers)  # after each: a lent machine may end in between


if __name__ == "__main__":
    typer.run(main)
