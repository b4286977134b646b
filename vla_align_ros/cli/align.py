"""`vla-align align`: rosbags (or a LeRobotDataset) in, a token and a report out. The same code as on the robot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vla_align_ros.cli.bag_options import Bags, RecordedOptions, are_datasets, pairs, with_recorded_options

if TYPE_CHECKING:
    from vla_align_ros.experience.bag_summary import BagSummary
    from vla_align_ros.experience.bag_topics import BagTopics
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.params import PolicyParams
    from vla_align_ros.policy import Policy


@with_recorded_options
def align(
    bags: Bags,
    model: Annotated[str, typer.Option(help="Folder of the model, or its name in the zoo.")],
    recorded: RecordedOptions,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Token store to read the running token from and to write to; the nodes' own when left out: "
            "~/.ros/vla_align/<robot-id>/<name of the model>."
        ),
    ] = None,
    robot_id: Annotated[
        str, typer.Option(help="Whose default store, as the node says at start: arm1.vla_policy. Empty: vla_policy.")
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
    for an alignment with --dry-run; 1: refused, with the reason; 2: wrong usage.

    Example: vla-align align --model tiny --store outputs/tokens outputs/monday
    """
    import torch
    import yaml

    from vla_align_ros.alignment.reasons import Reason
    from vla_align_ros.checkpoint.manifest import StoreError
    from vla_align_ros.checkpoint.owner import owner_of
    from vla_align_ros.experience.buffer import ExperienceBuffer
    from vla_align_ros.offline import would_refuse
    from vla_align_ros.params import ManagerParams, ParameterError, PolicyParams
    from vla_align_ros.policy import load_policy
    from vla_align_ros.runtime import make_runtime
    from vla_align_ros.zoo import find_model

    torch.set_num_threads(1)
    try:
        changes = {name: yaml.safe_load(value) for name, value in pairs("--set", set_).items()}
        policy = load_policy(find_model(model))
        params = PolicyParams.from_mapping(
            {
                **asdict(policy.config.recommended),
                **changes,
                "model": model,
                "store": str(store or ""),
                "robot_id": robot_id,
            }
        )
        topics = None if are_datasets(bags) else recorded.topics(policy.config.robot)
        if dry_run:
            buffer = ExperienceBuffer(params.buffer_capacity)
            summaries = _read(policy, bags, recorded, topics, params, buffer)
            verdict = would_refuse(policy, buffer.snapshot(), params.align)
            found = {"experiences": buffer.total_added, "reason": verdict.reason.value if verdict else None}
            words = f"would be refused ({verdict.reason.value}): {verdict.detail}" if verdict else "could begin"
            _print(found, f"{buffer.total_added} experiences: an alignment {words}", summaries, as_json, whole=True)
            raise typer.Exit(1 if verdict else 0)
        runtime = make_runtime(policy, params, ManagerParams().keep_versions)
        if (owner := owner_of(runtime.store.root)) is not None:
            typer.echo(f"the store is in use by {owner}, which follows what becomes active", err=True)
        summaries = _read(policy, bags, recorded, topics, params, runtime.buffer)
        report = runtime.align(params.align, params.exploration_fraction, seed=seed)
    except (ValueError, ParameterError, StoreError) as error:
        typer.echo(f"cannot align: {error}", err=True)
        raise typer.Exit(2) from None
    little = report.reason is Reason.TOO_LITTLE_EXPERIENCE
    _print(report.to_json(), report.sentence(), summaries, as_json, whole=little)
    raise typer.Exit(0 if report.accepted else 1)


def _read(
    policy: Policy,
    sources: Sequence[Path],
    recorded: RecordedOptions,
    topics: BagTopics | None,
    params: PolicyParams,
    buffer: ExperienceBuffer,
) -> list[BagSummary]:
    """Fill the buffer; what became of each bag, and nothing of datasets, which are whole or refused. topics: of bags
    alone."""
    from vla_align_ros.offline import fill_buffer, fill_from_datasets

    if topics is not None:
        return list(fill_buffer(policy, sources, topics, params, buffer, recorded.prompt))
    fill_from_datasets(policy, sources, pairs("--camera", recorded.camera), params, buffer, recorded.prompt)
    return []


def _print(
    result: dict[str, object], sentence: str, summaries: Sequence[BagSummary], as_json: bool, *, whole: bool
) -> None:
    """whole: everything about the bags, not only what is missing and what must be known."""
    if as_json:
        typer.echo(json.dumps({**result, "bags": [summary.to_json() for summary in summaries]}, indent=2))
        return
    for summary in summaries:
        for line in summary.lines() if whole else summary.remarks():
            typer.echo(line)
    typer.echo(sentence)
