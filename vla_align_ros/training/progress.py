"""A training run on disk: one folder, resumable after any kill. Tensors in safetensors, logs in JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Log = Callable[[dict[str, object]], None]
LOG_FILE, POLICY_FILE, LAST_STAGE_FILE = "log.jsonl", "policy.safetensors", "alignment.safetensors"


def save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors so that `path` is always whole."""
    temporary = path.with_suffix(".tmp")
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def replace_text(path: Path, text: str) -> None:
    """Write a file so that it is always whole."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def log_line(folder: Path, record: dict[str, Any]) -> None:
    """Append one JSON line to `log.jsonl`."""
    said = {key: float(f"{v:.6g}") if isinstance(v, float) else v for key, v in record.items()}
    with (folder / LOG_FILE).open("a") as file:
        file.write(json.dumps(said) + "\n")


def mend_log(folder: Path) -> None:
    """Take out a last line of `log.jsonl` that a kill or a full disk left unfinished."""
    path = folder / LOG_FILE
    if path.exists() and (whole := path.read_bytes()) and not whole.endswith(b"\n"):
        os.truncate(path, whole.rfind(b"\n") + 1)


def save_step(path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights but for frozen ones, optimizer moments and step number in one file."""
    frozen = _frozen(module)
    tensors = {key: value for key, value in module.state_dict().items() if key not in frozen}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    save_atomically(tensors | {"step": torch.tensor(step)}, path)


def load_step(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 when nothing was saved. Loads into module and optimizer."""
    if not path.exists():
        return 0
    tensors, own = load_file(path), module.state_dict()
    module.load_state_dict(
        {key: own[key] for key in _frozen(module)} | {key: value for key, value in tensors.items() if key in own}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    if state:
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return int(tensors["step"])


def saved_step(path: Path) -> int:
    """How many steps what `save_step` wrote has behind it; 0 when nothing was saved."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        return int(file.get_tensor("step"))


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
