"""The vision-language-action policy: PI0 and PI0.5 with the E-Token and the alignment expert.

Read `pi0` (the network) first; `experts` is its engine, `policy` its face to robots.
"""

from vla_align_ros.policy.load import load_policy
from vla_align_ros.policy.policy import Policy
from vla_align_ros.policy.prepare import PolicyError

__all__ = ["Policy", "PolicyError", "load_policy"]
