"""What the alignment expert learns from at last, on a bench: experience of robots at work with the trained policy.

A third of it is gathered with the robot's own token, a third with the one that a fresh install starts with, a third
with another robot's; from none to all of its motion is random. So the losses have seen what they will be asked about:
a policy that is wrong goes where no expert goes.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from vla_align_ros.experience.source import EXPERIENCES, Source, demonstrations
from vla_align_ros.policy.policy import AlignmentParts, Policy
from vla_align_ros.policy.statistics import no_limits
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.training.dataset import Samples, make_samples
from vla_align_ros.training.recipe import TrainingError
from vla_align_ros.training.trainee import Trainee
from vla_align_ros.types import Experience

AT_ONCE = 16  # robots at work side by side


class Gathered:
    """Shards of experience that the trained policy gathers on the robots of its source, by number."""

    def __init__(self, trainee: Trainee, seed: int) -> None:
        """The policy is a copy of what is trained, as it is now."""
        self._source: Source = trainee.sources.training
        self._seed, self._features = seed, trainee.features
        bank = trainee.bank.offsets().detach()
        parts = AlignmentParts(trainee.features, bank, no_limits(trainee.motion_r2))
        model = copy.deepcopy(trainee.model).eval()
        self._policy = Policy(model, trainee.robot, parts, "", trainee.device)

    def shard(self, number: int, size: int) -> Samples:
        """`size` samples. Raises TrainingError where no robot has experience."""
        policy, rng = self._policy, rng_of(self._seed, Stream.SHARD, number)
        bank, robots = policy.alignment.bank, len(self._source.robots)
        start = policy.initial_token()
        assert start is not None
        found, row, asked = list[Experience](), list[int](), 0
        while len(found) < size:
            if asked >= robots and not found:
                raise TrainingError(f"none of {robots} robots has experience that the alignment expert can learn from")
            own, other = rng.integers(0, robots, (2, AT_ONCE))
            tokens = torch.stack([policy.e_0 + bank[own], start.expand(AT_ONCE, -1, -1), policy.e_0 + bank[other]])
            tokens = tokens[rng.integers(0, len(tokens), AT_ONCE), np.arange(AT_ONCE)]
            seed, fraction = int(rng.integers(2**31)), rng.uniform()
            made = self._source.experiences(own.tolist(), policy, tokens, seed, EXPERIENCES, fraction)
            for robot, mine in zip(own.tolist(), made, strict=True):
                found += mine
                row += [robot] * len(mine)
            asked += AT_ONCE
        raw = demonstrations(dict(enumerate(found[:size])), np.array(row[:size], np.int64))
        return make_samples(raw, policy.robot, self._features)
