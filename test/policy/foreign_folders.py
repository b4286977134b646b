"""Checkpoint folders as openpi and lerobot write them, of the fixtures in test/data/foreign and the golden weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from builders import GOLDEN, save_tensors
from safetensors.torch import load_file
from torch import Tensor

from vla_align_ros.policy.foreign_config import ForeignSettings
from vla_align_ros.robot.description import load_description

DATA = Path(__file__).parents[1] / "data" / "foreign"
SO101 = Path(__file__).parents[2] / "config" / "robots" / "so101.yaml"
EMBEDDING = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
OPENPI: dict[str, dict[str, Any]] = {
    "pi0": {},
    "pi05": {"absolute": True},
    "pi05_without_state": {"discrete_state_input": False},
}
Made = tuple[Path, ForeignSettings]


def openpis_tensors(variant: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / variant / "model.safetensors")


def lerobots_tensors(variant: str) -> dict[str, Tensor]:
    """`model.` in front, the embedding, and a head that went another way in training."""
    tensors = openpis_tensors(variant)
    tensors[EMBEDDING] = tensors[HEAD]
    tensors[HEAD] = tensors[HEAD] + 7.0
    return {f"model.{name}": tensor for name, tensor in tensors.items()}


def openpis(folder: Path, case: str = "pi0", tokenizer: str = "tokenizer.json") -> Made:
    """A folder as openpi's PyTorch training leaves it, and what the user says."""
    (folder / "assets" / "lab" / "arm").mkdir(parents=True)
    shutil.copy(GOLDEN / case[:4].rstrip("_") / "model.safetensors", folder / "model.safetensors")
    shutil.copy(DATA / "norm_stats.json", folder / "assets" / "lab" / "arm")
    shutil.copy(DATA / tokenizer, folder)
    robot, options = load_description(DATA / "robot.yaml"), OPENPI[case]
    if options.get("absolute"):
        action = tuple(dataclasses.replace(item, kind="position") for item in robot.action)
        robot = dataclasses.replace(robot, action=action)
    state = options.get("discrete_state_input")
    return folder, ForeignSettings(robot, action_horizon=6, discrete_state_input=state)


def lerobots(folder: Path, case: str = "pi0") -> Made:
    """The folder that lerobot wrote, with its names of the golden weights."""
    shutil.copytree(DATA / "lerobot" / case, folder)
    tensors = lerobots_tensors(case)
    assert sorted(tensors) == json.loads((folder / "names.json").read_text())
    save_tensors(tensors, folder / "model.safetensors")
    shutil.copy(DATA / "tokenizer.json", folder)
    return folder, ForeignSettings(dataclasses.replace(load_description(SO101), execute=4))


MAKERS = {"openpi": openpis, "lerobot": lerobots}


def robot_arguments(source: str, folder: Path) -> list[str]:
    """What the shell is given beside a folder of `source`: a chunk has 6 actions, of which a robot executes fewer."""
    if source == "openpi":
        return ["--robot", str(DATA / "robot.yaml"), "--action-horizon", "6"]
    robot = yaml.safe_load(SO101.read_text()) | {"execute": 4}
    (folder / "so101.yaml").write_text(yaml.safe_dump(robot))
    return ["--robot", str(folder / "so101.yaml")]
