"""Shares `builders` and the settings of the policy's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "policy"))

from builders import write_model

from vla_align_ros.policy import Policy, load_policy


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_policy(tmp_path: Path) -> Callable[..., Policy]:
    """Writes a zoo folder with random weights and loads it; keyword arguments as in `builders.architecture_dict`."""

    def build(**changes: Any) -> Policy:
        return load_policy(write_model(tmp_path / "model", **changes), "cpu")

    return build


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    return make_policy()
