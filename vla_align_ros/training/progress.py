"""A training run on disk: one folder, resumable after any kill. Tensors in safetensors, logs in JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Log = Callable[[dict[str, object]], None]


class Rates:
    """How fast samples are made, and how fast they are trained on: the slower one is the limit."""

    def __init__(self, step: int, batch_size: int) -> None:
        self._step, self._batch_size, self._since = step, batch_size, time.monotonic()
        self._trained_per_s: float | None = None

    def making(self, step: int) -> None:
        """The next samples are being made; `step` steps are done."""
        now = time.monotonic()
        if step > self._step:
            self._trained_per_s = (step - self._step) * self._batch_size / (now - self._since)
        self._step, self._since = step, now

    def made(self, samples: int) -> dict[str, object]:
        """So many are made; returns a log line with both rates, that of training from the second time on."""
        now = time.monotonic()
        made_per_s, self._since = samples / (now - self._since), now
        return {"stage": "samples", "made_per_s": made_per_s, "trained_per_s": self._trained_per_s}


def save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors so that `path` is always whole."""
    temporary = path.with_suffix(".tmp")
    save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def log_line(folder: Path, record: dict[str, Any]) -> None:
    """Append one JSON line to `log.jsonl`."""
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({key: round(v, 5) if isinstance(v, float) else v for key, v in record.items()}) + "\n")


def save_step(folder: Path, step: int, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Weights, optimizer moments and step number in one file."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    save_atomically(tensors | {"step": torch.tensor(step)}, folder / "policy.safetensors")


def load_step(folder: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from; 0 when nothing was saved. Loads into modules and optimizer."""
    path = folder / "policy.safetensors"
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
