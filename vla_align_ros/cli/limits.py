"""`vla-align limits`: measure the limits again that a model's alignments are judged by."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vla_align_ros.policy import Policy


def limits(
    model: Annotated[
        str, typer.Argument(help="Folder of the model, or its name in the zoo; its alignment_stats.json is written.")
    ],
    source: Annotated[
        str,
        typer.Option(help="Whose validation robots, as YAML, see vla-align train; empty: of the model's recipe.yaml."),
    ] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or auto; only the CPU repeats it bit for bit.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print each robot's statistics as JSON.")] = False,
) -> None:
    """Measure the limit of each check over validation robots, as the end of a training does. Needed where a check
    changed, not the weights; about half a minute a robot. Exit code 2: a model or data that do not fit.

    Example: vla-align limits so101
    """
    import torch

    from vla_align_ros.cli.sources import open_sources
    from vla_align_ros.limits import CHECKS
    from vla_align_ros.policy.statistics import STATS_FILE, read_motion_r2, write_alignment_stats
    from vla_align_ros.training.limits import measure
    from vla_align_ros.training.recipe import TrainingError
    from vla_align_ros.zoo import find_model

    torch.set_num_threads(threads)
    try:
        folder = find_model(model)
        motion_r2 = read_motion_r2(folder / STATS_FILE)
        policy = _without_limits(folder, motion_r2, device)
        validation = open_sources(_source(folder, source), policy.config, seed=0).validation
        robots, needed = len(validation.robots), max(check.robots_needed for check in CHECKS)
        if robots < needed:
            few = f"{robots} validation robots, {needed} are needed: the new limits will refuse more good experience"
            typer.echo(few, err=True)

        def log(line: dict[str, object]) -> None:
            words = f"robot {line['step']} of {robots}"
            typer.echo(json.dumps(line) if as_json else words, err=not as_json)

        write_alignment_stats(folder, measure(policy, validation, motion_r2, log))
    except (ValueError, TrainingError) as error:
        typer.echo(f"cannot measure: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"wrote {folder / STATS_FILE}; vla-align doctor --model {folder} shows it", err=as_json)


def _source(model: Path, given: str) -> dict[str, Any]:
    """`given` as YAML, or what the model was trained on. Raises ValueError where neither is there."""
    from vla_align_ros.checked import load_yaml
    from vla_align_ros.cli.sources import parse_source
    from vla_align_ros.training.recipe import RecipeError

    if given:
        return parse_source(given)
    path = model / "recipe.yaml"
    source = load_yaml(path, dict[str, Any], RecipeError).get("source") if path.exists() else None
    if source is None:
        raise ValueError(f"{path} names no source: say by --source whose validation robots to measure on")
    return dict(source)


def _without_limits(model: Path, motion_r2: float, device: str) -> Policy:
    """The model, whose own file may be of other checks than today's and is not touched yet."""
    from vla_align_ros.policy import load_policy
    from vla_align_ros.policy.load import find_device
    from vla_align_ros.policy.statistics import STATS_FILE, no_limits, write_alignment_stats

    with TemporaryDirectory() as folder:
        for path in model.iterdir():
            if path.name != STATS_FILE:
                (Path(folder) / path.name).symlink_to(path.resolve())
        write_alignment_stats(Path(folder), no_limits(motion_r2))
        return load_policy(folder, find_device(device))
