"""Makes the other folders' builders of models, datasets and bags importable (pytest's importlib mode does not)."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("policy", "experience", "cli")]
