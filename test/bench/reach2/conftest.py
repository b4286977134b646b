"""Makes `builders` of the policy's tests importable, and a policy of random weights for the bench's arm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "policy"))

from builders import write_model

from vla_align_ros.policy import Policy, load_policy


@pytest.fixture
def policy(tmp_path: Path) -> Iterator[Policy]:
    """Random weights, the bench's two joints and cameras."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_policy(write_model(tmp_path / "model", action_dim=2, action_horizon=8), "cpu")
    torch.set_num_threads(threads)
