"""Where an arm's bodies are, which joint angles put its tip somewhere, and what gravity does to its joints.

Compiled functions take one row of `Skeletons`; the ones without underscore work on n arms.
"""

from __future__ import annotations

import numpy as np

from vla_align_ros.bench.so101.jit import jit
from vla_align_ros.bench.so101.joints import GRIPPER, JOINT_MAX_RAD, JOINT_MIN_RAD, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.skeleton import BODY_JOINT, BODY_PARENT, GRIPPER_BODY, Skeletons

GRAVITY_M_S2 = 9.81
_NUM_BODIES = len(BODY_PARENT)
_JAW_BODY = _NUM_BODIES - 1
_TURN_WEIGHT = 0.06  # m a rad: position goes before orientation
_DAMPING = 2e-5
_STEP_RAD = 0.25
_CLOSE_M = 1e-4


@jit
def body_poses(arms: Skeletons, row: int, angle_rad: FloatArray, pos: FloatArray, mat: FloatArray) -> None:
    """Fill pos (8, 3) and mat (8, 3, 3) with every body's pose on the table."""
    for body in range(_NUM_BODIES):
        parent, joint = BODY_PARENT[body], BODY_JOINT[body]
        c = np.cos(angle_rad[joint]) if joint >= 0 else 1.0
        s = np.sin(angle_rad[joint]) if joint >= 0 else 0.0
        for i in range(3):
            if parent < 0:
                pos[body, i] = arms.body_pos[row, body, i]
                x, y, z = (arms.body_mat[row, body, i, 0], arms.body_mat[row, body, i, 1], arms.body_mat[row, body, i, 2])
            else:
                pos[body, i] = pos[parent, i]
                x = y = z = 0.0
                for k in range(3):
                    along = mat[parent, i, k]
                    pos[body, i] += along * arms.body_pos[row, body, k]
                    x += along * arms.body_mat[row, body, k, 0]
                    y += along * arms.body_mat[row, body, k, 1]
                    z += along * arms.body_mat[row, body, k, 2]
            mat[body, i, 0], mat[body, i, 1], mat[body, i, 2] = c * x + s * y, c * y - s * x, z


@jit
def tip_of(arms: Skeletons, row: int, pos: FloatArray, mat: FloatArray, tip: FloatArray) -> None:
    """Fill tip (3,) with the grasp's middle."""
    for i in range(3):
        tip[i] = pos[GRIPPER_BODY, i]
        for k in range(3):
            tip[i] += mat[GRIPPER_BODY, i, k] * arms.tip_m[row, k]


@jit
def sag_rad(arms: Skeletons, row: int, pos: FloatArray, mat: FloatArray, sag: FloatArray) -> None:
    """Fill sag (6,) with how far above its angle each servo must aim, so that gravity does not pull it down."""
    for joint in range(NUM_JOINTS):
        first = joint + 1 if joint < GRIPPER else _JAW_BODY
        torque = 0.0
        for body in range(first, _NUM_BODIES if joint < GRIPPER else first + 1):
            x, y = pos[body, 0] - pos[first, 0], pos[body, 1] - pos[first, 1]
            for k in range(3):
                x += mat[body, 0, k] * arms.mass_pos[row, body, k]
                y += mat[body, 1, k] * arms.mass_pos[row, body, k]
            lever = mat[first, 0, 2] * y - mat[first, 1, 2] * x
            torque += GRAVITY_M_S2 * arms.mass_kg[row, body] * lever
        sag[joint] = torque / arms.servo_nm_per_rad[row]


@jit
def _solved(matrix: FloatArray, right: FloatArray) -> None:
    """A positive definite system, in place: the solution is left in `right`."""
    size = len(right)
    for pivot in range(size):
        for i in range(pivot + 1, size):
            factor = matrix[i, pivot] / matrix[pivot, pivot]
            for k in range(pivot, size):
                matrix[i, k] -= factor * matrix[pivot, k]
            right[i] -= factor * right[pivot]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            right[i] -= matrix[i, k] * right[k]
        right[i] /= matrix[i, i]


@jit
def solve_pose(
    arms: Skeletons, row: int, angle_rad: FloatArray, target: FloatArray, yaw: float, iterations: int
) -> float:
    """Move angle_rad (6,) in place towards: tip at `target` (3,), jaw pointing down, opening along `yaw`.

    By damped least squares, from where the angles are, within the joint limits; the gripper stays. Where a jaw cannot
    point straight down, it tilts. Returns the distance of the tip from the target in m.
    """
    pos, mat, tip = np.empty((_NUM_BODIES, 3)), np.empty((_NUM_BODIES, 3, 3)), np.empty(3)
    error, jacobian = np.empty(6), np.empty((6, GRIPPER))
    normal, step = np.empty((GRIPPER, GRIPPER)), np.empty(GRIPPER)
    stuck = np.zeros(GRIPPER, np.bool_)
    x_axis = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    distance = 0.0
    for _ in range(iterations):
        body_poses(arms, row, angle_rad, pos, mat)
        tip_of(arms, row, pos, mat, tip)
        distance = np.sqrt(np.sum((target - tip) ** 2))
        shorten = min(1.0, _STEP_RAD * 0.25 / max(distance, 1e-12))
        x, back = mat[GRIPPER_BODY, :, 0], mat[GRIPPER_BODY, :, 2]
        error[:3] = (target - tip) * shorten
        error[3:] = 0.5 * _TURN_WEIGHT * (np.cross(x, x_axis) + np.cross(back, np.array([0.0, 0.0, 1.0])))
        for joint in range(GRIPPER):
            axis = mat[joint + 1, :, 2]
            jacobian[:3, joint] = np.cross(axis, tip - pos[joint + 1])
            jacobian[3:, joint] = _TURN_WEIGHT * axis
        stuck[:] = False
        for _try in range(2):
            for i in range(GRIPPER):
                for k in range(GRIPPER):
                    normal[i, k] = np.sum(jacobian[:, i] * jacobian[:, k]) + (_DAMPING if i == k else 0.0)
                step[i] = np.sum(jacobian[:, i] * error)
            _solved(normal, step)
            again = False
            for i in range(GRIPPER):
                low, high = angle_rad[i] <= JOINT_MIN_RAD[i], angle_rad[i] >= JOINT_MAX_RAD[i]
                if not stuck[i] and ((low and step[i] < 0) or (high and step[i] > 0)):
                    stuck[i] = again = True
                    jacobian[:, i] = 0.0
            if not again:
                break
        for i in range(GRIPPER):
            moved = angle_rad[i] + min(max(step[i], -_STEP_RAD), _STEP_RAD)
            angle_rad[i] = min(max(moved, JOINT_MIN_RAD[i]), JOINT_MAX_RAD[i])
        if distance < _CLOSE_M and np.max(np.abs(step)) < 1e-3:
            break
    return distance


@jit
def _tips(arms: Skeletons, angle_rad: FloatArray, tips: FloatArray) -> None:
    pos, mat = np.empty((_NUM_BODIES, 3)), np.empty((_NUM_BODIES, 3, 3))
    for row in range(len(angle_rad)):
        body_poses(arms, row, angle_rad[row], pos, mat)
        tip_of(arms, row, pos, mat, tips[row])


def tips_m(arms: Skeletons, angle_rad: FloatArray) -> FloatArray:
    """Where the middle of each grasp is on its table, (n, 3), at true angles (n, 6)."""
    tips = np.empty((len(angle_rad), 3))
    _tips(arms, angle_rad, tips)
    return tips


@jit
def _sags(arms: Skeletons, angle_rad: FloatArray, sags: FloatArray) -> None:
    pos, mat = np.empty((_NUM_BODIES, 3)), np.empty((_NUM_BODIES, 3, 3))
    for row in range(len(angle_rad)):
        body_poses(arms, row, angle_rad[row], pos, mat)
        sag_rad(arms, row, pos, mat, sags[row])


def sags_rad(arms: Skeletons, angle_rad: FloatArray) -> FloatArray:
    """What each servo must add to its target, (n, 6), to rest at true angles (n, 6)."""
    sags = np.empty((len(angle_rad), NUM_JOINTS))
    _sags(arms, angle_rad, sags)
    return sags


