"""Which shifts does an alignment mistake, and which of them cost success?

    python benchmarks/mistaken.py --family pixels --seed 92 --json mistaken.json

Only for a model whose tokens are made of shifts. Each arm is aligned without the guard. Then the shifts of one family
of what was found are put right, the others stay as found, and success is measured again. `mistake`: how far found
shifts lie from the true ones, over their spread in training, the mean of the family's numbers; two robots that
are shifted at random differ by some 1.1. `true_over_found`: the loss at the token of the true shifts over that at what
was found, on later experience that nothing was learned from: from 1 upwards the loss does not prefer the true ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import torch
import typer
from families import FAMILIES, bench_of, recipe_of, units
from family_rows import buffer_of, measured, with_token
from machine import write
from torch import Tensor

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.shifts import Family, Split, draw_embodiment
from vla_align_ros.bench.so101.source import shift_values
from vla_align_ros.cli.sources import open_sources
from vla_align_ros.policy import Policy
from vla_align_ros.policy.config import load_model_description
from vla_align_ros.policy.made_tokens import MadeTokens
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Float32Array
from vla_align_ros.zoo import find_model


@dataclass(frozen=True)
class Watched(MadeTokens):
    """Remembers the shifts that it was last asked for."""

    asked: list[Tensor] = field(default_factory=list)

    def offsets(self, shifts: Tensor) -> Tensor:
        self.asked[:] = [shifts.detach()[0].clone()]
        return super().offsets(shifts)


def one_arm(policy: Policy, arm: Embodiment, seed: int, model: Path, families: list[Family]) -> dict[str, Any]:
    """Success as found and with each family put right; and the mistakes."""
    parts, recipe, params, made = policy.alignment, recipe_of(model), arms.recommended(policy), policy.alignment.made
    assert made is not None, "expected a bank that is made of shifts"
    source = open_sources(recipe["source"], load_model_description(model / "model.yaml"), recipe["seed"]).training
    assert source.shifts is not None
    known = source.shifts.values
    told = np.ptp(known, axis=0) > 0

    def numbers(arm: Embodiment) -> Tensor:
        value = (shift_values([arm])[0] - known.mean(axis=0))[told] / known[:, told].std(axis=0)
        return torch.from_numpy(value.astype(np.float32))

    shipped, bench = arms.shipped_token(policy), bench_of(recipe)
    split = arms.split_of(policy, buffer_of(policy, bench, arm, seed, 0.5), params)
    watched = Watched(made.network, made.shifts)
    policy._alignment = replace(parts, made=watched)
    try:
        arms.without_guard(policy, split.learn, params, shipped, seed)
    finally:
        policy._alignment = parts
    found, true = watched.asked[0], numbers(arm)

    def token_of(shifts: Tensor) -> Tensor:
        return policy.e_0 + made.offsets(shifts[None])[0]

    def success(shifts: Tensor) -> float:
        token = token_of(shifts)
        return float(np.mean(measured(policy, bench, arm, with_token(policy, token), 20, seed)["success"]))

    losses = arms.losses_of(policy, split.judged, params)
    with torch.no_grad():
        both = losses.weighted(
            losses(torch.stack([token_of(true), token_of(found)]), torch.arange(len(losses)), 8, seed)
        )
    ratio = float(both[0].mean() / both[1].mean())
    result = {
        "as found": {"success": success(found)},
        "all right": {"success": success(true), "true_over_found": ratio},
    }
    for family in families:
        mine = torch.from_numpy(np.ptp(_several(family), axis=0)[told] > 0)
        if mine.any():
            mistake = float((found - true)[mine].abs().mean())
            result[family.value] = {"success": success(torch.where(mine, true, found)), "mistake": mistake}
    return result


def _several(family: Family) -> Float32Array:
    """Arms that differ in one family alone."""
    return shift_values([draw_embodiment(number, Split.TRAINING, [family]) for number in range(8)])


def main(
    model: Annotated[str, typer.Option(help="Folder of a model, or its name in the zoo.")] = "so101",
    family: Annotated[str, typer.Option(help="Of shifts, of benchmarks/families.py.")] = "pixels",
    seed: Annotated[int, typer.Option(help="Any seed gives other arms.")] = 1,
    count: Annotated[int, typer.Option("--units", help="Arms.", min=2)] = 24,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.", min=1)] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Align each arm, put what was found right one family at a time, and measure."""
    folder, families = find_model(model), list(dict.fromkeys([*FAMILIES[family], Family.ZEROS]))
    asked = [
        (arm, seed_of(seed, Part.ROBOT, place), folder, families)
        for place, arm in enumerate(units(family, count, seed))
    ]
    found = list(arms.each_arm(one_arm, model, asked, jobs, "cpu"))
    numbers = {
        name: {what: arms.interval(np.array([one[name][what] for one in found])) for what in found[0][name]}
        for name in found[0]
    }
    for name, values in numbers.items():
        print(name, {what: round(value["mean"], 2) for what, value in values.items()})
    write(json_file, {"family": family, "units": count, "put right": numbers})


if __name__ == "__main__":
    typer.run(main)
