"""The SO-101 as a source: what arms at work saw, what their experts would do, what was done, what came of it.

Every call records episodes of its own and draws samples from them: a run that goes on after a cut sees the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.bench.collect import fill_buffers
from vla_align_ros.bench.so101.bench import So101, numbers
from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.episodes import CONTROL_HZ
from vla_align_ros.bench.so101.joints import DELTA
from vla_align_ros.bench.so101.labels import draw_frames, draw_pairs, in_sight, prefix_cameras, prefix_keypoints
from vla_align_ros.bench.so101.recording import Recording, Rows, draw_samples, labels
from vla_align_ros.bench.so101.scene import CAMERAS, CUBES, PADS
from vla_align_ros.bench.so101.shifts import Family, Split, draw_embodiment, families_of, shifted_fields
from vla_align_ros.bench.so101.skeleton import Skeletons, rows_of, skeletons
from vla_align_ros.bench.so101.tasks import TEMPLATES, Task
from vla_align_ros.experience.source import Labels, RawSamples, Shifts, Sources
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Experience, Float32Array, Observation, UInt8Array

VALIDATION_SEED = 50_001
RECORDED_S = {Task.REACH: 3.0, Task.PUSH: 8.0, Task.PICK: 5.0}  # what an expert needs for nearly all of its episodes
_ANYWHERE = {Behaviour.EXPERT: 0.15, Behaviour.NOISY: 0.2, Behaviour.MISFIT: 0.4, Behaviour.BABBLE: 0.25}
_AT_A_CUBE = {Behaviour.EXPERT: 0.15, Behaviour.NOISY: 0.65, Behaviour.MISFIT: 0.15, Behaviour.BABBLE: 0.05}
# Misfits and babble hardly ever come near a cube, where pushing and grasping is learned.
BEHAVIOURS = {Task.REACH: _ANYWHERE, Task.PUSH: _AT_A_CUBE, Task.PICK: _AT_A_CUBE}
TICKS_A_SAMPLE = 4  # recorded for each sample
LOOKS = 4  # at moments of an episode, for one in which the first camera shows what the expert goes by
LABELLED_ARMS = 512  # whose pictures the eyes are pretrained on
_PERIOD_NS = round(1e9 / CONTROL_HZ)


@dataclass(frozen=True)
class So101Source:
    """`arms` at work, by name. shares: of the samples, of each task. labels: of other arms of the same kind. cameras:
    those that the model has; a misfit expert goes by what the first one sees."""

    arms: Mapping[str, Embodiment]
    shares: Mapping[Task, float]
    labels: Labels
    cameras: tuple[str, ...] = CAMERAS

    @cached_property
    def robots(self) -> tuple[str, ...]:
        return tuple(self.arms)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        words = (
            template.format(cube=cube, pad=pad)
            for task in self._tasks
            for template in TEMPLATES[task]
            for cube, pad in product(CUBES, PADS)
        )
        return tuple(dict.fromkeys(words))

    @cached_property
    def shifts(self) -> Shifts:
        """See `Source`. The roll of the wrist camera is a point on a circle."""
        arms = list(self.arms.values())
        families = tuple(tuple(item.value for item in families_of(arm)) for arm in arms)
        return Shifts(shift_values(arms), families, self._exchanged)

    def _exchanged(self, row: int, family: str, other: int) -> Float32Array:
        arms = list(self.arms.values())
        values = {name: getattr(arms[other], name) for name in shifted_fields(Family(family))}
        found: Float32Array = shift_values([replace(arms[row], **values)])[0]
        return found

    @cached_property
    def _tasks(self) -> tuple[Task, ...]:
        return tuple(task for task in Task if self.shares.get(task))

    @cached_property
    def _bodies(self) -> Skeletons:
        return skeletons(list(self.arms.values()))

    def samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int = 0
    ) -> RawSamples:
        """See `Source`. What is to be imitated is what the arm's own expert would do. Episodes may be shared by the
        samples of one robot and task."""
        shares = np.array([self.shares[task] for task in self._tasks])
        task = np.array(self._tasks)[rng.choice(len(shares), len(robot), p=shares / shares.sum())]
        experiences: list[Experience | None] = [None] * len(robot)
        actions = np.empty((len(robot), horizon + beyond, len(So101.robot.action)), np.float32)
        points = np.empty((len(robot), len(prefix_cameras(self.cameras)), 2), np.float32)
        for one in self._tasks:
            places = np.flatnonzero(task == one)
            if len(places):
                recording, tick, row = self._at_work(one, robot[places], horizon + beyond, rng)
                actions[places], points[places], made = self._drawn(recording, tick, row, horizon, size, beyond)
                for place, experience in zip(places.tolist(), made, strict=True):
                    experiences[place] = experience
        return RawSamples([item for item in experiences if item is not None], actions, robot, points)

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        """See `Source`."""
        everyone = list(self.arms.values())
        arms = [everyone[robot] for robot in robots]
        return fill_buffers(policy, So101(self._tasks), arms, tokens, seed, exploration_fraction, count)

    def _at_work(
        self, task: Task, robot: NDArray[np.int64], horizon: int, rng: np.random.Generator
    ) -> tuple[Recording, Rows, Rows]:
        """Episodes of a task, and a random (tick, row) of an own one for each entry of `robot`."""
        ticks = round(RECORDED_S[task] * CONTROL_HZ) + horizon
        arms, group, wanted = np.unique(robot, return_inverse=True, return_counts=True)
        episodes = -(-wanted * TICKS_A_SAMPLE // ticks)
        first = np.cumsum(episodes) - episodes
        row = first[group] + rng.integers(0, episodes[group])
        arm = arms.repeat(episodes)
        everyone, shares = list(self.arms.values()), BEHAVIOURS[task]
        recording = record(
            [everyone[place] for place in arm],
            [task] * len(arm),
            rng.integers(0, 2**31, len(arm)).tolist(),
            [Behaviour(value) for value in rng.choice(list(shares), len(arm), p=list(shares.values()))],
            [everyone[place] for place in rng.integers(0, len(everyone), len(arm))],
            ticks,
            execute_ticks=So101.robot.execute,
            camera=self.cameras[0],
        )
        recording = replace(recording, arm=arm)
        tick = rng.integers(0, ticks - horizon + 1, (LOOKS, len(robot)))
        seen = np.stack([self._seen(recording, some, row) for some in tick])
        return recording, tick[seen.argmax(axis=0), np.arange(len(robot))], row

    def _seen(self, recording: Recording, tick: Rows, row: Rows) -> NDArray[np.bool_]:
        """(n,): whether the first camera shows what the expert goes by. Where it does not, nobody can tell from the
        observation what an expert would do."""
        bodies = rows_of(self._bodies, recording.arm[row])
        return in_sight(bodies, recording.state(tick, row), recording.asked[row], self.cameras[0])

    def _drawn(
        self, recording: Recording, tick: Rows, row: Rows, horizon: int, size: int | None, beyond: int
    ) -> tuple[Float32Array, Float32Array, list[Experience]]:
        """Actions to imitate, points and experiences at (tick, row) of a recording."""
        arms, state = list(self.arms.values()), recording.state(tick, row)
        bodies = rows_of(self._bodies, recording.arm[row])
        points = prefix_keypoints(bodies, state, recording.asked[row], self.cameras)
        after, images, next_images = tick + horizon, np.empty(0, np.uint8), np.empty(0, np.uint8)
        if size is None:
            targets = labels(recording, arms, self._bodies, tick, row, horizon + beyond)
        else:
            drawn = draw_samples(
                recording, arms, self._bodies, tick, row, horizon, size, beyond=beyond, cameras=self.cameras
            )
            targets, images, next_images = drawn.actions, drawn.images, drawn.next_images
        origin = np.where(DELTA, recording.readings[tick, row], np.float32(0.0))[:, None]
        sent = recording.commands[tick[:, None] + np.arange(horizon + beyond), row[:, None]] - origin
        made = [
            Experience(
                self._observation(images[place : place + 1], recording.readings[tick[place], at], prompt, 0),
                sent[place],
                self._observation(
                    next_images[place : place + 1], recording.readings[after[place], at], prompt, horizon * _PERIOD_NS
                ),
                place,
            )
            for place, (at, prompt) in enumerate((at, recording.asked.prompts[at]) for at in row.tolist())
        ]
        return targets - origin, points, made

    def _observation(self, images: UInt8Array, reading: Float32Array, prompt: str, stamp_ns: int) -> Observation:
        """images: (1, C, S, S, 3), or none."""
        seen = dict(zip(self.cameras, images[0], strict=True)) if len(images) else {}
        return Observation(seen, reading, prompt, stamp_ns)


def open_sources(
    seed: int,
    robots: int,
    validation_robots: int,
    shares: Mapping[Task, float],
    families: Sequence[Family],
    cameras: tuple[str, ...] = CAMERAS,
) -> Sources:
    """Arms to train on, the first one unshifted, and others. Each is shifted in some of the `families`."""
    training = {"so101/nominal": Embodiment()} | draw_arms(Split.TRAINING, robots - 1, seed, families)
    validation = draw_arms(Split.VALIDATION, validation_robots, VALIDATION_SEED, families)
    return Sources(
        So101Source(training, shares, _labels(Split.TRAINING, seed + 1, families, cameras), cameras),
        So101Source(validation, shares, _labels(Split.VALIDATION, VALIDATION_SEED + 1, families, cameras), cameras),
    )


def shift_values(arms: Sequence[Embodiment]) -> Float32Array:
    """(arms, P): how arms differ, in the numbers that their tokens are made of; the wrist camera's roll as a point on a
    circle."""
    roll = np.array([arm.wrist_roll_rad for arm in arms])
    rest = np.stack([replace(arm, wrist_roll_rad=0.0).vector() for arm in arms])
    return np.column_stack([rest, np.sin(roll), np.cos(roll)]).astype(np.float32)


def draw_arms(split: Split, count: int, seed: int, families: Sequence[Family]) -> dict[str, Embodiment]:
    """Arms by their names. Each family shifts half of them: alone, with any others, in none at times."""
    found = {}
    for number in numbers(count, seed):
        some = rng_of(number, Stream.FAMILIES).random(len(Family)) < 0.5
        mine = [family for family, shifts in zip(Family, some, strict=True) if shifts and family in families]
        found[f"so101/{split.value}/{number}"] = draw_embodiment(number, split, mine)
    return found


def _labels(split: Split, seed: int, families: Sequence[Family], cameras: tuple[str, ...]) -> Labels:
    def arms() -> list[Embodiment]:
        return list(draw_arms(split, LABELLED_ARMS, seed, families).values())

    return Labels(
        prefix_cameras(cameras),
        lambda count, size, seed: draw_frames(arms(), count, size, seed, cameras),
        lambda count, size, seed: draw_pairs(arms(), count, size, seed, cameras),
    )
