"""Experts: from what is seen to the next commands, by the rules and a believed embodiment.

An expert plans on a table of its own: the jaw goes where the rule wants it, a held cube goes along, a pushed one gives
way; inverse kinematics and the sag of the servos make commands of it. With the arm's own embodiment as belief it does
its tasks; with another it does what a policy does that takes the arm for the other one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.jit import jit
from vla_align_ros.bench.so101.joints import GRIPPER, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.kinematics import body_poses, sag_rad, solve_pose, tip_of
from vla_align_ros.bench.so101.pictures import camera_poses
from vla_align_ros.bench.so101.rules import (
    AT_CUBE_RAD,
    AZIMUTH,
    CONTACT_M,
    CUBE,
    CUBE_YAW,
    GRIP,
    JAW,
    PAD,
    SEEN_SIZE,
    WANT_GRIP,
    WANT_SIZE,
    WANT_SPEED,
    WANT_YAW,
    YAW,
    between,
    held,
    pick,
    push,
    reach,
)
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.skeleton import BODY_PARENT, GRIPPER_BODY, Skeletons
from vla_align_ros.bench.so101.state import State, yaw_rad
from vla_align_ros.bench.so101.tasks import Assignments, Task

_NUM_BODIES = len(BODY_PARENT)
_REACH, _PUSH = int(Task.REACH), int(Task.PUSH)
_TURN_RAD_S, _GRIP_RAD_S = 3.0, 8.0
_ITERATIONS = 8
FARTHEST_M = 0.8  # a ray that meets the table later, or never, ends here


@jit
def _imagine(seen: FloatArray, want: FloatArray, pushing: bool, tick_s: float) -> None:
    """What will be seen a tick later."""
    carried, caught = held(seen), between(seen)
    way = 0.0
    for i in range(3):
        way += (want[i] - seen[JAW + i]) ** 2
    share = min(1.0, want[WANT_SPEED] * tick_s / max(np.sqrt(way), 1e-9))
    for i in range(3):
        step = share * (want[i] - seen[JAW + i])
        seen[JAW + i] += step
        if carried:
            seen[CUBE + i] += step
    most = _TURN_RAD_S * tick_s
    seen[YAW] += min(max(want[WANT_YAW] - seen[YAW], -most), most)
    most = _GRIP_RAD_S * tick_s
    seen[GRIP] += min(max(want[WANT_GRIP] - seen[GRIP], -most), most)
    if caught and seen[GRIP] <= AT_CUBE_RAD:
        seen[GRIP] = AT_CUBE_RAD
        if not carried:
            seen[CUBE], seen[CUBE + 1] = seen[JAW], seen[JAW + 1]
    if pushing and seen[JAW + 2] < 0.03:
        to_x, to_y = seen[PAD] - seen[CUBE], seen[PAD + 1] - seen[CUBE + 1]
        far = max(np.hypot(to_x, to_y), 1e-6)
        along = ((seen[JAW] - seen[CUBE]) * to_x + (seen[JAW + 1] - seen[CUBE + 1]) * to_y) / far
        if -CONTACT_M < along < 0:
            seen[CUBE] += to_x / far * (along + CONTACT_M)
            seen[CUBE + 1] += to_y / far * (along + CONTACT_M)


@jit
def _plan_one(
    arms: Skeletons, row: int, angle_rad: FloatArray, seen: FloatArray, task: int, tick_s: float, targets: FloatArray
) -> None:
    """Fill targets (H, 6) from angles (6,), which change; `seen` has cube and pad filled in."""
    pos, mat, want = np.empty((_NUM_BODIES, 3)), np.empty((_NUM_BODIES, 3, 3)), np.empty(WANT_SIZE)
    body_poses(arms, row, angle_rad, pos, mat)
    tip_of(arms, row, pos, mat, seen[JAW : JAW + 3])
    seen[YAW] = np.arctan2(mat[GRIPPER_BODY, 1, 0], mat[GRIPPER_BODY, 0, 0])
    seen[GRIP] = angle_rad[GRIPPER]
    for tick in range(len(targets)):
        seen[AZIMUTH] = np.arctan2(seen[CUBE + 1] - pos[1, 1], seen[CUBE] - pos[1, 0])
        if task == _REACH:
            reach(seen, want)
        elif task == _PUSH:
            push(seen, want)
        else:
            pick(seen, want)
        _imagine(seen, want, task == _PUSH, tick_s)
        solve_pose(arms, row, angle_rad, seen[JAW : JAW + 3], seen[YAW], _ITERATIONS)
        angle_rad[GRIPPER] = want[WANT_GRIP]
        body_poses(arms, row, angle_rad, pos, mat)
        sag_rad(arms, row, pos, mat, targets[tick])
        for joint in range(NUM_JOINTS):
            targets[tick, joint] += angle_rad[joint]


@jit
def _plan_all(
    arms: Skeletons,
    angle_rad: FloatArray,
    seen: FloatArray,
    task: NDArray[np.int64],
    tick_s: float,
    targets: FloatArray,
) -> None:
    for row in range(len(task)):
        _plan_one(arms, row, angle_rad[row].copy(), seen[row], task[row], tick_s, targets[row])


def plan(arms: Skeletons, seen: State, asked: Assignments, horizon: int, tick_s: float) -> FloatArray:
    """What n servos should aim at in each of the next ticks, (n, horizon, 6) in true rad, sag made up for.

    seen: as an arm with this skeleton sees it.
    """
    rows = np.arange(len(seen))
    table = np.zeros((len(seen), SEEN_SIZE))
    table[:, CUBE : CUBE + 3] = seen.cube_m[rows, asked.cube]
    table[:, CUBE_YAW] = yaw_rad(seen.cube_quat[rows, asked.cube])
    table[:, PAD : PAD + 2] = seen.pad_m[rows, asked.pad]
    targets = np.empty((len(seen), horizon, NUM_JOINTS))
    _plan_all(arms, seen.angle_rad, table, asked.task, tick_s, targets)
    return targets


def commands(embodiments: Sequence[Embodiment], targets_rad: FloatArray) -> FloatArray:
    """Targets (n, H, 6) as these arms must be commanded, in rad."""
    return np.stack([arm.command_for(target) for arm, target in zip(embodiments, targets_rad, strict=True)])


def as_believed(
    state: State,
    embodiments: Sequence[Embodiment],
    arms: Skeletons,
    believed: Sequence[Embodiment],
    believed_arms: Skeletons,
    camera: str,
) -> State:
    """What is seen by who takes n arms for others: joints by their calibration, things by one camera.

    Each thing is where the believed camera would have to see it, at the height at which it is, and no farther away than
    FARTHEST_M. No encoder noise.
    """
    readings = zip(embodiments, believed, state.angle_rad, strict=True)
    angle_rad = np.stack([taken.angle_of_reading(own.reading(angle)) for own, taken, angle in readings])
    through = _Through(arms, state.angle_rad, believed_arms, angle_rad, CAMERAS.index(camera))
    cube_m = through(state.cube_m)
    faces = np.stack([np.cos(yaw_rad(state.cube_quat)), np.sin(yaw_rad(state.cube_quat))], axis=-1) * 0.01
    ends = np.concatenate([state.cube_m[..., :2] + faces, state.cube_m[..., 2:]], axis=-1)
    ahead = through(ends) - cube_m
    half = np.arctan2(ahead[..., 1], ahead[..., 0]) / 2
    quat = np.stack([np.cos(half), 0 * half, 0 * half, np.sin(half)], axis=-1)
    pads = np.append(state.pad_m, np.zeros((*state.pad_m.shape[:2], 1)), axis=-1)
    pad_m = through(pads)[..., :2]
    return replace(state, angle_rad=angle_rad, cube_m=cube_m, cube_quat=quat, pad_m=pad_m)


class _Through:
    """Points (n, k, 3) as one camera of n arms sees them -> where arms for which these are taken would have them."""

    def __init__(
        self, arms: Skeletons, angle_rad: FloatArray, believed: Skeletons, believed_rad: FloatArray, camera: int
    ) -> None:
        self._eye, self._axes = (each[:, camera] for each in camera_poses(arms, angle_rad))
        self._believed_eye, self._believed_axes = (each[:, camera] for each in camera_poses(believed, believed_rad))
        self._zoom = arms.camera_focal[:, camera] / believed.camera_focal[:, camera]
        self._across = self._zoom * np.where(arms.mirrored[:, camera] == believed.mirrored[:, camera], 1.0, -1.0)

    def __call__(self, points_m: FloatArray) -> FloatArray:
        inside = np.einsum("nki,nij->nkj", points_m - self._eye[:, None], self._axes)
        zoomed = [inside[..., 0] * self._across[:, None], inside[..., 1] * self._zoom[:, None], inside[..., 2]]
        ray = np.einsum("nkj,nij->nki", np.stack(zoomed, axis=-1), self._believed_axes)
        ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
        drop = points_m[..., 2] - self._believed_eye[:, None, 2]
        length = drop / np.where(drop * ray[..., 2] > 0, ray[..., 2], np.where(drop < 0, -1e-6, 1e-6))
        there = self._believed_eye[:, None] + ray * np.minimum(length, FARTHEST_M)[..., None]
        return np.append(there[..., :2], points_m[..., 2:], axis=-1)
