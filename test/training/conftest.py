"""Makes the other folders' builders of models, datasets and bags importable (pytest's importlib mode does not)."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("policy", "experience", "cli")]


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """`vla-align train` flushes them to zero in its whole process: not in the tests that come after."""
    yield
    torch.set_flush_denormal(False)
