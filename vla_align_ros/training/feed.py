"""Batches by the number of the step, so that a run that goes on sees those that it would have seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from vla_align_ros.seeds import Part, Stream, rng_of, seed_of
from vla_align_ros.training.dataset import Batch, Samples, make_samples
from vla_align_ros.training.progress import Log
from vla_align_ros.training.recipe import Recipe
from vla_align_ros.training.trainee import Trainee

Make = Callable[[int, int], Samples]
"""(number, size) -> the samples of a shard."""
SAMPLES_A_ROBOT = 8


class Feed:
    """Shards of `recipe.shard_samples`, each seen `recipe.shard_epochs` times. While one is trained on, a thread makes
    the next. How fast they are made and trained on is logged with each.

    part: of the `recipe.batch_parts` that a batch has. Each has shards of its own, that much smaller.
    """

    def __init__(self, make: Make, recipe: Recipe, steps: int, log: Log, part: int) -> None:
        """steps: of the whole run."""
        self.part, self._parts = part, recipe.batch_parts
        self._batch_size, self._shard_size = recipe.batch_size // self._parts, recipe.shard_samples // self._parts
        self._make_shard, self._recipe, self._log = make, recipe, log
        self._an_epoch = recipe.shard_samples // recipe.batch_size
        self._shards = -(-steps // (self._an_epoch * recipe.shard_epochs))
        self._thread = ThreadPoolExecutor(1)
        self._next: Future[tuple[Samples, float]] | None = None
        self._index, self._shard = -1, None
        self._since: tuple[int, float] | None = None  # the shard's first step, and when that began

    _shard: Samples | None

    def close(self) -> None:
        """End the thread, when the shard that it is making is made."""
        self._thread.shutdown(cancel_futures=True)

    def batch(self, step: int) -> Batch:
        """This part of the batch of a step. Steps come in order, from any one on."""
        epoch, within = divmod(step, self._an_epoch)
        index = epoch // self._recipe.shard_epochs
        if index != self._index or self._shard is None:
            line: dict[str, object] = {"stage": "samples"}
            if self._since is not None:
                since_step, since_s = self._since
                line["trained_per_s"] = (step - since_step) * self._batch_size / (time.monotonic() - since_s)
            self._index, (self._shard, line["made_per_s"]) = index, self._made(index)
            self._next = self._thread.submit(self._make, index + 1) if index + 1 < self._shards else None
            self._since = step, time.monotonic()
            self._log(line)
        seed = seed_of(self._recipe.seed, Part.BATCHES, epoch * self._parts + self.part)
        order = torch.randperm(self._shard_size, generator=torch.Generator().manual_seed(seed))
        return self._shard.batch(order[within * self._batch_size : (within + 1) * self._batch_size])

    def _made(self, index: int) -> tuple[Samples, float]:
        return self._make(index) if self._next is None else self._next.result()

    def _make(self, index: int) -> tuple[Samples, float]:
        """A shard, and how many samples a second it was made with."""
        started = time.monotonic()
        shard = self._make_shard(index * self._parts + self.part, self._shard_size)
        return shard, self._shard_size / (time.monotonic() - started)


def make_shard(trainee: Trainee, recipe: Recipe, number: int, size: int) -> Samples:
    """The `size` samples of one shard; a share of them from the first robot, beside its own. They are of so few robots
    that each has SAMPLES_A_ROBOT: a bench simulates an episode for a single one, too."""
    source, robot = trainee.sources.training, trainee.robot
    rng = rng_of(recipe.seed, Stream.SHARD, number)
    of_shard = rng.integers(0, len(source.robots), -(-size // SAMPLES_A_ROBOT))
    row = rng.choice(of_shard, size)
    row[rng.random(size) < recipe.first_robot_share] = 0
    architecture = robot.config.architecture
    raw = source.samples(row, architecture.action_horizon, architecture.vision.image_size, rng)
    return make_samples(raw, robot, trainee.features)
