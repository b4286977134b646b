"""A step that goes wrong."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vla_align_ros.training.loop import run_steps
from vla_align_ros.training.processes import Processes
from vla_align_ros.training.progress import load_step
from vla_align_ros.training.recipe import Recipe, TrainingError


class Bad(nn.Module):
    """Whose loss is not finite from its third call on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(2)), 0

    def forward(self, batch: Any, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        loss = self.weight.square().sum() * (torch.nan if self.calls > 2 else 1.0)
        return loss, {"total_loss": loss.detach()}


def test_training_ends_at_a_loss_that_is_no_number_and_keeps_what_it_had(tmp_path: Path) -> None:
    recipe = Recipe(source={}, model="m.yaml", samples=40, batch_size=4, shard_samples=8)
    shard: Any = SimpleNamespace(batch=lambda rows: None)
    objective, path = Bad(), tmp_path / "policy.safetensors"
    optimizer = torch.optim.AdamW([{"params": list(objective.parameters()), "scale": 1.0}])
    processes = Processes(torch.device("cpu"))
    with pytest.raises(TrainingError, match=r"policy, step 2: the gradient is not finite"):
        run_steps("policy", objective, optimizer, lambda *_: shard, recipe, path, lambda line: None, -1.0, processes)
    saved = Bad()
    assert load_step(path, saved, torch.optim.AdamW(saved.parameters())) == 2
    assert torch.isfinite(saved.weight).all()
