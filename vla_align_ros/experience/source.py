"""Where experience and training samples come from: a bench, bags, a LeRobotDataset; all of one shape.

Everything that a source gives is in ROS's units (rad, m) and in the order of the robot description's fields.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.observation.resize import letterbox
from vla_align_ros.observation.scaling import antialiased
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Experience, Float32Array, Observation, Picture, UInt8Array

Episode = TypeVar("Episode")
EXPERIENCES = 128  # of one robot, that an alignment uses where the model recommends nothing else


@dataclass(frozen=True)
class RawSamples:
    """n samples: experiences, and what is to be imitated where they begin.

    actions: (n, H, A) float32; the experiences' commands where the recording is a demonstration. robot: (n,) row of
    `Source.robots`. points: (n, K, 2) float32 in image widths, where a bench knows what is where; else K is 0.
    """

    experiences: list[Experience]
    actions: Float32Array
    robot: NDArray[np.int64]
    points: Float32Array


@dataclass(frozen=True)
class Frames:
    """Labelled images (N, size, size, 3) uint8: points (N, K, 2) in image widths, pose (N, P)."""

    images: UInt8Array
    points: Float32Array
    pose: Float32Array


@dataclass(frozen=True)
class Pairs:
    """Frames before and after a motion, each (N, C, size, size, 3), and the change of the state (N, S), or what
    `RobotDescription.motion` makes of it."""

    before: Picture
    after: Picture
    motion: Float32Array


@dataclass(frozen=True)
class Labels:
    """What only a bench knows, each drawn anew as (count, size, seed): labelled frames, and pairs of random motion.

    point_cameras: in whose picture each of the K points of `RawSamples.points` is. Cameras are counted as the robot
    description has them; frame i is of camera i % C.
    """

    point_cameras: tuple[int, ...]
    frames: Callable[[int, int, int], Frames]
    pairs: Callable[[int, int, int], Pairs]

    @property
    def num_points(self) -> int:
        """K of `RawSamples.points`."""
        return len(self.point_cameras)


@dataclass(frozen=True)
class Shifts:
    """How the robots of a source differ from each other. values: (robots, P) float32. families: of each robot, what is
    shifted in it, by name. exchanged: (row, family, other) -> (P,) of a robot that is as `row`, but in that family as
    `other`."""

    values: Float32Array
    families: tuple[tuple[str, ...], ...]
    exchanged: Callable[[int, str, int], Float32Array]


class Source(Protocol):
    """robots: a stable name of each; a model's token bank has one token each, in this order. prompts: every text that
    may occur. labels: None where nobody knows more than the robot itself. shifts: None where nobody knows how they
    differ; else their tokens are made of it (`training/bank.py`)."""

    @property
    def robots(self) -> Sequence[str]: ...

    @property
    def prompts(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Labels | None: ...

    @property
    def shifts(self) -> Shifts | None: ...

    def samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int = 0
    ) -> RawSamples:
        """One sample of `horizon` ticks, drawn at random, for each entry of `robot` (rows of `robots`). size: of the
        images: the model's, or what its features see of them (`resized`); None leaves them out. beyond: of how many
        more ticks after them there are commands and actions, too. Raises ValueError where a source cannot give
        these."""
        ...

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        """At most `count` experiences of each robot, in order of time, as its buffer would hold them. A bench lets all
        work side by side, each with its token of `tokens` (robots, n, W), a share of the time at random; a recording
        gives a stretch of what it has, which the seed picks."""
        ...


class Sources(NamedTuple):
    """What a model is trained on, and what its limits are measured on: other robots, or other episodes of few."""

    training: Source
    validation: Source


def held_out(episodes: Mapping[str, Sequence[Episode]]) -> tuple[dict[str, list[Episode]], dict[str, list[Episode]]]:
    """Recorded episodes of each robot, oldest first -> those to train on, and those to validate on.

    Of five robots one is held out, the last ones; of fewer than three, the later fifth of each one's episodes. Raises
    ValueError where a single episode cannot be divided.
    """
    names = list(episodes)
    if len(names) >= 3:
        cut = len(names) - -(-len(names) // 5)
        return {name: list(episodes[name]) for name in names[:cut]}, {
            name: list(episodes[name]) for name in names[cut:]
        }
    earlier, later = {}, {}
    for name, mine in episodes.items():
        if len(mine) < 2:
            raise ValueError(f"robot {name!r} has one episode: one to train on and one to validate on are needed")
        cut = len(mine) - -(-len(mine) // 5)
        earlier[name], later[name] = list(mine[:cut]), list(mine[cut:])
    return earlier, later


def drawn(
    robot: NDArray[np.int64], counts: Callable[[int], Sequence[int]], rng: np.random.Generator
) -> dict[tuple[int, int], dict[int, list[int]]]:
    """For each entry of `robot` (rows of robots), any experience of that robot: (row, episode) -> number of the
    experience in it -> the entries that it is drawn for. counts: of a row, how many each of its episodes has."""
    found: dict[tuple[int, int], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in np.unique(robot).tolist():
        ends, places = np.cumsum(counts(row)), np.flatnonzero(robot == row)
        numbers = rng.integers(0, ends[-1], len(places))
        episodes = np.searchsorted(ends, numbers, side="right")
        firsts = numbers - np.array([0, *ends])[episodes]
        for episode, first, place in zip(episodes.tolist(), firsts.tolist(), places.tolist(), strict=True):
            found[row, episode][first].append(place)
    return found


def demonstrations(made: Mapping[int, Experience], robot: NDArray[np.int64]) -> RawSamples:
    """Samples of a recording, where what is to be imitated is what was sent. made: the experience of each entry of
    `robot`."""
    experiences = [made[place] for place in range(len(robot))]
    actions = np.stack([item.commands for item in experiences])
    return RawSamples(experiences, actions, robot, np.empty((len(robot), 0, 2), np.float32))


def stretch_start(seed: int, available: int, wanted: int) -> int:
    """Where a stretch of `wanted` of `available` begins, by the seed; 0 where there are not as many."""
    return int(rng_of(seed, Stream.STRETCH).integers(0, max(1, available - wanted + 1)))


def pairs(source: Source, count: int, horizon: int, size: int, seed: int) -> Pairs:
    """`count` pairs of frames of any robots: a bench's own, else what was recorded before and after some commands."""
    if source.labels is not None:
        return source.labels.pairs(count, size, seed)
    rng = rng_of(seed, Stream.PAIRS)
    found = source.samples(rng.integers(0, len(source.robots), count), horizon, size, rng).experiences
    before, after = (
        np.stack([np.stack(list(seen.images.values())) for seen in side])
        for side in ([item.observation for item in found], [item.next_observation for item in found])
    )
    motion = np.stack([item.next_observation.state - item.observation.state for item in found])
    return Pairs(before, after, motion)


def resized(item: Experience, size: int | None) -> Experience:
    """What a model sees, in another size, as `FeatureExtractor` shrinks it; without pictures for None."""

    def of(seen: Observation) -> Observation:
        images = {} if size is None else {name: letterbox(x, size, antialiased) for name, x in seen.images.items()}
        return replace(seen, images=images)

    return replace(item, observation=of(item.observation), next_observation=of(item.next_observation))
