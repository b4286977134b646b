"""`vla-align demo`: the whole product on a simulated robot, as real processes over DDS, with a report to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vla_align_ros.cli.json_file import JsonFile
from vla_align_ros.demo.subject import EMBODIMENT_SEED, MODEL


def demo(
    model: Annotated[str, typer.Option(help="Folder of the model, or its name in the zoo.")] = MODEL,
    out: Annotated[Path, typer.Option(help="Folder of store, bag, logs, report; replaces an earlier demo's.")] = Path(
        "outputs/demo"
    ),
    embodiment_seed: Annotated[int, typer.Option(help="Which arm; 0 is the unshifted one.")] = EMBODIMENT_SEED,
    aligns: Annotated[int, typer.Option(help="Alignments to wait for.", min=1)] = 2,
    episodes: Annotated[int, typer.Option(help="Paired episodes for the success rates.", min=1)] = 200,
    json_file: JsonFile = None,
) -> None:
    """Run a simulated robot with a shifted arm, align to it, and prove that live, offline and restored agree.

    Exit code 0 only if every part really worked. Example: vla-align demo --json demo.json
    """
    import os

    from rich.console import Console

    from vla_align_ros.demo.processes import loopback_environment
    from vla_align_ros.ros.demo_replay import DemoError
    from vla_align_ros.ros.demo_run import DemoSettings, run_demo

    console = Console()
    settings = DemoSettings(model, out, embodiment_seed, aligns, episodes)
    os.environ.update(loopback_environment(domain_id=1 + os.getpid() % 100))
    try:
        numbers = run_demo(settings, console)
    except (DemoError, ValueError) as error:
        console.print(f"\n[red]the demo failed:[/red] {error}")  # below the live table, which ends without a new line
        raise typer.Exit(1) from None
    if json_file is not None:
        json_file.write_text(json.dumps(numbers, indent=2) + "\n")
    console.print(f"report: {numbers['report_path']}")
