"""A source of real robots' experience as one of many robots': the real ones, and virtual ones made of them.

Pictures that are turned, moved or zoomed are made from larger ones, so that they are as sharp as a real camera's. All
of such a source are so scaled twice: from 640 x 480 to 224 they come out, in the mean, 1.2 (openpi's way) or 1.4
(lerobot's) grey levels off what is scaled once; by area 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.experience.source import Frames, Labels, Pairs, RawSamples, Shifts, Source, Sources, resized
from vla_align_ros.observation.resize import Scaler
from vla_align_ros.observation.scaling import SCALERS
from vla_align_ros.observation.view import View
from vla_align_ros.policy import Policy
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.training.virtual_parameters import Parameters, virtual_robot
from vla_align_ros.training.virtual_recipe import VirtualRobots
from vla_align_ros.training.virtual_robot import VirtualRobot, with_delay
from vla_align_ros.training.virtual_views import check_views
from vla_align_ros.types import Experience, Float32Array, Picture

LARGER = 2  # how much wider the pictures are that virtual ones are made from
BLOCK = 2048  # samples whose larger pictures are in memory at a time
VALIDATION_NUMBER = 1_000_000  # of the first virtual robot to validate on


@dataclass(frozen=True)
class Member:
    """One robot of a source. real: row of the real one. parameters: what it is shifted in; a real one in nothing."""

    name: str
    real: int
    parameters: Parameters
    robot: VirtualRobot


@dataclass(frozen=True)
class VirtualSource:
    """`base` and virtual robots made of it. image_size: of the model, whose `scale` makes its pictures. larger: than
    these are those that are asked of the base. field_of_view_rad: of the cameras that are tilted."""

    base: Source
    members: Sequence[Member]
    described: RobotDescription
    views: Mapping[str, View]
    image_size: int
    scale: Scaler
    larger: int
    field_of_view_rad: Mapping[str, float]

    @cached_property
    def robots(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def prompts(self) -> Sequence[str]:
        return self.base.prompts

    def samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int = 0
    ) -> RawSamples:
        """See `Source`."""
        blocks = [
            self._samples(robot[first : first + BLOCK], horizon, size, rng, beyond)
            for first in range(0, len(robot), BLOCK)
        ]
        experiences = [item for block in blocks for item in block.experiences]
        actions, points = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("actions", "points"))
        return RawSamples(experiences, actions, robot, points)

    def _samples(
        self, robot: NDArray[np.int64], horizon: int, size: int | None, rng: np.random.Generator, beyond: int
    ) -> RawSamples:
        mine, ticks = [self.members[row] for row in robot], horizon + beyond
        latest = max(member.robot.delay_ticks for member in self.members)
        real = np.array([member.real for member in mine], np.int64)
        model_size = None if size is None else self.image_size
        asked = None if size is None else self.larger * self.image_size
        raw = self.base.samples(real, horizon, asked, rng, beyond + latest)
        experiences, actions, points = [], [], []
        for row, member in enumerate(mine):
            item = raw.experiences[row]
            told = member.robot.experience(item, ticks, self.views, model_size, self.scale)
            experiences.append(resized(told, size))
            actions.append(member.robot.commanded(raw.actions[row], item.observation.state, ticks))
            points.append(self._points(member, raw.points[row]))
        return RawSamples(experiences, np.stack(actions), robot, np.stack(points))

    def experiences(
        self,
        robots: Sequence[int],
        policy: Policy,
        tokens: Tensor,
        seed: int,
        count: int,
        exploration_fraction: float = 0.5,
    ) -> list[list[Experience]]:
        """See `Source`. Where a policy works, it works on the real robot: what it did there is told as the virtual
        robot's. A delay costs the last experiences of each episode."""
        members, horizon = [self.members[robot] for robot in robots], policy.model.architecture.action_horizon
        real = [member.real for member in members]
        told = []
        for member, found in zip(
            members, self.base.experiences(real, policy, tokens, seed, count, exploration_fraction), strict=True
        ):
            known = with_delay(found, self.described, member.robot.delay_ticks)
            told.append(
                [member.robot.experience(item, horizon, self.views, self.image_size, self.scale) for item in known]
            )
        return told

    @cached_property
    def labels(self) -> Labels | None:
        """Those of the base, each as some member would see it."""
        base = self.base.labels
        return None if base is None else Labels(base.point_cameras, self._frames, self._pairs)

    @cached_property
    def shifts(self) -> Shifts:
        """See `Source`: the maps that make each member of its real robot, and which that is."""
        unshifted = asdict(Parameters())
        families = (
            tuple(name for name, value in asdict(member.parameters).items() if value != unshifted[name])
            for member in self.members
        )
        values = np.stack([self._values(member.robot, member.real) for member in self.members])
        return Shifts(values, tuple(families), self._exchanged)

    def _values(self, robot: VirtualRobot, real: int) -> Float32Array:
        everyone = np.eye(len(self.base.robots))
        return np.append(robot.numbers(list(self.described.cameras)), everyone[real]).astype(np.float32)

    def _exchanged(self, row: int, family: str, other: int) -> Float32Array:
        taken = {family: getattr(self.members[other].parameters, family)}
        shift = replace(self.members[row].parameters, **taken)
        return self._values(virtual_robot(self.described, shift, self.field_of_view_rad), self.members[row].real)

    def _points(self, member: Member, points: Float32Array) -> Float32Array:
        """(K, 2) as a member's cameras have them. One that is asked of a camera which another has taken the place of is
        told in the picture that the real one now has."""
        labels, cameras = self.base.labels, list(self.described.cameras)
        if labels is None:
            return points
        moved = points.copy()
        for place, camera in enumerate(labels.point_cameras):
            shown = next(item for item in member.robot.cameras.values() if item.camera == cameras[camera])
            if not shown.as_it_is:
                moved[place] = np.clip(shown.points(points[place]), -1.0, 2.0)
        return moved

    def _drawn(self, count: int, seed: int) -> list[Member]:
        rows = rng_of(seed, Stream.VIRTUAL_LABELS).integers(0, len(self.members), count)
        return [self.members[row] for row in rows]

    def _frames(self, count: int, size: int, seed: int) -> Frames:
        assert self.base.labels is not None
        frames, cameras = self.base.labels.frames(count, size, seed), list(self.described.cameras)
        images, points = frames.images.copy(), frames.points.copy()
        for row, member in enumerate(self._drawn(count, seed)):
            real = cameras[row % len(cameras)]
            name, shown = next((name, item) for name, item in member.robot.cameras.items() if item.camera == real)
            images[row] = self._shown(name, shown.picture(images[row]))
            seen = np.abs(points[row]).max(axis=1) < 4.0  # a bench places what is behind a camera far away
            points[row, seen] = shown.points(points[row, seen])
        return Frames(images, points, frames.pose)

    def _pairs(self, count: int, size: int, seed: int) -> Pairs:
        assert self.base.labels is not None
        found, names = self.base.labels.pairs(count, size, seed), list(self.described.cameras)
        before, after, motion = found.before.copy(), found.after.copy(), found.motion.copy()
        for row, member in enumerate(self._drawn(count, seed)):
            for place, name in enumerate(names):
                mounted = member.robot.cameras[name]
                real = names.index(mounted.camera)
                for side, given in ((before, found.before), (after, found.after)):
                    side[row, place] = self._shown(name, mounted.picture(given[row, real]))
            state = member.robot.state
            motion[row] = state.factor * found.motion[row][state.column]
        return Pairs(before, after, motion)

    def _shown(self, camera: str, image: Picture) -> Picture:
        return self.views[camera].shown(image) if camera in self.views else image


def virtual_sources(sources: Sources, recipe: VirtualRobots, config: ModelConfig) -> Sources:
    """Virtual robots of both sources, others for each. Pictures of `sources` must be there LARGER * the model's size
    where `recipe.warps`. Raises RecipeError for what the robot does not have, and where a view is missing or too large;
    what a source raises."""
    training = _of(sources.training, recipe, config, range(recipe.robots))
    last = VALIDATION_NUMBER + recipe.validation_robots
    return Sources(training, _of(sources.validation, recipe, config, range(VALIDATION_NUMBER, last)))


def _of(base: Source, recipe: VirtualRobots, config: ModelConfig, numbers: range) -> VirtualSource:
    robot, tilted = config.robot, recipe.field_of_view_rad
    nothing = Parameters()
    members = [Member(name, row, nothing, virtual_robot(robot, nothing, {})) for row, name in enumerate(base.robots)]
    for place, number in enumerate(numbers):
        shift, real = recipe.draw(robot, number), place % len(base.robots)
        name = f"{base.robots[real]}/virtual/{recipe.seed}/{number}/{shift.digest}"
        members.append(Member(name, real, shift, virtual_robot(robot, shift, tilted)))
    size, scale = config.architecture.vision.image_size, SCALERS[config.architecture.conventions]
    if recipe.warps:
        check_views(base, recipe, config, LARGER * size)
    return VirtualSource(base, members, robot, config.views, size, scale, LARGER if recipe.warps else 1, tilted)
