"""Does successive halving keep the pick? The bank's best token by halving against the best of all by all experiences.

    python benchmarks/halving.py --seed 1 --json halving.json

rows_share: how many rows (an experience with a token) halving asks, of what asking all would. higher_z: by how many
standard errors the loss of its best token is higher than that of the best of all, on the same experiences with draws of
(t, noise) that neither has seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import torch
import typer
from families import bench_of, recipe_of, units
from family_rows import buffer_of
from machine import write
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.pick import pick
from vla_align_ros.alignment.step import known_tokens
from vla_align_ros.bench.so101.bench import So101
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.zoo import find_model

EXPERIENCES, AT_ONCE, DRAWS = 64, 64, 8


class Counted:
    """Losses that count the rows which they are asked for."""

    def __init__(self, losses: ExperienceLosses) -> None:
        self._losses, self.rows = losses, 0

    def __call__(self, tokens: Tensor, rows: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
        self.rows += len(rows) * (len(tokens) if tokens.dim() == 3 else 1) * draws
        return self._losses(tokens, rows, draws, seed)

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        return self._losses.weighted(losses)


@torch.no_grad()
def one_unit(policy: Policy, arm: Embodiment, seed: int, bench: So101, exploration: float) -> dict[str, Any]:
    """Of one arm."""
    experiences = buffer_of(policy, bench, arm, seed, exploration)[:EXPERIENCES]
    losses = arms.losses_of(policy, experiences, arms.recommended(policy)).without_dynamics()
    rows, candidates, counted = (
        torch.arange(len(losses)),
        known_tokens(policy, arms.shipped_token(policy)),
        Counted(losses),
    )
    best, _ = pick(counted, rows, candidates, seed_of(seed, Part.PICK))  # type: ignore[arg-type]
    each = [losses.weighted(losses(some, rows, 1, seed)).mean(1) for some in candidates.split(AT_ONCE)]
    best_of_all = int(torch.cat(each).argmin())
    pair = losses.weighted(losses(candidates[[best, best_of_all]], rows, DRAWS, seed_of(seed, Part.JUDGING)))
    higher = pair[0] - pair[1]
    z = float(higher.mean() / (higher.std() / len(rows) ** 0.5)) if best != best_of_all else 0.0
    return {"same": best == best_of_all, "higher_z": z, "rows_share": counted.rows / (len(candidates) * len(rows))}


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "so101",
    family: Annotated[str, typer.Option(help="Of shifts.")] = "wrist_camera",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    count: Annotated[int, typer.Option("--units", help="Arms.", min=1)] = 8,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.", min=1)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Pick in both ways."""
    bench = bench_of(recipe_of(find_model(model)))
    asked = [(arm, seed + place, bench, 0.5) for place, arm in enumerate(units(family, count, seed))]
    found = list(arms.each_arm(one_unit, model, asked, jobs, "cpu"))
    numbers = {"units": count, "same": sum(one["same"] for one in found)} | {
        name: arms.interval(np.array([one[name] for one in found])) for name in ("higher_z", "rows_share")
    }
    print(numbers)
    write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
