"""The units of the SO-101 benchmarks: named sets of shifts, each by itself, and the robots that a model learned of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import arms
import typer
import yaml

from vla_align_ros.bench.so101.bench import So101, numbers
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.shifts import Family as Shift
from vla_align_ros.bench.so101.shifts import Split, draw_embodiment
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.cli.sources import open_sources
from vla_align_ros.policy.config import load_model_description
from vla_align_ros.zoo import find_model

FAMILIES: dict[str, tuple[Shift, ...]] = {
    "wrist_camera": (Shift.WRIST_CAMERA, Shift.WRIST_ROLL, Shift.WRIST_MIRROR),
    "pixels": (
        *(Shift.FRONT_CAMERA, Shift.WRIST_CAMERA, Shift.WRIST_ROLL, Shift.WRIST_MIRROR),
        *(Shift.BASE, Shift.TOOL),
    ),  # several at once that joints do not show
    "camera": (Shift.FRONT_CAMERA,),
    "base": (Shift.BASE,),
    "zeros": (Shift.ZEROS,),
    "tool": (Shift.TOOL,),
    "delay": (Shift.DELAY,),
    "sag": (Shift.GEAR, Shift.PAYLOAD, Shift.BACKLASH),
    "scales_and_signs": (Shift.SCALES, Shift.SIGNS, Shift.COMMAND_SCALES),  # a sanity row
    "together": tuple(Shift),
}


def names_of(family: str) -> list[str]:
    """`all`, or one of FAMILIES. Raises ValueError for another."""
    if family != "all" and family not in FAMILIES:
        raise ValueError(f"expected all or one of {', '.join(FAMILIES)}, got {family!r}")
    return list(FAMILIES) if family == "all" else [family]


def asked_for(family: str, model: str) -> tuple[list[str], str, So101]:
    """What the options --family and --model mean: families, the model's hash, and the bench that it was trained on.
    Raises BadParameter."""
    try:
        names, folder = names_of(family), find_model(model)
        return names, sha256_of_folder(folder), bench_of(recipe_of(folder))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def units(family: str, count: int, seed: int, scale: float = 1.0) -> list[Embodiment]:
    """Test arms shifted in one family alone; of all families the same numbers, the first ones whatever `count` is."""
    found = numbers(count, arms.TEST_SEED + seed)
    return [draw_embodiment(number, Split.TEST, FAMILIES[family], scale) for number in found]


def recipe_of(model: Path) -> dict[str, Any]:
    """What the model was trained by. Raises ValueError for one that was not trained on this bench."""
    path = model / "recipe.yaml"
    recipe: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    if recipe.get("source", {}).get("bench") != "so101":
        raise ValueError(f"{model}: expected a model trained on the bench so101, with its recipe.yaml")
    return recipe


def bench_of(recipe: Mapping[str, Any]) -> So101:
    """The bench with the tasks that a model learned, in turn."""
    named = recipe["source"].get("tasks", [task.name for task in Task])
    return So101(tuple(Task[name.upper()] for name in named))


def training_arms(model: Path, recipe: Mapping[str, Any]) -> list[Embodiment]:
    """Those of the bank, in its order."""
    sources = open_sources(recipe["source"], load_model_description(model / "model.yaml"), recipe["seed"])
    return list(sources.training.arms.values())[: recipe["bank_robots"]]


def sha256_of_folder(folder: Path) -> str:
    """Of a model: weights, bank, limits, description; not what is only read by people."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix not in (".md", ".png")):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
