"""`vla-align align`: rosbags in, a token and a report out. The same code as on the robot."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def align(
    bags: Annotated[list[Path], typer.Argument(help="Bag folders or .mcap files, in order of time.")],
    model: Annotated[str, typer.Option(help="Folder of the model, or its name in the zoo.")],
    store: Annotated[
        Path | None,
        typer.Option(
            help="Token store to read the running token from and to write to; the nodes' own when left out: "
            "~/.ros/vla_align/<name of the model>."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    joint_topic: Annotated[str, typer.Option(help="The bag's JointState topic.")] = "/joint_states",
    prompt_topic: Annotated[str, typer.Option(help="The bag's prompt topic.")] = "/vla_policy/prompt",
    chunk_topic: Annotated[
        str, typer.Option(help="The bag's topic of sent trajectories.")
    ] = "/vla_policy/action_chunk",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter, as align_steps=80 (vla-align params).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Align a model to the robot that recorded the bags. Exit code 0: kept; 1: refused, with the reason; 2: wrong
    usage.

    Example: vla-align align --model tiny --store outputs/tokens outputs/monday
    """
    import torch
    import yaml

    from vla_align_ros.alignment.offline import align_bags, bag_topics
    from vla_align_ros.checkpoint.manifest import StoreError
    from vla_align_ros.experience.bag import BagError
    from vla_align_ros.params import ParameterError, PolicyParams
    from vla_align_ros.policy import load_policy
    from vla_align_ros.zoo import find_model

    torch.set_num_threads(1)
    try:
        given = dict(item.split("=", 1) for item in set_ or [])
        changes = {name: yaml.safe_load(value) for name, value in given.items()}
        policy = load_policy(find_model(model))
        params = PolicyParams.from_mapping(
            {**asdict(policy.config.recommended), **changes, "model": model, "store": str(store or "")}
        )
        topics = bag_topics(policy, joint_topic, prompt_topic, chunk_topic)
        report = align_bags(policy, bags, topics, params, seed)
    except (ValueError, ParameterError, BagError, StoreError) as error:
        typer.echo(f"cannot align: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(report.to_json(), indent=2) if as_json else report.sentence())
    raise typer.Exit(0 if report.accepted else 1)
