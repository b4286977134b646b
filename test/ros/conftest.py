"""The fixtures `ros`, `shared_ros`, and what is beside this file, or in robot/ and policy/, made importable (pytest's
importlib mode does not)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), *(str(Path(__file__).parents[1] / folder) for folder in ("robot", "policy"))]

from live import Ros
from policy_live import Feed


@pytest.fixture
def ros(tmp_path: Path) -> Iterator[Ros]:
    """A node in this process, and real processes over DDS on loopback."""
    made = Ros(tmp_path)
    try:
        yield made
    finally:
        made.close()
        print(made.outputs())  # pytest shows it when the test failed


@pytest.fixture(scope="module")
def shared_ros(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ros]:
    """The same for all tests of a module, because a process takes seconds to start."""
    made = Ros(tmp_path_factory.mktemp("processes"))
    try:
        yield made
    finally:
        made.close()
        print(made.outputs())


@pytest.fixture(scope="module")
def robot(shared_ros: Ros) -> Feed:
    """What the policy's node serves, where a module has no robot of its own."""
    return Feed(shared_ros)
