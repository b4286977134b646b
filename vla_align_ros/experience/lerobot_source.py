"""LeRobotDatasets as a source: samples from anywhere in them, with no more of them in memory than was asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.experience.builder import without_held
from vla_align_ros.experience.lerobot import Episode, LeRobotDataset
from vla_align_ros.experience.lerobot_files import DatasetError
from vla_align_ros.experience.source import Labels, RawSamples, Sources, held_out, resized
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Stream, rng_of
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

    @property
    def robots(self) -> tuple[str, ...]:
        return tuple(self.episodes)

    @property
    def prompts(self) -> tuple[str, ...]:
        datasets = {id(item.dataset): item.dataset for mine in self.episodes.values() for item in mine}
        return tuple(sorted({text for dataset in datasets.values() for text in dataset.prompts}))

    def samples(self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator) -> RawSamples:
        """See `Source`. Each begins at any frame of its robot; an episode's are decoded together, in order."""
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)  # episode: frame, place
        for row in np.unique(robot):
            ends = self._ends(int(row), horizon, 1)
            places = np.flatnonzero(robot == row)
            drawn = rng.integers(0, ends[-1], len(places))
            which = np.searchsorted(ends, drawn, side="right")
            firsts_drawn = drawn - np.array([0, *ends])[which]
            for asked_for in zip(which.tolist(), firsts_drawn.tolist(), places.tolist(), strict=True):
                wanted[int(row), asked_for[0]].append(asked_for[1:])
        made: dict[int, Experience] = {}
        for (row, number), asked in sorted(wanted.items()):
            recorded = self.episodes[self.robots[row]][number]
            places_of: dict[int, list[int]] = defaultdict(list)
            for first, place in asked:
                places_of[first].append(place)
            firsts = sorted(places_of)
            found = recorded.dataset.experiences_at(recorded.episode, firsts, horizon, images=size is not None)
            for first, item in zip(firsts, found, strict=True):
                sized = item if size is None else resized(item, size)
                made |= dict.fromkeys(places_of[first], sized)
        experiences = [made[place] for place in range(len(robot))]
        actions = np.stack([item.commands for item in experiences])
        return RawSamples(experiences, actions, robot, np.empty((len(robot), 0, 2), np.float32))

    def experiences(
        self, robot: int, policy: Policy, seed: int, count: int, exploration_fraction: float = 0.5
    ) -> list[Experience]:
        """See `Source`. One begins every `robot.execute` frames, as live; those in which a joint was held are left out,
        so that there may be fewer."""
        described, horizon = policy.config.robot, policy.model.architecture.action_horizon
        stride, found = described.execute, list[Experience]()
        ends = self._ends(robot, horizon, stride)
        first = int(rng_of(seed, Stream.STRETCH).integers(0, max(1, ends[-1] - count + 1)))
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

    def _ends(self, robot: int, horizon: int, stride: int) -> list[int]:
        """How many experiences one every `stride` frames gives, up to the end of each episode."""
        name = self.robots[robot]
        counts = [len(range(0, item.episode.length - horizon, stride)) for item in self.episodes[name]]
        if not sum(counts):
            raise DatasetError(f"{name}: no episode is longer than the model's action_horizon, {horizon} frames")
        return list(accumulate(counts))


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
