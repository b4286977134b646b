"""Bags as a source. A bag has no index of its experiences, so that what is drawn costs a pass over each bag that it is
drawn from; nothing but what was drawn is kept. For many hours of bags, make a LeRobotDataset of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.recording import grouped
from vla_align_ros.experience.source import (
    Labels,
    RawSamples,
    Shifts,
    Sources,
    demonstrations,
    drawn,
    held_out,
    resized,
    stretch_start,
)
from vla_align_ros.experience.storage import BagError
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience

PARTS: Final = 5  # of a recording, so that one bag can be divided into what is trained on and what is held out

Read = Callable[[Sequence[Path]], BagReading]


class Stretch(NamedTuple):
    """Experiences first .. stop - 1 of one recording, one at every tick."""

    recording: tuple[Path, ...]
    first: int
    stop: int


@dataclass(frozen=True)
class BagSource:
    """What is to be imitated is what was sent. read: all experiences of a recording, one at every tick. horizon: of
    them. stretches: of each robot, oldest first."""

    read: Read
    horizon: int
    stretches: Mapping[str, Sequence[Stretch]]
    prompts: tuple[str, ...]
    labels: Labels | None = None
    shifts: Shifts | None = None

    @property
    def robots(self) -> tuple[str, ...]:
        return tuple(self.stretches)

    def samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int = 0
    ) -> RawSamples:
        """See `Source`. Raises ValueError for another horizon than the bags are read with, or more commands."""
        if horizon != self.horizon:
            raise ValueError(f"the bags are read for {self.horizon} ticks, {horizon} were asked for")
        if beyond:
            raise ValueError(
                "bags tell no commands beyond an experience, as a delay needs: make a LeRobotDataset of them"
            )
        wanted: dict[tuple[Path, ...], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for (row, number), places_of in drawn(robot, self._counts, rng).items():
            stretch = self._of(row)[number]
            for first, places in places_of.items():
                wanted[stretch.recording][stretch.first + first] += places
        made: dict[int, Experience] = {}
        for recording, of_recording in wanted.items():
            for index, item in enumerate(islice(self.read(recording), max(of_recording) + 1)):
                if index in of_recording:
                    made |= dict.fromkeys(of_recording[index], resized(item, size))
        return demonstrations(made, robot)

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        """See `Source`. One begins every `robot.execute` ticks, as live."""
        return [self._stretch(robot, policy, seed, count) for robot in robots]

    def _stretch(self, robot: int, policy: Policy, seed: int, count: int) -> list[Experience]:
        """Of one robot, from a place that the seed picks."""
        described = policy.config.robot
        stride = described.execute
        first = stretch_start(seed, sum(self._counts(robot)), count * stride)
        due = (
            item
            for item in islice(self._all(self._of(robot)), first, None)
            if item.observation.stamp_ns // described.period_ns % stride == 0
        )
        return list(islice(due, count))

    def _of(self, robot: int) -> Sequence[Stretch]:
        return self.stretches[self.robots[robot]]

    def _counts(self, robot: int) -> list[int]:
        return [item.stop - item.first for item in self._of(robot)]

    def _all(self, stretches: Sequence[Stretch]) -> Iterator[Experience]:
        """Every experience of some stretches, with episodes that count up."""
        newest = -1
        for recording, first, stop in stretches:
            start = newest + 1
            for item in islice(self.read(recording), first, stop):
                newest = start + item.episode
                yield replace(item, episode=newest)


def bag_sources(
    training: Mapping[str, Sequence[Path]], validation: Mapping[str, Sequence[Path]], read: Read, horizon: int
) -> Sources:
    """Bags of each robot, to train on and to validate on; without the latter, some of the time is held out. Raises
    BagError for a bag that cannot be read or has no experience for this model."""
    parts = [_divided(bags, read, horizon) for bags in (training, validation)]
    prompts = tuple(sorted(parts[0][1] | parts[1][1]))
    divided = (parts[0][0], parts[1][0]) if validation else held_out(parts[0][0])
    first, second = (BagSource(read, horizon, stretches, prompts) for stretches in divided)
    return Sources(first, second)


def _divided(bags: Mapping[str, Sequence[Path]], read: Read, horizon: int) -> tuple[dict[str, list[Stretch]], set[str]]:
    """The stretches of each robot's recordings, and all prompts."""
    found: dict[str, list[Stretch]] = {}
    prompts = set[str]()
    for name, paths in bags.items():
        found[name] = []
        for recording in grouped(paths):
            reading, count = read(recording), 0
            for item in reading:
                prompts.add(item.observation.prompt)
                count += 1
            if not count:
                lines = "\n".join(reading.summary.lines())
                raise BagError(f"no experience for this model:\n{lines}")
            found[name] += _stretches(tuple(recording), count, horizon)
    return found, prompts


def _stretches(recording: tuple[Path, ...], count: int, horizon: int) -> list[Stretch]:
    """A recording in PARTS that share no tick; whole where they would be too short."""
    ends = np.linspace(0, count, PARTS + 1).astype(int).tolist()
    if count < 2 * PARTS * horizon:
        return [Stretch(recording, 0, count)]
    cut = [Stretch(recording, first, end - horizon) for first, end in pairwise(ends)]
    return [*cut[:-1], cut[-1]._replace(stop=count)]
