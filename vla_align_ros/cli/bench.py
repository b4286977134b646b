"""`vla-align bench`: how long inference and alignment take on this machine, and how far that is from its limit."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vla_align_ros.cli.json_file import JsonFile

if TYPE_CHECKING:
    import torch

    from vla_align_ros.policy.fast import Plan
    from vla_align_ros.policy.pi0 import Pi0
    from vla_align_ros.speed.sizes import Size, Variant

FORMAT = 2
NUM_STEPS = 10  # of a network with random weights
ROWS = {"model": 16, "golden": 16, "medium": 4, "full": 1}  # of an alignment, measured together
WIDTH = 120  # of the tables, at least
SPARE = 1.2  # memory that must be free, over the weights
COLUMNS = {  # a part's number, and what it is multiplied by
    "part": ("", 1.0),
    "p50 ms": ("p50_ms", 1.0),
    "p95 ms": ("p95_ms", 1.0),
    "p99 ms": ("p99_ms", 1.0),
    "own ms": ("own_ms", 1.0),
    "GFLOP": ("flops", 1e-9),
    "MB": ("bytes", 1e-6),
    "limit ms": ("limit_ms", 1.0),
    "% of limit": ("share", 100.0),
}


def bench(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo; empty: none.")] = "so101",
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
    compare: Annotated[
        Path | None, typer.Option(metavar="SAVED", help="A file of --json: each `own ms` is shown over the one in it.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure latency, alignment and memory, and each as a share of what this machine can do at most. p50 to p99 are
    wall time; `own ms` is CPU time with one thread, which other processes disturb least, else the median wall time.
    Exit code 2: a model, size or file that does not fit.

    Example: vla-align bench --size golden --json after.json --compare before.json
    """
    import torch

    from vla_align_ros.policy.load import find_device
    from vla_align_ros.speed.sizes import SIZES, VARIANTS

    torch.set_num_threads(threads)
    wanted = size or []
    try:
        if unknown := sorted({*wanted} - {*SIZES}):
            raise ValueError(f"--size: expected one of {', '.join(SIZES)}, got {unknown[0]}")
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"--dtype: expected float32 or bfloat16, got {dtype}")
        on = find_device(device)
        settings = {"device": str(on), "threads": threads, "dtype": dtype, "experiences": experiences}
        before = {} if compare is None else _read(compare, settings)
        found: dict[str, Any] = {}
        if model:
            found[model] = _of_model(model, on, calls, experiences)
        for name in SIZES:
            for variant in VARIANTS if name in wanted else ():
                counted = name == "full" and not full
                found[f"{name} {variant}"] = _of_size(name, variant, on, counted, dtype, calls, experiences)
    except ValueError as error:
        typer.echo(f"cannot measure: {error}", err=True)
        raise typer.Exit(2) from None
    _show(found, before)
    if json_file is not None:
        about = {"format": FORMAT, **settings, "torch": torch.__version__}
        json_file.write_text(json.dumps({**about, "measured": found}, indent=2) + "\n")


def _of_model(name: str, device: torch.device, calls: int, experiences: int) -> dict[str, Any]:
    """A model as the node runs it. `node overhead`: what a chunk costs beside `sample_actions`."""
    from vla_align_ros.policy import load_policy
    from vla_align_ros.speed import measure, whole
    from vla_align_ros.zoo import find_model

    policy = load_policy(find_model(name), device)
    limit = measure.peak(policy.model, device)
    plan = measure.plan_of(policy.model, policy.config.recommended.num_steps)
    parts = {**measure.sampling(plan, calls, limit), **whole.node(policy, calls)}
    own_ms = {part: numbers["own_ms"] for part, numbers in parts.items()}
    images_ms = len(policy.config.robot.cameras) * own_ms["image message"]
    overhead_ms = images_ms + own_ms["infer"] - own_ms["sample_actions"] + own_ms["check and message"]
    parts["node overhead"] = {"own_ms": overhead_ms}
    if not policy.align_problem:
        parts |= measure.aligning(policy.model, ROWS["model"], calls, limit)
        parts |= whole.alignment(policy, experiences)
    return {"parts": parts, "peak": vars(limit), "memory_mb": _memory(policy.model, plan, experiences)}


def _of_size(
    size: Size,
    variant: Variant,
    device: torch.device,
    counted: bool,
    dtype: str,
    calls: int,
    experiences: int,
) -> dict[str, Any]:
    """Random weights. counted: nothing is run, the work is counted alone."""
    import torch

    from vla_align_ros.policy.load import to_bfloat16
    from vla_align_ros.speed import measure
    from vla_align_ros.speed.sizes import architecture, network

    sizes = architecture(size, variant)
    if not counted:
        _check_memory(f"{size} {variant}", measure.weights_mb(network(sizes, "meta")), device)
    model = network(sizes, "meta" if counted else device)
    if dtype == "bfloat16":
        to_bfloat16(model)
    limit = measure.peak(model, device, getattr(torch, dtype))
    plan = measure.plan_of(model, NUM_STEPS)
    parts = measure.sampling(plan, calls, limit)
    parts |= measure.aligning(model, ROWS[size], calls, measure.peak(model, device))
    return {"parts": parts, "peak": vars(limit), "memory_mb": _memory(model, plan, experiences)}


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
    from vla_align_ros.cli.doctor_model import free_bytes

    free_mb = free_bytes(device) / 1e6
    if SPARE * weights_mb > free_mb:
        needed = f"{SPARE * weights_mb / 1e3:.0f} GB of memory, {free_mb / 1e3:.0f} are free"
        raise ValueError(f"{name} needs {needed}: leave it out")


def _read(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What was measured then. Raises ValueError, also where another of the settings makes other times of it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        measured: dict[str, Any] = found["measured"]
        if found["format"] != FORMAT or not all("parts" in subject for subject in measured.values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path}: expected a file that `vla-align bench --json` wrote") from None
    if differ := [f"{name} {found.get(name)}, now {now}" for name, now in settings.items() if found.get(name) != now]:
        raise ValueError(f"--compare {path}: measured with {', '.join(differ)}: measure both alike")
    return measured


def _show(found: dict[str, Any], before: dict[str, Any]) -> None:
    """A table for each network; `now / then`: its own_ms over the saved one."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(WIDTH, Console().width))
    for name, subject in found.items():
        memory = ", ".join(f"{part} {mb:.0f} MB" for part, mb in subject["memory_mb"].items())
        peak = "{:.0f} GFLOP/s, copy {:.1f} GB/s".format(*(value / 1e9 for value in subject["peak"].values()))
        table = Table(title=f"\n{name}: {memory}\nthis machine: {peak}", box=None, title_justify="left")
        for column in [*COLUMNS, "now / then"] if before else COLUMNS:
            table.add_column(column, justify="left" if column == "part" else "right", no_wrap=True)
        for part, numbers in subject["parts"].items():
            row = [_text(numbers, key, scale) for key, scale in COLUMNS.values()]
            then = before.get(name, {}).get("parts", {}).get(part, {}).get("own_ms")
            ratio = f"{numbers['own_ms'] / then:.2f}" if then and "own_ms" in numbers else ""
            table.add_row(part, *row[1:], *([ratio] if before else []))
        console.print(table)


def _text(numbers: dict[str, Any], key: str, scale: float) -> str:
    if key not in numbers:
        return ""
    number = numbers[key] * scale
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"
