"""Makes `recordings`, `lerobot_files` and `made_up` importable (pytest's importlib mode does not)."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("cli", "experience", "robot", "policy")]
