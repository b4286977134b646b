"""Makes `builders` beside this file and the scripts in benchmarks/ importable (pytest's importlib mode does not)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

for _folder in (Path(__file__).parent, Path(__file__).parents[2] / "benchmarks"):
    sys.path.append(str(_folder))


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    """The same random weights in every run, and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
