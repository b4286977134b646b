"""Shares `builders` and the settings of the policy's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

sys.path.append(str(Path(__file__).parents[1] / "policy"))

from builders import write_model

from vla_align_ros.policy import Policy, load_policy


@pytest.fixture(scope="session")
def make_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Policy]:
    """Loads a zoo folder with random weights, written once; keyword arguments as in `builders.architecture_dict`."""
    folders: dict[str, Path] = {}

    def build(**changes: Any) -> Policy:
        key = repr(changes)
        if key not in folders:
            folders[key] = write_model(tmp_path_factory.mktemp("zoo") / "model", **changes)
        return load_policy(folders[key], "cpu")

    return build


@pytest.fixture
def policy(make_policy: Callable[..., Policy]) -> Policy:
    return make_policy()


@pytest.fixture
def token(policy: Policy) -> Tensor:
    assert policy.token is not None
    return policy.token


@pytest.fixture(scope="module")
def shipped(policy: Policy) -> Tensor:
    """The token that a fresh install of a module's `policy` loads."""
    token = policy.initial_token()
    assert token is not None
    return token
