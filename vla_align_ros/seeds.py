"""Random numbers by name: a seed and a name always give the same ones.

The numbers in both tables say nothing, and none may change: with them the weights that ship were trained and the
results in `docs/` were measured. A new name takes a number that its table does not have.
"""

from __future__ import annotations

from enum import Enum, IntEnum

import numpy as np


class Stream(IntEnum):
    """What numpy draws; the number is part of the generator's key, beside the seed. Two names may share one (an Enum's
    alias) where they never draw for the same thing."""

    LABELLED_FRAMES = 1
    STATISTICS = 2
    PAIRS = 2  # the seeds are others than those of STATISTICS
    SHARD = 3  # by its number
    EPISODES = 17  # scenes, poses and prompts
    SENSOR_NOISE = 19  # of a batch of episodes
    EXPLORATION = 23
    BODY = 31  # start pose, scenes and prompts of one arm on a clock
    PROBE_PAIRS = 31
    MESSAGE_NOISE = 37  # of the one robot that sends messages
    STRETCH = 41  # of a recording
    ASSIGNMENT = 43  # a cube, a pad and words for one arm
    TABLE = 47  # where things lie on it, and the arm's first pose
    ENCODER_NOISE = 53  # of one arm
    PIXEL_NOISE = 59  # of one arm's pictures
    BEHAVIOUR = 61  # what a noisy or babbling arm does
    SHIFTS = 71  # of one arm, by its split and the family
    TABLES = 73  # one after the other, of one arm on a clock
    FAMILIES = 79  # in which one arm is shifted
    VIRTUAL_ROBOT = 83  # by family and number
    VIRTUAL_LABELS = 89  # whose pictures they are
    CONTENT = 97  # some pictures, to see which part of them is black in all
    EXCITATION = 101  # of a robot that stands
    FAR_TOKENS = 103  # of the bank, beside a robot's own


def rng_of(seed: int, stream: Stream, *index: int) -> np.random.Generator:
    """The generator of a stream, or of its part `index`."""
    return np.random.default_rng([seed, stream, *index])


class Part(Enum):
    """What has a seed of its own, for torch or for a whole piece of work: (a, b, c) of a * seed + b * index + c.

    Two names may share theirs (an Enum's alias) where they never draw for the same thing.
    """

    # training
    MODEL = 1, 0, 0  # its first weights
    TOKEN_BANK = 1, 0, 1
    AIDS = 1, 0, 2
    POLICY_EYE = 1, 0, 11
    FEATURES_EYE = 1, 0, 12
    FEATURES_PCA = 1, 0, 13
    BATCHES = 1_000_003, 1, 0  # the order of samples, by epoch
    LAST_STAGE = 1, 0, 23  # of all that it draws
    FLOW = 7_000_003, 1, 0  # times, noise and dropped tokens, by step
    # alignment
    PICK = 1, 0, 2
    PICK_ROUND = 1, 1_000_003, 0  # the candidates that are left, by more and more experiences
    FINALISTS = 1, 0, 1  # the last ones, by all
    GRADIENT = 1009, 1, 1  # by step
    JUDGING = 1, 0, 1  # the same draws before and after
    CHANGE = 1, 0, 29  # of what a new token gains on all experience
    OWN_TOKEN = 1, 1_000_003, 0  # a robot's, of what `training/own_token.py` asks
    # benches
    ROBOT = 1000, 1, 0  # one of several
    TURN = 1, 1_000_003, 0  # of one robot at work; the first one has the seed itself
    COLLECTING = 2003, 1, 0  # sampling noise, by chunk
    ACTING = 1009, 1, 0  # sampling noise, by chunk
    TRAINING_ARMS = 1, 0, 101
    LABELLED_ARMS = 1, 0, 7919
    PROBE_ARMS = 1, 0, 40_009
    # benchmarks
    ON_ROBOT_ARMS = 1, 0, 300
    GUARD_ARMS = 1, 0, 500
    HELD_OUT = 1, 0, 7  # observations of an arm, for its action error
    EPISODES = 7919, 0, 13  # of an arm, for its success: other tables than those of its experience
    ROUND = 100, 1, 0  # of work between two alignments
    ATTEMPT = 1, 1, 0  # of alignments, one after the other
    LABELS = 1, 0, 1


def seed_of(seed: int, part: Part, index: int = 0) -> int:
    """The seed of a part of the work that `seed` stands for; index: which one, where there are several."""
    times, each, plus = part.value
    return times * seed + each * index + plus
