"""How much of each shift can a network read from experience that learns nothing else?

    python benchmarks/shift_information.py --seed 97 --json shift_information.json

It is given EXPERIENCES of an SO-101 at once, from EPISODES of different scenes: what is seen before and after 16
commands, joint states, motion; and says by how much the arm is shifted. `r2`: the share of a shift's variance that it
explains on arms it never saw, mean of the shift's numbers; below 0 is worse than their mean. `features`: what the
model's alignment expert is given of pictures. `places`: where cubes and pads are in them, without any error. A lower
bound of what experience tells: the network knows few arms (2,560; 512 say when to stop).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from families import recipe_of
from machine import write
from torch import Tensor, nn

from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment, vector_names
from vla_align_ros.bench.so101.labels import keypoints
from vla_align_ros.bench.so101.pictures import draw
from vla_align_ros.bench.so101.scene import CAMERAS, CUBES, PADS
from vla_align_ros.bench.so101.shifts import Family, Split
from vla_align_ros.bench.so101.skeleton import rows_of, skeletons
from vla_align_ros.bench.so101.source import BEHAVIOURS, draw_arms, shift_values
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.policy import load_policy
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import to_model_image
from vla_align_ros.zoo import find_model

EXPERIENCES, EPISODES, HORIZON, TICKS, CAMERA = 64, 8, 16, 64, "wrist"
ARMS = {"training": 2560, "validation": 512, "test": 512}
AT_ONCE = 256  # arms
WIDTH, STEPS, BATCH, LEARNING_RATE, EVERY = 256, 1500, 32, 1e-3, 50


def gathered(arms: Sequence[Embodiment], features: FeatureExtractor, rng: np.random.Generator) -> dict[str, Tensor]:
    """EXPERIENCES of each arm, (arms, EXPERIENCES, numbers), by what is seen of pictures."""
    count = len(arms) * EPISODES
    everyone = [arm for arm in arms for _ in range(EPISODES)]
    shares = BEHAVIOURS[Task.REACH]
    doing = rng.choice(list(shares), count, p=list(shares.values()))
    recording = record(
        everyone,
        [Task.REACH] * count,
        rng.integers(0, 2**31, count).tolist(),
        [Behaviour(value) for value in doing],
        [arms[place] for place in rng.integers(0, len(arms), count)],
        TICKS,
        camera=CAMERA,
    )
    row = np.arange(count).repeat(EXPERIENCES // EPISODES)
    tick = rng.integers(0, len(recording.commands) - HORIZON + 1, len(row))
    bodies = rows_of(skeletons(everyone), row)
    before, after = (recording.readings[moment, row] for moment in (tick, tick + HORIZON))
    seen: dict[str, list[Tensor]] = {"features": [], "places": []}
    for moment in (tick, tick + HORIZON):
        state = recording.state(moment, row)
        pictures = draw(bodies, state, features.config.dino.image_size, cameras=(CAMERA,))[:, 0]
        parts = torch.from_numpy(pictures).split(512)
        seen["features"].append(torch.cat([features.tokens(to_model_image(part)).flatten(1) for part in parts]))
        places = torch.from_numpy(keypoints(bodies, state)[:, CAMERAS.index(CAMERA), -len(CUBES) - len(PADS) :])
        inside = ((places >= 0) & (places <= 1)).all(-1, keepdim=True)
        seen["places"].append(torch.cat([torch.where(inside, places, 0.5), inside.float()], -1).flatten(1))
    joints = torch.from_numpy(np.concatenate([before, after - before], axis=1))
    return {name: torch.cat([*both, joints], 1).unflatten(0, (len(arms), EXPERIENCES)) for name, both in seen.items()}


class Reader(nn.Module):
    """(arms, experiences, numbers) in any order -> (arms, shifts)."""

    def __init__(self, numbers: int, shifts: int) -> None:
        super().__init__()
        self.each = nn.Sequential(
            *(nn.Linear(numbers, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        )
        self.all = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, shifts))

    def forward(self, experiences: Tensor) -> Tensor:
        told: Tensor = self.all(self.each(experiences).mean(1))
        return told


def learned(seen: dict[str, Tensor], shifts: dict[str, Tensor], seed: int) -> Tensor:
    """Squared errors (test arms, shifts) of a network that learned from training arms, as good on validation arms as it
    ever was."""
    torch.manual_seed(seed)
    reader = Reader(seen["training"].shape[-1], shifts["training"].shape[-1])
    optimizer, generator = torch.optim.AdamW(reader.parameters(), LEARNING_RATE, weight_decay=0.05), torch.Generator()
    generator.manual_seed(seed)

    def errors(split: str) -> Tensor:
        with torch.no_grad():
            return (reader(seen[split]) - shifts[split]).square()

    best, least = deepcopy(reader.state_dict()), float("inf")
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * min(1.0, 2 - 2 * step / STEPS)
        rows = torch.randint(0, len(seen["training"]), (BATCH,), generator=generator)
        loss = (reader(seen["training"][rows]) - shifts["training"][rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == EVERY - 1 and (now := float(errors("validation").mean())) < least:
            best, least = deepcopy(reader.state_dict()), now
    reader.load_state_dict(best)
    return errors("test")


def standardised(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the training arms' mean and spread; what never differs there is left out."""
    flat = parts["training"].flatten(0, -2)
    mean, spread = flat.mean(0), flat.std(0)
    differ = spread > 1e-6
    return {split: ((part - mean) / spread)[..., differ] for split, part in parts.items()}


def run(model: Path, seed: int) -> dict[str, Any]:
    """What `--json` holds."""
    rng, features = np.random.default_rng(seed), load_policy(model).alignment.features
    families = [Family(name) for name in recipe_of(model)["source"]["families"]]
    everyone = list(draw_arms(Split.TRAINING, sum(ARMS.values()), seed, families).values())
    pieces = []
    for start in range(0, len(everyone), AT_ONCE):
        pieces.append(gathered(everyone[start : start + AT_ONCE], features, rng))
        typer.echo(f"{start + len(everyone[start : start + AT_ONCE])} of {len(everyone)} arms at work")
    values = shift_values(everyone)
    names = np.array([name.split("[")[0] for name in (*vector_names(), "wrist_roll_rad", "wrist_roll_rad")])
    named = names[values.std(axis=0) > 1e-6]
    sizes = list(ARMS.values())
    shifts = standardised(dict(zip(ARMS, torch.from_numpy(values).split(sizes), strict=True)))
    found: dict[str, Any] = {name: {} for name in dict.fromkeys(named.tolist())}
    for how in ("features", "places"):
        whole = torch.cat([piece[how] for piece in pieces]).float()
        errors = learned(standardised(dict(zip(ARMS, whole.split(sizes), strict=True))), shifts, seed)
        r2 = (1 - errors.mean(0) / shifts["test"].var(0)).numpy()
        for name in found:
            found[name][how] = float(r2[named == name].mean())
    return {"experiences": EXPERIENCES, "arms": ARMS, "seed": seed, "r2": found}


def main(
    model: Annotated[str, typer.Option(help="Whose features, and whose families of shifts.")] = "so101",
    seed: int = 97,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where results go.")] = None,
) -> None:
    """See the top of the file."""
    torch.set_num_threads(1)
    numbers = run(find_model(model), seed)
    for name, r2 in numbers["r2"].items():
        typer.echo(f"{name}: of its variance {r2['features']:.2f} by features, {r2['places']:.2f} by places")
    write(json_file, numbers)


if __name__ == "__main__":
    typer.run(main)
