"""Alignment at the desk: bags through the very assembler, builder and `align()` that run on the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.experience.bag import BagTopics, read_bag
from vla_align_ros.params import ManagerParams, PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.runtime import make_assembler, make_builder, make_runtime
from vla_align_ros.types import Experience


def bag_topics(policy: Policy, joints: str, prompt: str, chunk: str) -> BagTopics:
    """The topics of a bag that `policy`'s robot recorded; cameras as in its model.yaml."""
    return BagTopics(dict(policy.config.robot.camera_topics), joints, prompt, chunk)


def read_experiences(policy: Policy, bag: Path, topics: BagTopics, params: PolicyParams) -> list[Experience]:
    """All experiences of one bag, as the node would have built them live. Raises BagError."""
    assembler = make_assembler(policy, params)
    return list(read_bag(bag, topics, assembler, make_builder(policy, params, assembler)))


def align_bags(
    policy: Policy, bags: Sequence[Path], topics: BagTopics, params: PolicyParams, seed: int = 0
) -> AlignReport:
    """One attempt on the newest experiences of the bags together, starting from the store's active token.

    Raises BagError, StoreError, or PolicyError.
    """
    runtime = make_runtime(policy, params, ManagerParams().keep_versions)
    first_episode = 0
    for bag in bags:
        experiences = read_experiences(policy, bag, topics, params)
        for item in experiences:
            runtime.buffer.add(replace(item, episode=item.episode + first_episode))
        first_episode += 1 + max((item.episode for item in experiences), default=0)
    return runtime.align(params.align, params.exploration_fraction, seed=seed)
