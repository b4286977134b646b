"""Batches by the number of the step, so that a run that goes on sees those that it would have seen."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from vla_align_ros.experience.source import Source
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of
from vla_align_ros.training.dataset import Samples, make_samples
from vla_align_ros.training.progress import Log
from vla_align_ros.training.recipe import Recipe


class Feed:
    """Shards of `recipe.shard_samples`, each seen `recipe.shard_epochs` times. While one is trained on, a thread makes
    the next. How fast they are made and trained on is logged with each."""

    def __init__(
        self, source: Source, robot: Robot, features: FeatureExtractor, recipe: Recipe, steps: int, log: Log
    ) -> None:
        """steps: of the whole run."""
        self._source, self._robot, self._features, self._recipe, self._log = source, robot, features, recipe, log
        self._an_epoch = recipe.shard_samples // recipe.batch_size
        self._shards = -(-steps // (self._an_epoch * recipe.shard_epochs))
        self._thread = ThreadPoolExecutor(1)
        self._next: Future[tuple[Samples, float]] | None = None
        self._index, self._shard = -1, None
        self._since: tuple[int, float] | None = None  # the shard's first step, and when that began

    _shard: Samples | None

    def batch(self, step: int) -> tuple[Samples, Tensor]:
        """The shard of a step, and the rows of it that the step is about. Steps come in order, from any one on."""
        epoch, within = divmod(step, self._an_epoch)
        index = epoch // self._recipe.shard_epochs
        if index != self._index or self._shard is None:
            line: dict[str, object] = {"stage": "samples"}
            if self._since is not None:
                since_step, since_s = self._since
                line["trained_per_s"] = (step - since_step) * self._recipe.batch_size / (time.monotonic() - since_s)
            self._index, (self._shard, line["made_per_s"]) = index, self._made(index)
            self._next = self._thread.submit(self._make, index + 1) if index + 1 < self._shards else None
            self._since = step, time.monotonic()
            self._log(line)
        seed = seed_of(self._recipe.seed, Part.BATCHES, epoch)
        order = torch.randperm(self._recipe.shard_samples, generator=torch.Generator().manual_seed(seed))
        return self._shard, order[within * self._recipe.batch_size : (within + 1) * self._recipe.batch_size]

    def _made(self, index: int) -> tuple[Samples, float]:
        return self._make(index) if self._next is None else self._next.result()

    def _make(self, index: int) -> tuple[Samples, float]:
        """A shard, and how many samples a second it was made with."""
        started = time.monotonic()
        shard = make_shard(self._source, self._robot, self._features, self._recipe, index)
        return shard, self._recipe.shard_samples / (time.monotonic() - started)


def make_shard(source: Source, robot: Robot, features: FeatureExtractor, recipe: Recipe, index: int) -> Samples:
    """The samples of one shard; a share of them from the first robot, beside its own."""
    rng = rng_of(recipe.seed, Stream.SHARD, index)
    row = rng.integers(0, len(source.robots), recipe.shard_samples)
    row[rng.random(recipe.shard_samples) < recipe.first_robot_share] = 0
    architecture = robot.config.architecture
    raw = source.samples(row, architecture.action_horizon, architecture.vision.image_size, rng)
    return make_samples(raw, robot, features)
