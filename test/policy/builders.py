"""Small random models and made-up batches for the tests of policy/ and alignment/."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.bench.port import Bench
from vla_align_ros.bench.reach2.task import ALL_PROMPTS
from vla_align_ros.limits import CHECKS
from vla_align_ros.observation.normalise import NormStats, save_norm_stats
from vla_align_ros.policy import Policy
from vla_align_ros.policy.config import Architecture
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.statistics import AlignmentStats, Limit, write_alignment_stats
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.training.make_tokenizer import write_tokenizer
from vla_align_ros.types import Experience, Observation

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
TASKS = ("perception", "dynamics", "inverse_dynamics")
LOSSES = ("action_loss", *(f"{task}_loss" for task in TASKS))
FORBIDDEN = 1e30  # a number that no loss survives if it is read


def architecture_dict(**changes: Any) -> dict[str, Any]:
    """A small architecture as in `model.yaml`. Keys with two underscores reach inside: `vlm__depth=1`.

    `depth` sets all three stacks at once; `alignment=None` leaves the alignment expert out.
    """
    depth = changes.pop("depth", 2)
    stack = {"width": 32, "depth": depth, "mlp_dim": 48, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
    raw: dict[str, Any] = {
        "variant": "pi0",
        "vocab_size": 40,
        "max_token_len": 8,
        "action_dim": 3,
        "action_horizon": 5,
        "cameras": list(CAMERAS[:2]),
        "vlm": {**stack, "width": 40},
        "action_expert": dict(stack),
        "vision": {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2, "image_size": 16, "patch_size": 8},
        "use_peft_prefix_token": True,
        "peft_num_tokens": 2,
        "peft_init": "normal",
        "alignment": {
            "expert": dict(stack),
            "features": {
                "dino": {"width": 16, "depth": 1, "mlp_dim": 32, "num_heads": 2, "image_size": 16, "patch_size": 4},
                "grid": 2,
                "cells": 2,
                "components": 5,
            },
        },
    }
    for path, value in changes.items():
        *parents, key = path.split("__")
        target = raw
        for parent in parents:
            target = target[parent]
        target[key] = value
    return raw


def architecture(**changes: Any) -> Architecture:
    return Architecture(**architecture_dict(**changes))


def untame(model: torch.nn.Module, seed: int = 0) -> None:
    """Random numbers into every weight that starts at a neutral value, so that a term that is left out shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "peft_prefix_token" not in name and parameter.numel() > 1:
                parameter += 0.15 * torch.randn(parameter.shape, generator=generator)


def make_model(seed: int = 0, **changes: Any) -> Pi0:
    """A random model in which nothing is neutral."""
    torch.manual_seed(seed)
    model = Pi0(architecture(**changes)).eval()
    untame(model)
    return model


def make_inputs(a: Architecture, batch: int = 3, seed: int = 0) -> PolicyInput:
    """Row 0 has all cameras (the others miss the last one, if there is more than one) and a full prompt."""
    generator = torch.Generator().manual_seed(seed)
    size, length = a.vision.image_size, a.max_token_len
    images = tuple(torch.rand(batch, 3, size, size, generator=generator) * 2 - 1 for _ in a.cameras)
    masks = [torch.ones(batch, dtype=torch.bool) for _ in a.cameras]
    if len(masks) > 1:
        masks[-1][1:] = False
    token_masks = torch.arange(length)[None] < torch.tensor([length, *[length - 3] * (batch - 1)])[:, None]
    tokens = torch.randint(0, a.vocab_size, (batch, length), generator=generator)
    return PolicyInput(images, tuple(masks), tokens, token_masks, torch.randn(batch, a.action_dim, generator=generator))


def make_experience(
    a: Architecture,
    inputs: PolicyInput,
    state_dim: int | None = None,
    action_dim: int | None = None,
    seed: int = 1,
) -> ExperienceInput:
    """Random commands and features; feature masks as `inputs`' cameras, the first so many dimensions real."""
    assert a.alignment is not None
    generator = torch.Generator().manual_seed(seed)
    batch, per_camera = inputs.state.shape[0], a.alignment.features.tokens_per_camera
    return ExperienceInput(
        torch.randn(batch, a.action_horizon, a.action_dim, generator=generator),
        torch.randn(batch, per_camera * len(a.cameras), a.alignment.features.token_dim, generator=generator),
        torch.cat([mask[:, None].expand(-1, per_camera) for mask in inputs.image_masks], dim=1),
        torch.randn(
            batch,
            per_camera * len(a.cameras) if a.alignment.own_features else 0,
            a.alignment.features.token_dim,
            generator=generator,
        ),
        torch.arange(a.action_dim) < (a.action_dim if state_dim is None else state_dim),
        torch.arange(a.action_dim) < (a.action_dim if action_dim is None else action_dim),
    )


def make_noisy(
    state: Tensor, experience: ExperienceInput, tasks: tuple[str, ...] = TASKS, seed: int = 2
) -> dict[str, Tensor]:
    """x_t (or noise) of each task, random."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"perception": state, "dynamics": experience.features, "inverse_dynamics": experience.actions}
    drawn = {task: torch.randn(like.shape, generator=generator) for task, like in shapes.items()}
    return {task: drawn[task] for task in tasks}


def model_yaml(**changes: Any) -> dict[str, Any]:
    """A `model.yaml` for a two-joint arm with two cameras; `changes` go to its architecture."""
    raw_architecture = architecture_dict(**{"action_dim": 3, "vocab_size": 64, **changes})
    cameras = raw_architecture["cameras"]
    return {
        "format": 1,
        "name": "made_up",
        "architecture": raw_architecture,
        "robot": {
            "joints": {name: {"position": [-3.0, 3.0], "velocity_max": 4.0} for name in ("shoulder", "elbow")},
            "state": [{"joint": name} for name in ("shoulder", "elbow")],
            "action": [{"joint": name, "kind": "velocity"} for name in ("shoulder", "elbow")],
            "cameras": {camera: f"{camera}/image_raw" for camera in cameras},
            "control_rate_hz": 10.0,
            "execute": 4,
        },
        "normalisation": "zscore",
        "recommended": {"num_steps": 3},
    }


def stats_of(**limits: float) -> AlignmentStats:
    """Limits that refuse nothing, unless `limits` say otherwise."""
    values = {check.name: limits.get(check.name, check.no_limit) for check in CHECKS}
    return AlignmentStats(4, {name: Limit(value, 1) for name, value in values.items()}, 0.5)


def write_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A complete zoo folder with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = model_yaml(**changes)
    (folder / "model.yaml").write_text(yaml.safe_dump(raw))
    a = Architecture(**raw["architecture"])
    save_tensors(
        make_model(seed, **{"action_dim": 3, "vocab_size": 64, **changes}).state_dict(), folder / "model.safetensors"
    )
    torch.manual_seed(seed)
    if a.alignment is not None:
        save_tensors(FeatureExtractor(a.alignment.features).state_dict(), folder / "features.safetensors")
        offsets = torch.randn(4, a.peft_num_tokens, a.action_expert.width)
        save_tensors({"offsets": offsets}, folder / "token_bank.safetensors")
        write_alignment_stats(folder, stats_of())
    part = NormStats(*(np.array(numbers, np.float32) for numbers in ([0, 0], [1, 1], [-2, -2], [2, 2])))
    save_norm_stats(folder / "norm_stats.json", {"state": part, "actions": part})
    write_tokenizer(folder / "tokenizer.json", ALL_PROMPTS, a.vocab_size)
    return folder


def write_model_for(bench: Bench[Any], folder: Path) -> Path:
    """Random weights for the arm of a bench: a policy that trembles about where an unshifted arm begins."""
    robot, cameras = bench.robot, list(bench.robot.cameras)
    sizes = {"action_dim": len(robot.action), "action_horizon": 2 * robot.execute, "max_token_len": 16}
    write_model(folder, cameras=cameras, **sizes)
    raw = yaml.safe_load((folder / "model.yaml").read_text())
    raw["robot"] = TypeAdapter(RobotDescription).dump_python(robot, mode="json")
    (folder / "model.yaml").write_text(yaml.safe_dump(raw))
    states = np.stack([item.state for item in bench.episodes([bench.embodiment(0)] * 32, 0, 16).observe()])
    actions = np.where(robot.kinds == "position", robot.measured(states.mean(0)), 0.0)
    about = actions + 0.02 * np.array([[-1.0], [1.0]])
    parts = {"state": robot.state_scale.to_model(states), "actions": robot.action_scale.to_model(about)}
    stats = {part: _norm_stats_of(rows.astype(np.float32)) for part, rows in parts.items()}
    save_norm_stats(folder / "norm_stats.json", stats)
    return folder


def _norm_stats_of(rows: NDArray[np.float32]) -> NormStats:
    mean, std = rows.mean(0), rows.std(0)
    return NormStats(mean, std, mean - 2 * std, mean + 2 * std)


def replace_parts(policy: Policy, **changes: Any) -> None:
    """Give a policy other parts to align with: a bank, a step, statistics."""
    policy._alignment = dataclasses.replace(policy.alignment, **changes)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, path)


def make_observation(
    state: Any = (0.1, -0.2), stamp_ns: int = 0, seed: int = 0, cameras: tuple[str, ...] = CAMERAS[:2]
) -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 256, (16, 16, 3), np.uint8) for camera in cameras}
    return Observation(images, np.asarray(state, np.float32), "touch red", stamp_ns)


def make_experiences(count: int, episodes: int = 4, seed: int = 0, horizon: int = 5) -> list[Experience]:
    """Experiences of a robot whose picture shows where its joints are, one after the other in time."""
    rng = np.random.default_rng(seed)
    period_ns = 100_000_000
    found = []
    for index in range(count):
        start = rng.uniform(-1, 1, 2).astype(np.float32)
        commands = (rng.normal(0, 1, (1, 2)) + 0.1 * rng.normal(0, 1, (horizon, 2))).astype(np.float32)
        end = start + 0.1 * commands.sum(0)
        stamps = index * (horizon + 1) * period_ns, (index * (horizon + 1) + horizon) * period_ns
        seen = [
            Observation(
                {camera: _picture(state) for camera in CAMERAS[:2]}, np.asarray(state, np.float32), "touch red", stamp
            )
            for state, stamp in zip((start, end), stamps, strict=True)
        ]
        found.append(Experience(seen[0], commands, seen[1], index * episodes // count))
    return found


def make_losses(policy: Policy, count: int = 10, **weights: float) -> ExperienceLosses:
    """Of made-up experience."""
    return ExperienceLosses(policy, make_experiences(count), LossWeights(**weights))


def one_after_another(count: int, jump_rad: float = 0.0, episodes: int = 2) -> list[Experience]:
    """Experiences that start 4 ticks apart, of a robot that goes on from where the last 4 commands led it, and
    `jump_rad` farther."""
    found = make_experiences(count, episodes)
    for index in range(1, count):
        last, item = found[index - 1], found[index]
        state = last.observation.state + np.float32(0.1) * last.commands[:4].sum(0) + np.float32(jump_rad)
        after = state + np.float32(0.1) * item.commands.sum(0)
        start_ns = last.observation.stamp_ns + 4 * 100_000_000
        found[index] = dataclasses.replace(
            item,
            observation=dataclasses.replace(item.observation, state=state, stamp_ns=start_ns),
            next_observation=dataclasses.replace(item.next_observation, state=after, stamp_ns=start_ns + 500_000_000),
        )
    return found


def _picture(state: Any) -> Any:
    """16 x 16: columns as bright as joint 0 says, rows as joint 1."""
    ramp = np.linspace(-1, 1, 16)
    red = 128 + 60 * np.sin(3 * ramp[None, :] + 2 * state[0]) + 0 * ramp[:, None]
    green = 128 + 60 * np.sin(3 * ramp[:, None] + 2 * state[1]) + 0 * ramp[None, :]
    return np.stack([red, green, 0 * red], axis=-1).astype(np.uint8)
