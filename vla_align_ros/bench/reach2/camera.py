"""Draws what the two cameras see: a pinhole projection of discs and tapered links, antialiased by OpenCV."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.reach2.arm import forward_kinematics
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb")
TARGET_RGB = np.array([[220, 50, 40], [40, 190, 70], [50, 90, 230], [235, 200, 40]], np.float64)
TARGET_RADIUS_M = 0.07
ARM_HEIGHT_M = 0.07
BASE_FOCAL, WRIST_FOCAL = 1.6, 0.8  # focal length over image width
_SUBPIXEL = 16.0  # cv2 draws in 1/16 pixel with shift=4


@dataclass(frozen=True)
class Scene:
    """What is on n tables: targets_m (n, k, 2), colours (n, k) rows of TARGET_RGB, background (n, 3) RGB."""

    targets_m: FloatArray
    colours: NDArray[np.int64]
    background: FloatArray


@dataclass(frozen=True)
class View:
    """n camera poses: position (n, 3) in m, and the unit vectors right, up, forward (n, 3)."""

    position: FloatArray
    right: FloatArray
    up: FloatArray
    forward: FloatArray
    focal: float

    def project(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Points (n, m, 3) -> image coordinates (n, m, 2) in widths, (0, 0) top left; widths a metre (n, m)."""
        relative = points - self.position[:, None]
        depth = np.maximum((relative * self.forward[:, None]).sum(-1), 0.05)
        across = (relative * self.right[:, None]).sum(-1) / depth * self.focal
        upward = (relative * self.up[:, None]).sum(-1) / depth * self.focal
        return np.stack([across + 0.5, 0.5 - upward], axis=-1), self.focal / depth


def base_view(arms: Embodiments) -> View:
    """The camera on its stand, looking at the table before the arm."""
    azimuth, tilt, zero = arms.base_azimuth_rad, arms.base_tilt_rad, np.zeros(len(arms))
    heading = np.stack([np.cos(azimuth), np.sin(azimuth), zero], axis=1)
    target = np.stack([0.25 + arms.base_shift_m[:, 0], arms.base_shift_m[:, 1], zero], axis=1)
    back = -np.sin(tilt)[:, None] * heading + np.stack([zero, zero, np.cos(tilt)], axis=1)
    right = np.stack([np.sin(azimuth), -np.cos(azimuth), zero], axis=1)
    return View(target + arms.base_distance_m[:, None] * back, right, np.cross(right, -back), -back, BASE_FOCAL)


def wrist_view(arms: Embodiments, angle_rad: FloatArray) -> View:
    """The camera over the tip, looking straight down, turning with the second link."""
    _, tip = forward_kinematics(arms.link_m, angle_rad)
    heading = angle_rad.sum(axis=1) + arms.wrist_yaw_rad
    zero = np.zeros(len(arms))
    up = np.stack([np.cos(heading), np.sin(heading), zero], axis=1)
    right = np.stack([np.sin(heading), -np.cos(heading), zero], axis=1)
    position = np.concatenate([tip, (ARM_HEIGHT_M + arms.wrist_height_m)[:, None]], axis=1)
    position = position + arms.wrist_shift_m[:, :1] * up + arms.wrist_shift_m[:, 1:] * right
    return View(position, right, up, np.tile([0.0, 0.0, -1.0], (len(arms), 1)), WRIST_FOCAL)


def views(arms: Embodiments, angle_rad: FloatArray) -> dict[str, View]:
    """Both cameras, by name, in the model's order."""
    return dict(zip(CAMERAS, (base_view(arms), wrist_view(arms, angle_rad)), strict=True))


def at_height(points_m: FloatArray, height_m: float) -> FloatArray:
    """(n, m, 2) on the table -> (n, m, 3)."""
    return np.concatenate([points_m, np.full((*points_m.shape[:2], 1), height_m)], axis=2)


def draw(arms: Embodiments, angle_rad: FloatArray, scene: Scene, size: int) -> NDArray[np.uint8]:
    """(n, cameras, size, size, 3) uint8 RGB."""
    images = np.empty((len(arms), len(CAMERAS), size, size, 3), np.uint8)
    elbow, tip = forward_kinematics(arms.link_m, angle_rad)
    joints_m = at_height(np.stack([np.zeros_like(tip), elbow, tip], axis=1), ARM_HEIGHT_M)
    for index, view in enumerate(views(arms, angle_rad).values()):
        joints, joint_scale = view.project(joints_m)
        targets, target_scale = view.project(at_height(scene.targets_m, 0.0))
        for row in range(len(arms)):
            _draw_one(
                images[row, index],
                joints[row] * size,
                joint_scale[row] * size,
                targets[row] * size,
                target_scale[row] * size,
                scene.colours[row],
                scene.background[row],
                arms.colour[row],
            )
    return images


def _draw_one(
    image: NDArray[np.uint8],
    joints: FloatArray,
    joint_scale: FloatArray,
    targets: FloatArray,
    target_scale: FloatArray,
    colours: NDArray[np.int64],
    background: FloatArray,
    arm_colour: FloatArray,
) -> None:
    image[:] = background.astype(np.uint8)
    for centre, scale, colour in zip(targets, target_scale, colours, strict=True):
        _disc(image, centre, TARGET_RADIUS_M * scale, TARGET_RGB[colour])
    for link, shade in ((0, 1.0), (1, 0.85)):
        along = joints[link + 1] - joints[link]
        normal = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-6)
        start, end = normal * 0.045 * joint_scale[link], normal * 0.035 * joint_scale[link + 1]
        corners = np.stack([joints[link] + start, joints[link + 1] + end, joints[link + 1] - end, joints[link] - start])
        cv2.fillConvexPoly(image, (corners * _SUBPIXEL).astype(np.int32), (arm_colour * shade).tolist(), cv2.LINE_AA, 4)
    for joint, radius in ((0, 0.07), (1, 0.05)):
        _disc(image, joints[joint], radius * joint_scale[joint], arm_colour * 0.5)
    _disc(image, joints[2], 0.045 * joint_scale[2], np.full(3, 240.0))


def _disc(image: NDArray[np.uint8], centre: FloatArray, radius: float, colour: FloatArray) -> None:
    x, y = (int(value * _SUBPIXEL) for value in centre)
    cv2.circle(image, (x, y), int(radius * _SUBPIXEL), colour.tolist(), -1, cv2.LINE_AA, 4)
