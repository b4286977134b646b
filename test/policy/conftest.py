"""Makes `builders` beside this file and the scripts in benchmarks/ importable (pytest's importlib mode does not)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

for _folder in (Path(__file__).parent, Path(__file__).parents[2] / "benchmarks"):
    sys.path.append(str(_folder))


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    """The same random weights in every run."""
    torch.manual_seed(0)
