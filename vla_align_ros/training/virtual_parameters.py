"""What one virtual robot is shifted in, and the map that this makes (`virtual_robot.py`).

| parameter | the real shift | the map |
|---|---|---|
| joint_zeros_rad | another pose held as zero at calibration | exact |
| joint_scales, joint_flips | another range, another direction chosen at calibration | exact |
| gripper_range | both ends of a gripper recorded elsewhere | exact |
| command_scales, command_flips | commands in other units than readings; of a velocity, another gear | exact |
| joint_order | drivers that name or number the joints otherwise | exact |
| delay_ticks | a slower bus or controller, in whole control ticks | exact |
| camera_mirrors, camera_swap | a driver that mirrors, cameras that changed places | exact, to the bit |
| camera_roll_rad | mounted turned about the optical axis | exact inside the view, up to resampling |
| camera_tilt_rad | turned about its own x and y axis, with the field of view known | the same |
| camera_zoom | another lens; of a camera that is nearer or farther | the same; a guess |
| camera_shifts | the lens's middle is elsewhere on the sensor; of a moved camera | the same; a guess |

A camera that moves sees near things go farther than far ones: no map of one picture is exact for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

import cv2
import numpy as np

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.training.virtual_robot import Lines, Mounted, VirtualRobot
from vla_align_ros.types import Float64Array

Numbers = Mapping[str, float]
Pairs = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Parameters:
    """By joint or camera; what is not named is not shifted.

    The virtual robot reads `scale * reading + joint_zeros_rad`, where scale is joint_scales, negative in joint_flips,
    and is commanded in the same numbers. gripper_range: how far up the range's lower and upper end lie, in shares of
    it. command_scales: what moves over what is commanded, negative in command_flips. joint_order: for each joint of the
    description the real one that takes its place. camera_roll_rad: as the camera sees itself turned, counter-clockwise;
    camera_tilt_rad: a rotation vector about its x (right) and y (up), before the roll. camera_zoom: focal length,
    relative. camera_shifts: of the picture right and down, in its widths. camera_swap: two cameras.
    """

    joint_zeros_rad: Numbers = field(default_factory=dict)
    joint_scales: Numbers = field(default_factory=dict)
    joint_flips: tuple[str, ...] = ()
    gripper_range: Pairs = field(default_factory=dict)
    command_scales: Numbers = field(default_factory=dict)
    command_flips: tuple[str, ...] = ()
    joint_order: tuple[str, ...] = ()
    delay_ticks: int = 0
    camera_roll_rad: Numbers = field(default_factory=dict)
    camera_tilt_rad: Pairs = field(default_factory=dict)
    camera_zoom: Numbers = field(default_factory=dict)
    camera_shifts: Pairs = field(default_factory=dict)
    camera_mirrors: tuple[str, ...] = ()
    camera_swap: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The same for the same parameters, 8 hexadecimal digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]


def virtual_robot(robot: RobotDescription, shift: Parameters, field_of_view_rad: Numbers) -> VirtualRobot:
    """The map of one virtual robot. field_of_view_rad: across the picture's width, of each camera that is tilted."""
    swapped = dict(zip(shift.camera_swap, shift.camera_swap[::-1], strict=True))
    cameras = {}
    for name in robot.cameras:
        real = swapped.get(name, name)
        cameras[name] = Mounted(real, homography(shift, real, field_of_view_rad.get(real)))
    return VirtualRobot(robot, _state(robot, shift), _commands(robot, shift), shift.delay_ticks, cameras)


def homography(shift: Parameters, camera: str, field_of_view_rad: float | None) -> Float64Array:
    """`Mounted.to_real` of a camera: mirrored last, before that rolled and tilted about its own middle, with another
    focal length, and before all that shifted."""
    tilt, zoom = shift.camera_tilt_rad.get(camera, (0.0, 0.0)), shift.camera_zoom.get(camera, 1.0)
    roll, (right, down) = shift.camera_roll_rad.get(camera, 0.0), shift.camera_shifts.get(camera, (0.0, 0.0))
    focal = 1.0
    if any(tilt):
        if field_of_view_rad is None:
            raise ValueError(f"camera {camera!r} is tilted: how far its picture reaches must be known")
        focal = 0.5 / np.tan(field_of_view_rad / 2)
    turned = cv2.Rodrigues(np.array([*tilt, 0.0]))[0] @ cv2.Rodrigues(np.array([0.0, 0.0, roll]))[0]
    axes = np.array([1.0, -1.0, -1.0])  # a camera's x is right, y up, z backwards; a picture's y is down
    to_real = (axes * [focal, focal, 1.0])[:, None] * turned * (axes / [zoom * focal, zoom * focal, 1.0])
    moved = np.array([[1.0, 0.0, -right], [0.0, 1.0, -down], [0.0, 0.0, 1.0]])
    mirrored = np.diag([-1.0 if camera in shift.camera_mirrors else 1.0, 1.0, 1.0])
    return np.asarray(moved @ to_real @ mirrored, np.float64)


def _readings(robot: RobotDescription, shift: Parameters) -> dict[str, tuple[float, float]]:
    """Of each joint (a, b): the virtual robot reads a * position + b."""
    found = {}
    for name in robot.joints:
        scale = shift.joint_scales.get(name, 1.0) * (-1.0 if name in shift.joint_flips else 1.0)
        zero = shift.joint_zeros_rad.get(name, 0.0)
        if name in shift.gripper_range:
            (low, high), (low_up, high_up) = gripper_ends(robot, name), shift.gripper_range[name]
            factor = 1.0 / (1.0 + high_up - low_up)
            zero += scale * (low - factor * (low + low_up * (high - low)))
            scale *= factor
        found[name] = (scale, zero)
    return found


def gripper_ends(robot: RobotDescription, joint: str) -> tuple[float, float]:
    """Positions between which a gripper was calibrated: the range of its number in the state, else its limits."""
    for item in robot.state:
        if item.joint == joint and item.entry == "position" and item.range is not None:
            return item.range
    return robot.joints[joint].position


def _places(robot: RobotDescription, shift: Parameters) -> dict[str, str]:
    """Of each joint the real one in its place."""
    return dict(zip(robot.joints, shift.joint_order or robot.joints, strict=True))


def _state(robot: RobotDescription, shift: Parameters) -> Lines:
    readings, real = _readings(robot, shift), _places(robot, shift)
    place = {(item.joint, item.entry): column for column, item in enumerate(robot.state)}
    lines = []
    for item in robot.state:
        scale, zero = readings[item.joint]
        factor = float(np.sign(scale)) if item.entry == "effort" else scale
        lines.append((place[real[item.joint], item.entry], factor, zero if item.entry == "position" else 0.0))
    return _lines(lines)


def _commands(robot: RobotDescription, shift: Parameters) -> Lines:
    readings, real = _readings(robot, shift), _places(robot, shift)
    lines = []
    for item in robot.action:
        scale, zero = readings[item.joint]
        gain = shift.command_scales.get(item.joint, 1.0) * (-1.0 if item.joint in shift.command_flips else 1.0)
        column = robot.action_joints.index(real[item.joint])
        lines.append((column, scale / gain, 0.0 if item.kind == "velocity" else zero))
    return _lines(lines)


def _lines(rows: list[tuple[int, float, float]]) -> Lines:
    column, factor, offset = zip(*rows, strict=True)
    return Lines(np.array(column, np.intp), np.array(factor, np.float64), np.array(offset, np.float64))
