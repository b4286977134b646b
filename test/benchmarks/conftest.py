"""Makes the scripts in benchmarks/ and the builders of the policy's tests importable (pytest's importlib mode does
not)."""

from __future__ import annotations

import sys
from pathlib import Path

_TEST = Path(__file__).parents[1]
sys.path += [str(_TEST.parent / "benchmarks"), str(_TEST / "policy")]
