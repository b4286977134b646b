"""LeRobotDatasets as a source: samples from anywhere in them, with no more of them in memory than was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.experience.builder import without_held
from vla_align_ros.experience.lerobot import Episode, LeRobotDataset
from vla_align_ros.experience.lerobot_files import DatasetError
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
from vla_align_ros.policy import Policy
from vla_align_ros.types import Experience


class Recorded(NamedTuple):
    """One episode, and the dataset that it is in."""

    dataset: LeRobotDataset
    episode: Episode


@dataclass(frozen=True)
class LeRobotSource:
    """Demonstrations: what is to be imitated is what was sent. episodes: of each robot, oldest first."""

    episodes: Mapping[str, Sequence[Recorded]]
    labels: Labels | None = None
    shifts: Shifts | None = None

    @property
    def robots(self) -> tuple[str, ...]:
        return tuple(self.episodes)

    @property
    def prompts(self) -> tuple[str, ...]:
        datasets = {id(item.dataset): item.dataset for mine in self.episodes.values() for item in mine}
        return tuple(sorted({text for dataset in datasets.values() for text in dataset.prompts}))

    def samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int = 0
    ) -> RawSamples:
        """See `Source`. Each begins at any frame of its robot; an episode's are decoded together, in order."""
        wanted = drawn(robot, lambda row: self._counts(row, horizon + beyond, 1), rng)
        made: dict[int, Experience] = {}
        for (row, number), places_of in sorted(wanted.items()):
            recorded, firsts = self.episodes[self.robots[row]][number], sorted(places_of)
            found = recorded.dataset.experiences_at(recorded.episode, firsts, horizon, size is not None, beyond)
            for first, item in zip(firsts, found, strict=True):
                made |= dict.fromkeys(places_of[first], resized(item, size))
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
        """See `Source`. One begins every `robot.execute` frames, as live; those in which a joint was held are left out,
        so that there may be fewer."""
        return [self._stretch(robot, policy, seed, count) for robot in robots]

    def _stretch(self, robot: int, policy: Policy, seed: int, count: int) -> list[Experience]:
        """Of one robot, from a place that the seed picks."""
        described, horizon = policy.config.robot, policy.model.architecture.action_horizon
        stride, found = described.execute, list[Experience]()
        ends = list(accumulate(self._counts(robot, horizon, stride)))
        first = stretch_start(seed, ends[-1], count)
        for end, recorded in zip(ends, self.episodes[self.robots[robot]], strict=True):
            if end <= first:
                continue
            starts = range(0, recorded.episode.length - horizon, stride)
            starts = starts[max(0, len(starts) - (end - first)) :]
            for item in recorded.dataset.experiences_at(recorded.episode, starts, horizon):
                found += without_held([item], described)
                if len(found) == count:
                    return found
        return found

    def _counts(self, robot: int, horizon: int, stride: int) -> list[int]:
        """How many experiences one every `stride` frames gives, of each episode."""
        name = self.robots[robot]
        counts = [len(range(0, item.episode.length - horizon, stride)) for item in self.episodes[name]]
        if not sum(counts):
            raise DatasetError(f"{name}: no episode is longer than the model's action_horizon, {horizon} frames")
        return counts


def lerobot_sources(training: Sequence[LeRobotDataset], validation: Sequence[LeRobotDataset]) -> Sources:
    """Datasets of one or more robots each, to train on and to validate on; without the latter, some is held out. Raises
    DatasetError where two datasets call a robot the same."""
    if validation:
        return Sources(LeRobotSource(_by_robot(training)), LeRobotSource(_by_robot(validation)))
    return Sources(*map(LeRobotSource, held_out(_by_robot(training))))


def _by_robot(datasets: Sequence[LeRobotDataset]) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = {}
    for dataset in datasets:
        for name, episodes in dataset.by_robot.items():
            if name in found:
                raise DatasetError(f"two datasets have a robot {name!r}: rename one of the folders")
            found[name] = [Recorded(dataset, episode) for episode in episodes]
    return found
