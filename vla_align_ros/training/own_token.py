"""Do the alignment losses know a robot by its token? Asked of training robots, whose tokens are in the bank.

The experience is what a robot gathers with the token that a fresh install starts with, which is wrong for it: the same
that a first alignment has. Each loss at the robot's own token against that of a robot which differs from it in one
family of shifts alone. Where the own one is not lower, no alignment can find such a shift, however well the policy
knows it. Where nobody knows how the robots differ, against tokens of the bank that are far from the own one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.experience.source import Shifts, Source
from vla_align_ros.policy import Policy
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of
from vla_align_ros.training.bank import TokenBank

OWN_TOKEN_FILE = "own_token.json"
TOLD_AIM = 0.8  # of the best task; what `doctor` calls too little
ROBOTS, COUNT, FAR, DRAWS = 6, 64, 8, 4  # of a family; experiences; other tokens; (t, noise) an experience


@dataclass(frozen=True)
class Told:
    """own, far: mean loss at the own token and at the others. told: share of (robot, other token) where the own one's
    loss is lower; half of them is chance."""

    own: float
    far: float
    told: float


def measure(policy: Policy, source: Source, bank: TokenBank, seed: int) -> dict[str, dict[str, Told]]:
    """Family (with the number of its robots) -> task -> what its loss knows. At most ROBOTS of a family; all robots are
    one where nobody knows how they differ. bank: that the policy's tokens are of."""
    started = policy.config.initial_token  # whose token all of them gather with: for any other it is a wrong one
    held = [row for row in range(len(policy.alignment.bank)) if row != started]
    of_families: dict[str, list[int]] = {}
    for row in held:
        for name in ("all",) if source.shifts is None else source.shifts.families[row]:
            of_families.setdefault(name, []).append(row)
    gathered = _Gathered(policy, source, seed)
    found = {}
    for name, rows in of_families.items():
        several = []
        for row in rows[:ROBOTS]:
            if losses := gathered(row):
                rng = rng_of(seed, Stream.FAR_TOKENS, row)
                if source.shifts is None:
                    others = _far(policy.alignment.bank, row, rng)
                else:
                    others = _exchanged(bank, source.shifts, row, name, rng).to(policy.alignment.bank)
                several.append(_told(policy, losses, row, others, seed))
        if several:
            found[f"{name} ({len(several)})"] = {
                task: Told(*np.mean([list(asdict(told[task]).values()) for told in several], axis=0).tolist())
                for task in several[0]
            }
    return found


class _Gathered:
    """The losses of a robot's experience, gathered once; None where it gathered nothing."""

    def __init__(self, policy: Policy, source: Source, seed: int) -> None:
        self._policy, self._source, self._seed = policy, source, seed
        self._known: dict[int, ExperienceLosses | None] = {}

    def __call__(self, row: int) -> ExperienceLosses | None:
        if row not in self._known:
            start = self._policy.initial_token()
            assert start is not None
            seed = seed_of(self._seed, Part.OWN_TOKEN, row)
            (experiences,) = self._source.experiences([row], self._policy, start[None], seed, COUNT)
            weights = LossWeights(1.0, 1.0, 1.0)
            self._known[row] = ExperienceLosses(self._policy, experiences, weights) if experiences else None
        return self._known[row]


def _exchanged(bank: TokenBank, shifts: Shifts, row: int, family: str, rng: np.random.Generator) -> Tensor:
    """Offsets of robots that are as `row`, but for one family, in which each is as another robot."""
    others = rng.permutation(len(shifts.families)).tolist()
    values = (shifts.exchanged(row, family, other) for other in others)
    return bank.of_shifts(np.stack(list(islice((one for one in values if (one != shifts.values[row]).any()), FAR))))


def _far(bank: Tensor, row: int, rng: np.random.Generator) -> Tensor:
    """Some of the half of the bank that is farthest from a robot's own offset."""
    near_first = (bank - bank[row]).flatten(1).norm(dim=1).argsort()
    return bank[torch.from_numpy(rng.permutation(near_first[len(bank) // 2 :].cpu().numpy())[:FAR]).to(bank.device)]


@torch.no_grad()
def _told(policy: Policy, losses: ExperienceLosses, row: int, others: Tensor, seed: int) -> dict[str, Told]:
    """Each loss at a robot's own token against `others`, offsets (N, n, W)."""
    tokens = policy.e_0 + torch.cat([policy.alignment.bank[row][None], others])
    found = losses(tokens, torch.arange(len(losses)), DRAWS, seed)
    means = {task: loss.mean(1).cpu().numpy() for task, loss in found.items()}
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
