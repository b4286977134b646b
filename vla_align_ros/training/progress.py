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
from torch.distributed.tensor import DTensor, distribute_tensor

Log = Callable[[dict[str, object]], None]


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
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(said) + "\n")


def mend_log(folder: Path) -> None:
    """Take out a last line of `log.jsonl` that a kill or a full disk left unfinished."""
    path = folder / "log.jsonl"
    if path.exists() and (whole := path.read_bytes()) and not whole.endswith(b"\n"):
        os.truncate(path, whole.rfind(b"\n") + 1)


POLICY_FILE, LAST_STAGE_FILE = "policy.safetensors", "alignment.safetensors"


def save_step(path: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, write: bool = True) -> None:
    """Weights but for frozen ones, optimizer moments and step number in one file.

    write: False in all processes but one; they take part where each holds a piece of the tensors.
    """
    frozen = _frozen(module)
    tensors = {key: whole(value) for key, value in module.state_dict().items() if key not in frozen}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": whole(torch.as_tensor(value)) for key, value in state.items()}
    if write:
        save_atomically(tensors | {"step": torch.tensor(step)}, path)


def load_step(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 when nothing was saved. Loads into module and optimizer."""
    if not path.exists():
        return 0
    tensors, own = load_file(path), module.state_dict()
    kept = {key: own[key] for key in _frozen(module)}
    module.load_state_dict(
        kept | {key: _as(own[key], value) for key, value in tensors.items() if key in own and key not in kept}
    )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            like = parameters[int(index)]
            state.setdefault(int(index), {})[name] = _as(like, value) if value.shape == like.shape else value
    if state:
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return int(tensors["step"])


def _frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def whole(tensor: Tensor) -> Tensor:
    """Of a tensor that is spread over processes, all of it."""
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found


def _as(own: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, spread as `own` is."""
    if not isinstance(own, DTensor):
        return value
    found: Tensor = distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return found
