"""A training run on disk: one folder, resumable after any kill. Tensors in safetensors, logs in JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Log = Callable[[dict[str, object]], None]


def save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors so that `path` is always whole."""
    temporary = path.with_suffix(".tmp")
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def log_line(folder: Path, record: dict[str, Any]) -> None:
    """Append one JSON line to `log.jsonl`."""
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in record.items()}) + "\n")


POLICY_FILE, LAST_STAGE_FILE = "policy.safetensors", "alignment.safetensors"


def save_step(path: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Weights, optimizer moments and step number in one file."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    save_atomically(tensors | {"step": torch.tensor(step)}, path)


def load_step(path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 when nothing was saved. Loads into modules and optimizer."""
    if not path.exists():
        return 0
    tensors = load_file(path)
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    if state:
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return int(tensors["step"])
