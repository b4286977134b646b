"""Makes `so101_tables` beside this file importable (pytest's importlib mode does not)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
