"""Self-alignment: updates the E-Token, and nothing else, from the robot's own experience.

`align` is the transaction: `attempt`, which changes nothing, then `commit`. `losses` measures a token on experience;
`step` proposes another (`pick`, then gradients); `evidence` collects what `guard` judges it by.
"""

from vla_align_ros.alignment.align import Attempt, align, attempt, commit
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.alignment.report import AlignReport

__all__ = ["AlignReport", "Attempt", "Reason", "align", "attempt", "commit"]
