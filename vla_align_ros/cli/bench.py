"""`vla-align bench`: how long inference and alignment take on this machine, and how far that is from its limit."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch

    from vla_align_ros.policy.fast import Plan
    from vla_align_ros.policy.pi0 import Pi0
    from vla_align_ros.speed.measure import Peak
    from vla_align_ros.speed.sizes import Size, Variant

FORMAT = 1
NUM_STEPS = 10  # of a network with random weights
ROWS = {"model": 64, "golden": 64, "medium": 4, "full": 1}  # of an alignment, measured together
SPARE = 1.2  # memory that must be free, over the weights
COLUMNS = {  # a part's number, and what it is multiplied by
    "part": ("", 1.0),
    "p50 ms": ("p50_ms", 1.0),
    "p95 ms": ("p95_ms", 1.0),
    "p99 ms": ("p99_ms", 1.0),
    "CPU ms": ("cpu_ms", 1.0),
    "GFLOP": ("flops", 1e-9),
    "MB": ("bytes", 1e-6),
    "limit ms": ("limit_ms", 1.0),
    "% of limit": ("share", 100.0),
}


def bench(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo; empty: none.")] = "tiny",
    size: Annotated[
        list[str] | None,
        typer.Option(help="Also random weights of these sizes: golden (openpi's tests), medium, full. Repeat it."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Run the full size, too, which else is counted only.")] = False,
    calls: Annotated[int, typer.Option(min=1, help="Calls of each part.")] = 50,
    experiences: Annotated[int, typer.Option(min=8, help="In the model's alignment.")] = 128,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of the large matrices of --size: float32 or bfloat16.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    against: Annotated[
        Path | None, typer.Option(help="A file of --json: each time is shown over the one in there.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure latency, alignment and memory, and each as a share of what this machine can do at most. Exit code 2: a
    model, size or file that does not fit.

    Example: vla-align bench --model tiny --size golden --json bench.json
    """
    import torch

    from vla_align_ros.policy.load import find_device
    from vla_align_ros.speed.measure import peak
    from vla_align_ros.speed.sizes import SIZES, VARIANTS

    torch.set_num_threads(threads)
    wanted = size or []
    try:
        before = {} if against is None else _read(against)
        if unknown := sorted({*wanted} - {*SIZES}):
            raise ValueError(f"--size: expected one of {', '.join(SIZES)}, got {unknown[0]}")
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--dtype: expected float32 or bfloat16, got {dtype}")
        on = find_device(device)
        limits = {name: peak(on, getattr(torch, name)) for name in sorted({"float32", dtype})}
        found: dict[str, Any] = {}
        if model:
            found[model] = _of_model(model, on, calls, experiences, limits["float32"])
        for name in SIZES:
            for variant in VARIANTS if name in wanted else ():
                where = on if full or name != "full" else torch.device("meta")
                found[f"{name} {variant}"] = _of_size(name, variant, where, dtype, calls, experiences, limits)
    except ValueError as error:
        typer.echo(f"cannot measure: {error}", err=True)
        raise typer.Exit(2) from None
    _show(found, limits, before)
    if json_file is not None:
        about = {"device": str(on), "threads": threads, "dtype": dtype, "torch": torch.__version__}
        peaks = {name: vars(limit) for name, limit in limits.items()}
        json_file.write_text(json.dumps({"format": FORMAT, **about, "peak": peaks, "measured": found}, indent=2) + "\n")


def _of_model(name: str, device: torch.device, calls: int, experiences: int, limit: Peak) -> dict[str, Any]:
    """A model as the node runs it."""
    from vla_align_ros.policy import load_policy
    from vla_align_ros.speed import measure, whole
    from vla_align_ros.zoo import find_model

    policy = load_policy(find_model(name), device)
    plan = measure.plan_of(policy.model, policy.config.recommended.num_steps)
    parts = {**measure.sampling(plan, calls, limit), **whole.node(policy, calls)}
    if not policy.align_problem:
        parts |= measure.aligning(policy.model, ROWS["model"], calls, limit)
        parts |= whole.alignment(policy, experiences)
    return {"parts": parts, "memory_mb": _memory(policy.model, plan, experiences)}


def _of_size(
    size: Size,
    variant: Variant,
    device: torch.device,
    dtype: str,
    calls: int,
    experiences: int,
    limits: dict[str, Peak],
) -> dict[str, Any]:
    """Random weights; on the meta device the work is counted alone."""
    from vla_align_ros.policy.load import to_bfloat16
    from vla_align_ros.speed import measure
    from vla_align_ros.speed.sizes import architecture, network

    sizes = architecture(size, variant)
    if device.type != "meta":
        _check_memory(f"{size} {variant}", measure.weights_mb(network(sizes, "meta")), device)
    model = network(sizes, device)
    if dtype == "bfloat16":
        to_bfloat16(model)
    plan = measure.plan_of(model, NUM_STEPS)
    parts = measure.sampling(plan, calls, limits[dtype])
    parts |= measure.aligning(model, ROWS[size], calls, limits["float32"])
    return {"parts": parts, "memory_mb": _memory(model, plan, experiences)}


def _memory(model: Pi0, plan: Plan, experiences: int) -> dict[str, float]:
    """In MB; `peak` is the process's so far."""
    from vla_align_ros.speed.measure import aligning_mb, sampling_mb, weights_mb

    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "weights": weights_mb(model),
        "sampling": sampling_mb(plan),
        "aligning": aligning_mb(model, experiences),
        "peak": peak_mb,
    }


def _check_memory(name: str, weights_mb: float, device: torch.device) -> None:
    """Raises ValueError where the weights, which are made in float32, do not fit."""
    import torch

    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    free_mb = (torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free) / 1e6
    if SPARE * weights_mb > free_mb:
        needed = f"{SPARE * weights_mb / 1e3:.0f} GB of memory, {free_mb / 1e3:.0f} are free"
        raise ValueError(f"{name} needs {needed}: leave it out")


def _read(path: Path) -> dict[str, Any]:
    """What was measured then. Raises ValueError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        measured: dict[str, Any] = found["measured"]
        if found["format"] != FORMAT or not all("parts" in subject for subject in measured.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: expected a file that `vla-align bench --json` wrote") from None
    return measured


def _show(found: dict[str, Any], limits: dict[str, Peak], before: dict[str, Any]) -> None:
    """A table for each network; `then`: the CPU time over the saved one."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for dtype, limit in limits.items():
        console.print(f"{dtype}: {limit.flops_per_s / 1e9:.0f} GFLOP/s, copy {limit.bytes_per_s / 1e9:.1f} GB/s")
    for name, subject in found.items():
        memory = ", ".join(f"{part} {mb:.0f} MB" for part, mb in subject["memory_mb"].items())
        columns = [*COLUMNS, "now / then"] if before else COLUMNS
        table = Table(*columns, title=f"{name}: {memory}")
        for part, numbers in subject["parts"].items():
            row = [_text(numbers, key, scale) for key, scale in COLUMNS.values()]
            then = before.get(name, {}).get("parts", {}).get(part, {}).get("cpu_ms")
            ratio = f"{numbers['cpu_ms'] / then:.2f}" if then and "cpu_ms" in numbers else ""
            table.add_row(part, *row[1:], *([ratio] if before else []))
        console.print(table)


def _text(numbers: dict[str, Any], key: str, scale: float) -> str:
    return f"{numbers[key] * scale:.3g}" if key in numbers else ""
