"""Do live and replayed alignment agree? The same experience on another way, through the same `align()`, to the same
bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vla_align_ros.alignment import align
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.offline import read_bag
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_bag_folder, make_runtime
from vla_align_ros.types import Experience

Report = Mapping[str, Any]  # AlignReport.to_json()
NAMED = 5  # experiences that a difference lists


def from_bag(policy: Policy, live: Report, bag: Path, params: PolicyParams) -> list[Experience]:
    """What the live attempt used, as `vla-align align` reads it."""
    topics = bag_topics(policy.config.robot)
    return _of_attempt(read_bag(policy, bag, topics, params), live)


def from_folder(policy: Policy, live: Report, bag: Path, params: PolicyParams) -> list[Experience]:
    """The same, as a node with the experience source `bag` reads it. Writes a ledger into `params.store`."""
    topics = bag_topics(policy.config.robot)
    runtime = make_runtime(policy, params, 1)
    folder = make_bag_folder(runtime, params, bag, topics)
    while not folder.idle:
        folder.work(1.0)
    return _of_attempt(runtime.buffer.snapshot(), live)


def align_again(policy: Policy, experiences: Sequence[Experience], start: torch.Tensor, params: PolicyParams) -> Report:
    """The attempt on `experiences`, with the token `start` that ran when the live one was made."""
    policy.swap_token(start)
    return align(policy, experiences, params.align, exploration_fraction=params.exploration_fraction).to_json()


def differences(live: Report, other: Report) -> list[str]:
    """How two reports of one attempt differ, in words; empty where experience, verdict and losses are the same to the
    last bit."""
    found = []
    for which, some, others in (("lacks", live, other), ("also has", other, live)):
        alone_ns = sorted(set(some["stamps_ns"]) - set(others["stamps_ns"]))
        if alone_ns:
            since_s = ", ".join(f"{(stamp_ns - live['first_stamp_ns']) * 1e-9:.1f} s" for stamp_ns in alone_ns[:NAMED])
            more = f" and {len(alone_ns) - NAMED} more" if len(alone_ns) > NAMED else ""
            found.append(f"{which} {len(alone_ns)} experiences: those {since_s}{more} after the first one")
    if (live["accepted"], live["reason"]) != (other["accepted"], other["reason"]):
        found.append(f"{other['reason']} instead of {live['reason']}")
    for part in ("before", "best_known", "after"):
        if live[part] != other[part]:
            found.append(f"losses {part}: {other[part]} instead of {live[part]}")
    return found


def _of_attempt(experiences: Iterable[Experience], live: Report) -> list[Experience]:
    return [
        item
        for item in experiences
        if live["first_stamp_ns"] <= item.observation.stamp_ns
        and item.next_observation.stamp_ns <= live["last_stamp_ns"]
    ]
