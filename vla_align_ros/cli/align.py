"""`vla-align align`: rosbags (or a LeRobotDataset) in, a token and a report out. The same code as on the robot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vla_align_ros.cli import align_fleet, align_robot
from vla_align_ros.cli.align_robot import DeskError, Job, Outcome
from vla_align_ros.cli.bag_options import BAGS_HELP, RecordedOptions, pairs, with_recorded_options


@with_recorded_options
def align(
    model: Annotated[str, typer.Option(help="Folder of the model, or its name in the zoo.")],
    recorded: RecordedOptions,
    bags: Annotated[list[Path] | None, typer.Argument(help=BAGS_HELP)] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Token store to read the running token from and to write to; the nodes' own when left out: "
            "~/.ros/vla_align/<robot-id>/<name of the model>. Of a fleet: the folder of the robots' stores."
        ),
    ] = None,
    robot_id: Annotated[
        str, typer.Option(help="Whose default store, as the node says at start: arm1.vla_policy. Empty: vla_policy.")
    ] = "",
    fleet: Annotated[
        Path | None,
        typer.Option(
            help="In place of bags: a folder with a folder of bags for each robot, named by its robot id. Each gets a "
            "token of its own. Needs Ray: vla_align_ros[fleet]."
        ),
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(
            help="Address of a Ray cluster for --fleet, as 10.0.0.5:6379, whose machines see model, bags and stores "
            "under the same paths. Empty: this machine."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter, as align_steps=80 (vla-align params).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the bags and say what is in them; align and write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Align a model to the robot that recorded the bags, or LeRobotDatasets. Exit code 0: kept, or enough experience
    for an alignment with --dry-run; 1: refused, with the reason; 2: wrong usage. Of a fleet: 0 where all are.

    Example: vla-align align --model so101 --store outputs/tokens outputs/monday
    """
    import yaml

    try:
        changes = {name: yaml.safe_load(value) for name, value in pairs("--set", set_).items()}
        job = Job(model, tuple(bags or ()), recorded, changes, str(store or ""), robot_id, seed, dry_run)
        if cluster and fleet is None:
            raise DeskError("--cluster is for --fleet")
        good = _one(job, as_json) if fleet is None else _fleet(fleet, job, cluster, as_json)
    except (ValueError, yaml.YAMLError) as error:
        typer.echo(f"cannot align: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if good else 1)


def _one(job: Job, as_json: bool) -> bool:
    if not job.sources:
        raise DeskError("expected bags or LeRobotDatasets, or --fleet with a folder of them for each robot")
    outcome = align_robot.run(job)
    if outcome.note:
        typer.echo(outcome.note, err=True)
    if as_json:
        typer.echo(json.dumps(outcome.to_json(), indent=2))
    else:
        for line in (*outcome.remarks(), outcome.sentence):
            typer.echo(line)
    return outcome.good


def _fleet(folder: Path, job: Job, cluster: str, as_json: bool) -> bool:
    if job.sources or job.robot_id:
        raise DeskError("--fleet takes the place of bags and of --robot-id: give it alone")

    def done(name: str, outcome: Outcome) -> None:
        said = replace(outcome, whole=False).remarks()
        for line in filter(None, (*said, outcome.note, outcome.verdict)):
            typer.echo(f"{name}: {line}", err=True)

    outcomes = align_fleet.on_ray(align_fleet.fleet_jobs(folder, job), align_fleet.attempt, cluster, done)
    typer.echo(align_fleet.as_json(outcomes) if as_json else align_fleet.as_table(outcomes))
    return all(outcome.good for outcome in outcomes.values())
