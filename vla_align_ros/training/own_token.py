"""Do the alignment losses know a robot by its token? Asked of training robots, whose tokens are in the bank.

The experience is what a robot gathers with the token that a fresh install starts with, which is wrong for it: the same
that a first alignment has. Each loss at the robot's own token against tokens of the bank that are far from it. Where
the own one is not lower, no alignment can find it, however well the policy knows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.experience.source import Source
from vla_align_ros.policy import Policy
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of

OWN_TOKEN_FILE = "own_token.json"
TOLD_AIM = 0.8  # of the best task; what `doctor` calls too little
ROBOTS, COUNT, FAR, DRAWS = 6, 64, 8, 4  # of a family; experiences; tokens; (t, noise) an experience


@dataclass(frozen=True)
class Told:
    """own, far: mean loss at the own token and at the far ones. told: share of (robot, far token) where the own one's
    loss is lower; half of them is chance."""

    own: float
    far: float
    told: float


def measure(policy: Policy, source: Source, seed: int) -> dict[str, dict[str, Told]]:
    """Family (with the number of its robots) -> task -> what its loss knows. At most ROBOTS of a family; those that
    are shifted in several ways are one family, and so are all where nobody knows how they differ."""
    families = ["all"] * len(source.robots) if source.shifts is None else list(source.shifts.families)
    groups: dict[str, list[int]] = {}
    for row in range(1, len(policy.alignment.bank)):  # the first one's token is the wrong one
        groups.setdefault("several" if " and " in families[row] else families[row], []).append(row)
    found = {}
    for name, rows in groups.items():
        several = [told for row in rows[:ROBOTS] if (told := _of_robot(policy, source, row, seed))]
        if several:
            found[f"{name} ({len(several)})"] = {
                task: Told(*np.mean([list(asdict(told[task]).values()) for told in several], axis=0).tolist())
                for task in several[0]
            }
    return found


def _of_robot(policy: Policy, source: Source, row: int, seed: int) -> dict[str, Told]:
    """One robot's; empty where it gathered nothing."""
    start = policy.initial_token()
    assert start is not None
    (experiences,) = source.experiences([row], policy, start[None], seed_of(seed, Part.OWN_TOKEN, row), COUNT)
    if not experiences:
        return {}
    bank = policy.alignment.bank
    near_first = (bank - bank[row]).flatten(1).norm(dim=1).argsort()
    far = rng_of(seed, Stream.FAR_TOKENS, row).permutation(near_first[len(bank) // 2 :].cpu().numpy())[:FAR]
    losses = ExperienceLosses(policy, experiences, LossWeights(1.0, 1.0, 1.0))
    tokens = policy.e_0 + bank[torch.from_numpy(np.append(row, far)).to(bank.device)]
    with torch.no_grad():
        means = {
            task: loss.mean(1).cpu().numpy()
            for task, loss in losses(tokens, torch.arange(len(losses)), DRAWS, seed).items()
        }
    return {
        task: Told(float(loss[0]), float(loss[1:].mean()), float((loss[0] < loss[1:]).mean()))
        for task, loss in means.items()
    }


def read(path: Path) -> dict[str, dict[str, Told]]:
    """What `write` wrote. Raises OSError or ValueError where there is no such thing."""
    return TypeAdapter(dict[str, dict[str, Told]]).validate_json(path.read_bytes())


def write(folder: Path, found: Mapping[str, Mapping[str, Told]]) -> None:
    """Write the file into a zoo folder."""
    rows = {name: {task: asdict(told) for task, told in tasks.items()} for name, tasks in found.items()}
    (folder / OWN_TOKEN_FILE).write_text(json.dumps(rows, indent=2) + "\n")
