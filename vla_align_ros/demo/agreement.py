"""Do live and offline alignment agree? The same experience from the bag, through the same `align()`, to the same
bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vla_align_ros.alignment import align
from vla_align_ros.alignment.offline import bag_topics, read_bag
from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy


@dataclass(frozen=True)
class Agreement:
    """One live attempt and its replay. identical: same verdict, and losses equal to the last bit."""

    live: Mapping[str, Any]
    offline: AlignReport
    experiences: int
    identical: bool
    largest_difference: float


def replay_attempt(
    policy: Policy, live: Mapping[str, Any], bag: Path, start: torch.Tensor, params: PolicyParams
) -> Agreement:
    """Repeat the live attempt `live` (an AlignReport as JSON) from the bag, with the token `start` that ran then."""
    topics = bag_topics(policy, "/joint_states", "/vla_policy/prompt", "/vla_policy/action_chunk")
    experiences = [
        item
        for item in read_bag(policy, bag, topics, params)
        if live["first_stamp_ns"] <= item.observation.stamp_ns
        and item.next_observation.stamp_ns <= live["last_stamp_ns"]
    ]
    policy.swap_token(start)
    report = align(policy, experiences, params.align, exploration_fraction=params.exploration_fraction)
    differences = [
        abs(getattr(report, part)[task] - value)
        for part in ("before", "after")
        for task, value in live[part].items()
        if task in getattr(report, part)
    ]
    same_verdict = (report.accepted, report.reason.value) == (live["accepted"], live["reason"])
    largest = max(differences, default=0.0)
    return Agreement(live, report, len(experiences), same_verdict and largest == 0.0, largest)
