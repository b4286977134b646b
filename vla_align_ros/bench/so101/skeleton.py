"""n arms as plain numbers, a row each: what drawing and planning need of thousands of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.scene import CAMERAS, CUBE_HALF_M, shifted_model

BODIES = ("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "payload", "moving_jaw")
BODY_PARENT = np.array([-1, 0, 1, 2, 3, 4, 5, 5])
BODY_JOINT = np.array([-1, 0, 1, 2, 3, 4, -1, 5])  # turns it about its own z; -1: none
GRIPPER_BODY = BODIES.index("gripper")
CAMERA_BODY = (-1, GRIPPER_BODY)  # the body that carries each camera; -1: the table
TIP_M = np.array([-0.0015 + CUBE_HALF_M, 0.0, -0.098])  # in the gripper's frame: the middle of a cube that is held


class Skeletons(NamedTuple):
    """n arms. In numba a NamedTuple of arrays, so that one argument carries all of it.

    body_pos (n, 8, 3), body_mat (n, 8, 3, 3): each body in its parent's frame with its joint at 0. mass_kg (n, 8) and
    mass_pos (n, 8, 3): of each body. tip_m (n, 3): in the gripper's frame. servo_nm_per_rad (n,): stiffness.
    fixed_pad_m (n, 3): the fixed jaw's pad. camera_pos (n, 2, 3), camera_mat (n, 2, 3, 3): in the frame of what carries
    it, axes right, up, backwards. camera_focal (n, 2): focal length over picture height. mirrored (n, 2).
    """

    body_pos: FloatArray
    body_mat: FloatArray
    mass_kg: FloatArray
    mass_pos: FloatArray
    tip_m: FloatArray
    servo_nm_per_rad: FloatArray
    fixed_pad_m: FloatArray
    camera_pos: FloatArray
    camera_mat: FloatArray
    camera_focal: FloatArray
    mirrored: NDArray[np.bool_]


def skeletons(embodiments: Sequence[Embodiment]) -> Skeletons:
    """A row for each embodiment, equal ones as often as they come."""
    stacked: list[Any] = [np.stack(values) for values in zip(*map(_numbers, embodiments), strict=True)]
    return Skeletons(*stacked)


@lru_cache(maxsize=2**14)  # an expert that takes arms for others asks at every chunk
def _numbers(embodiment: Embodiment) -> tuple[Any, ...]:
    """One row, in order of the fields."""
    model = shifted_model(embodiment)
    bodies = [model.body(name).id for name in BODIES]
    cameras = [model.camera(name).id for name in CAMERAS]
    return (
        model.body_pos[bodies],
        np.stack([_matrix(quat) for quat in model.body_quat[bodies]]),
        model.body_mass[bodies],
        model.body_ipos[bodies],
        TIP_M + np.array([embodiment.jaw_m, 0.0, 0.0]),
        np.float64(model.actuator_gainprm[0, 0]),
        model.geom_pos[model.geom("fixed_jaw_pad").id],
        model.cam_pos[cameras],
        np.stack([_matrix(quat) for quat in model.cam_quat[cameras]]),
        0.5 / np.tan(np.deg2rad(model.cam_fovy[cameras]) / 2),
        np.array([False, embodiment.wrist_mirrored]),
    )


def _matrix(quat: FloatArray) -> FloatArray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def rows_of(arms: Skeletons, rows: NDArray[np.int64] | slice) -> Skeletons:
    """Some of them."""
    picked: list[Any] = [values[rows] for values in arms]
    return Skeletons(*picked)
