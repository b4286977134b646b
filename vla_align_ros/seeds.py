"""Random numbers by name: a seed and a name always give the same ones, two names under one seed give others.

The numbers in both tables say nothing, and none may change: with them the weights that ship were trained and the
results in `docs/` were measured. A new name takes a number that its table does not have.
"""

from __future__ import annotations

from enum import Enum, IntEnum

import numpy as np


class Stream(IntEnum):
    """What numpy draws; the number is part of the generator's key, beside the seed."""

    LABELLED_FRAMES = 1
    STATISTICS = 2
    PAIRS = 2  # as STATISTICS: they are drawn with seeds that differ
    SHARD = 3  # by its number
    EPISODES = 17  # scenes, poses and prompts
    SENSOR_NOISE = 19  # of a batch of episodes
    EXPLORATION = 23
    BODY = 31  # start pose, scenes and prompts of one arm on a clock
    PROBE_PAIRS = 31  # as BODY: no robot at work draws them
    MESSAGE_NOISE = 37  # of the one robot that sends messages
    STRETCH = 41  # of a recording
    LABELLED_POSES = 41  # as STRETCH: of a benchmark's labels


def rng_of(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """The generator of a stream, or of its part `index`."""
    return np.random.default_rng([seed, stream, *index])


class Part(Enum):
    """What has a seed of its own, for torch or for a whole piece of work: (a, b, c) of a * seed + b * index + c."""

    MODEL = 1, 0, 0  # its first weights
    TOKEN_BANK = 1, 0, 1
    AIDS = 1, 0, 2
    POLICY_EYE = 1, 0, 11
    FEATURES_EYE = 1, 0, 12
    FEATURES_PCA = 1, 0, 13
    BATCHES = 1_000_003, 1, 0  # the order of samples, by epoch
    FLOW = 7_000_003, 1, 0  # times, noise and dropped tokens, by step
    ROBOT = 1000, 1, 0  # one of several
    TURN = 1, 1_000_003, 0  # of one robot at work; the first one has the seed itself
    COLLECTING = 2003, 1, 0  # sampling noise, by chunk
    ACTING = 1009, 1, 0  # sampling noise, by chunk
    TRAINING_ARMS = 1, 0, 101
    LABELLED_ARMS = 1, 0, 7919
    PROBE_ARMS = 1, 0, 40_009
    ON_ROBOT_ARMS = 1, 0, 300  # of benchmarks: each has arms of its own
    SIDE_BY_SIDE_ARMS = 1, 0, 700
    ROUND = 100, 1, 0  # of work between two alignments
    ATTEMPT = 1, 1, 0  # of alignments, one after the other
    PLAIN_GRADIENT = 31, 1, 0  # by step
    LABELS = 1, 0, 1


def seed_of(seed: int, part: Part, index: int = 0) -> int:
    """The seed of a part of the work that `seed` stands for; index: which one, where there are several."""
    times, each, plus = part.value
    return times * seed + each * index + plus
