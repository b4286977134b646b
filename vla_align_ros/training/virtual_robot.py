"""One virtual robot: a fixed map of a real one's experience, which makes it the experience of another embodiment.

    state, commands      each number is a straight line of one of the real robot's numbers
    delay_ticks          what the virtual robot is sent at a tick acts on the real one that many ticks later
    pictures             each camera shows one of the real cameras' pictures through a homography

All in ROS's units and in the order of the description's fields, as a robot with that shift would say them: what is made
of them (units of the model, normalisation, letterbox) comes later and is the same for both. Maps compose (`then`) and
have an inverse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_align_ros.observation.resize import Scaler, letterbox
from vla_align_ros.observation.view import View
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Experience, Float32Array, Float64Array, Observation, Picture


@dataclass(frozen=True)
class Lines:
    """Numbers of one robot -> another's: `out[i] = factor[i] * in[column[i]] + offset[i]`; all (D,)."""

    column: NDArray[np.intp]
    factor: Float64Array
    offset: Float64Array

    def __call__(self, numbers: NDArray[np.floating]) -> Float64Array:
        """(..., D)."""
        mapped: Float64Array = self.factor * np.asarray(numbers, np.float64)[..., self.column] + self.offset
        return mapped

    def then(self, other: Lines) -> Lines:
        """`other` of what these give."""
        offset = other.factor * self.offset[other.column] + other.offset
        return Lines(self.column[other.column], other.factor * self.factor[other.column], offset)

    def inverse(self) -> Lines:
        """Back. Every column is asked for once."""
        back = np.argsort(self.column)
        return Lines(back, 1.0 / self.factor[back], -self.offset[back] / self.factor[back])


@dataclass(frozen=True)
class Mounted:
    """How a camera's picture comes from a real one. camera: whose. to_real: (3, 3), from a point of the virtual picture
    to the point of the real one that it shows; points are x (right) and y (down) from the middle, in picture widths."""

    camera: str
    to_real: Float64Array

    @property
    def as_it_is(self) -> bool:
        """Whether every pixel stays where it is."""
        return bool(np.array_equal(self.to_real, np.eye(3)))

    def picture(self, image: Picture) -> Picture:
        """The virtual picture (size, size, 3) of a real one. What is not in the real one repeats its border."""
        if self.as_it_is:
            return image
        size = image.shape[0]
        middle = (size - 1) / 2  # pixel i is at (i + .5) / size - .5
        pixels = np.array([[size, 0, middle], [0, size, middle], [0, 0, 1]], np.float64)
        matrix = pixels @ self.to_real @ _inverse(pixels)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = cv2.warpPerspective(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, image.dtype)

    def points(self, real: NDArray[np.floating]) -> Float64Array:
        """Where points (..., 2) of the real picture are in the virtual one; both from the top left, in widths."""
        return through(_inverse(self.to_real), np.asarray(real, np.float64) - 0.5) + 0.5


def through(homography: Float64Array, points: Float64Array) -> Float64Array:
    """Points (..., 2) through a homography (3, 3)."""
    mapped = np.concatenate([points, np.ones_like(points[..., :1])], axis=-1) @ homography.T
    return np.asarray(mapped[..., :2] / mapped[..., 2:])


def _inverse(homography: Float64Array) -> Float64Array:
    return np.asarray(np.linalg.inv(homography), np.float64)


@dataclass(frozen=True)
class VirtualRobot:
    """state: lines of the state. commands: of what is sent, a `delta_position` as the position that it leads to.
    cameras: how each of them is mounted."""

    described: RobotDescription
    state: Lines
    commands: Lines
    delay_ticks: int
    cameras: Mapping[str, Mounted]

    def numbers(self, cameras: Sequence[str]) -> Float64Array:
        """All of it in a row; 0 and 1 say which number or camera takes another one's place."""
        lines = [
            np.concatenate([np.eye(len(x.column))[x.column].ravel(), x.factor, x.offset])
            for x in (self.state, self.commands)
        ]
        mounted = [
            np.append(self.cameras[name].to_real, [self.cameras[name].camera == other for other in cameras])
            for name in cameras
        ]
        return np.concatenate([*lines, *mounted, [self.delay_ticks]])

    def observation(self, seen: Observation, views: Mapping[str, View], size: int | None, scale: Scaler) -> Observation:
        """What the virtual robot sees where the real one saw `seen`. A picture comes out `size` wide, letterboxed by
        the model's `scale` and within its view; with None as it is."""
        state = self.state(seen.state).astype(np.float32)
        mounted = {name: item for name, item in self.cameras.items() if item.camera in seen.images}
        images = {name: item.picture(seen.images[item.camera]) for name, item in mounted.items()}
        if size is not None:
            images = {name: letterbox(image, size, scale) for name, image in images.items()}
        images = {name: views[name].shown(image) if name in views else image for name, image in images.items()}
        return replace(seen, images=images, state=state)

    def commanded(self, commands: Float32Array, state: Float32Array, ticks: int) -> Float32Array:
        """(>= ticks + delay_ticks, A) commands of the real robot from a tick on, at which its state is (S,), -> those
        of the virtual one, (ticks, A)."""
        goals = commands[self.delay_ticks : self.delay_ticks + ticks] + origin(self.described, state)
        return np.asarray(self.commands(goals) - origin(self.described, self.state(state)), np.float32)

    def experience(
        self, item: Experience, ticks: int, views: Mapping[str, View], size: int | None, scale: Scaler
    ) -> Experience:
        """What the virtual robot did and saw. item: with `delay_ticks` commands or more beyond its `ticks`."""
        before, after = (
            self.observation(seen, views, size, scale) for seen in (item.observation, item.next_observation)
        )
        commands = self.commanded(item.commands, item.observation.state, ticks)
        return replace(item, observation=before, commands=commands, next_observation=after)

    def then(self, other: VirtualRobot) -> VirtualRobot:
        """The virtual robot that `other` makes of this one, as if this one were real."""
        cameras = {}
        for name, item in other.cameras.items():
            mine = self.cameras[item.camera]
            cameras[name] = Mounted(mine.camera, mine.to_real @ item.to_real)
        commands, delay_ticks = self.commands.then(other.commands), self.delay_ticks + other.delay_ticks
        return VirtualRobot(self.described, self.state.then(other.state), commands, delay_ticks, cameras)

    def inverse(self) -> VirtualRobot:
        """What makes the real robot of this one. Its delay is negative: it can only come after one that is as long."""
        back = {item.camera: Mounted(name, _inverse(item.to_real)) for name, item in self.cameras.items()}
        return VirtualRobot(self.described, self.state.inverse(), self.commands.inverse(), -self.delay_ticks, back)


def origin(robot: RobotDescription, state: NDArray[np.floating]) -> Float64Array:
    """(A,): where a `delta_position` begins, 0 of other commands."""
    return np.where(robot.kinds == "delta_position", robot.measured(state), 0.0)


def with_delay(items: Sequence[Experience], robot: RobotDescription, ticks: int) -> list[Experience]:
    """Experiences in order of time -> those of which what was sent in `ticks` more ticks is known from later ones, with
    these commands."""
    if not ticks:
        return list(items)
    first_ns: dict[int, int] = {}
    sent: dict[tuple[int, int], Float64Array] = {}  # by episode and tick in it; a change as the position it leads to

    def tick_of(item: Experience) -> int:
        begun_ns = first_ns.setdefault(item.episode, item.observation.stamp_ns)
        return round((item.observation.stamp_ns - begun_ns) / robot.period_ns)

    for item in items:
        for place, goal in enumerate(item.commands + origin(robot, item.observation.state)):
            sent[item.episode, tick_of(item) + place] = goal
    found = []
    for item in items:
        wanted = [(item.episode, tick_of(item) + place) for place in range(len(item.commands) + ticks)]
        if all(key in sent for key in wanted):
            commands = np.stack([sent[key] for key in wanted]) - origin(robot, item.observation.state)
            found.append(replace(item, commands=commands.astype(np.float32)))
    return found
