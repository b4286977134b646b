from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from provenances import a_provenance

from vla_align_ros.checkpoint import Provenance, TokenStore
from vla_align_ros.types import Float32Array


@pytest.fixture
def provenance() -> Provenance:
    return a_provenance(
        state_fields=("shoulder", "elbow"),
        action_fields=("shoulder", "elbow"),
        cameras=("front", "wrist"),
        parameters={"align_learning_rate": 0.03, "num_steps": 50, "lambda_perc": 0.1},
        experience={"count": 128, "episodes": [1, 2], "first_stamp_ns": 10**18, "last_stamp_ns": 10**18 + 1},
        losses_before={"dynamics": 0.5},
        losses_after={"dynamics": 0.25},
    )


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "store", keep=10)


@pytest.fixture
def filled(store: TokenStore, provenance: Provenance) -> TokenStore:
    """Versions 000001 to 000003, each the parent of the next; token i is full of i."""
    for value in (1, 2, 3):
        store.save(token_of(value), provenance)
    return store


def token_of(value: float) -> Float32Array:
    return np.full((4, 16), value, np.float32)


def contents_of(store: TokenStore) -> dict[str, bytes]:
    """Every file that counts, leftovers and the lock aside: path -> bytes."""
    return {
        str(path.relative_to(store.root)): path.read_bytes()
        for path in sorted(store.root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(store.root).parts)
    }


@pytest.fixture
def make_token() -> Callable[[float], Float32Array]:
    return token_of


@pytest.fixture
def contents() -> Callable[[TokenStore], dict[str, bytes]]:
    return contents_of
