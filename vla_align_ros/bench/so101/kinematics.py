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
_STEP_RAD, _REACH_M = 0.25, 0.06  # at most, an iteration
_STILL_RAD, _CLOSE_M = 1e-3, 1e-4  # near enough to stop


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
                x, y, z = (
                    arms.body_mat[row, body, i, 0],
                    arms.body_mat[row, body, i, 1],
                    arms.body_mat[row, body, i, 2],
                )
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
def _task_error(mat: FloatArray, tip: FloatArray, target: FloatArray, yaw: float, error: FloatArray) -> float:
    """Fill error (6,): how far the tip has to go, in steps of at most _REACH_M, and the jaw to turn. Returns metres."""
    distance = np.sqrt((target[0] - tip[0]) ** 2 + (target[1] - tip[1]) ** 2 + (target[2] - tip[2]) ** 2)
    shorten = min(1.0, _REACH_M / max(distance, 1e-12))
    for i in range(3):
        error[i] = (target[i] - tip[i]) * shorten
    c, s, half = np.cos(yaw), np.sin(yaw), 0.5 * _TURN_WEIGHT
    x0, x1, x2 = mat[GRIPPER_BODY, 0, 0], mat[GRIPPER_BODY, 1, 0], mat[GRIPPER_BODY, 2, 0]
    back0, back1 = mat[GRIPPER_BODY, 0, 2], mat[GRIPPER_BODY, 1, 2]
    error[3] = half * (back1 - x2 * s)  # x cross (cos, sin, 0), and the jaw's back cross up
    error[4] = half * (x2 * c - back0)
    error[5] = half * (x0 * s - x1 * c)
    return float(distance)


@jit
def _jacobian(pos: FloatArray, mat: FloatArray, tip: FloatArray, jacobian: FloatArray) -> None:
    """Fill jacobian (6, 5): the tip's and, weighted, the jaw's motion by each joint of the arm."""
    for joint in range(GRIPPER):
        body = joint + 1
        ax, ay, az = mat[body, 0, 2], mat[body, 1, 2], mat[body, 2, 2]
        rx, ry, rz = tip[0] - pos[body, 0], tip[1] - pos[body, 1], tip[2] - pos[body, 2]
        jacobian[0, joint], jacobian[1, joint], jacobian[2, joint] = (
            ay * rz - az * ry,
            az * rx - ax * rz,
            ax * ry - ay * rx,
        )
        jacobian[3, joint], jacobian[4, joint], jacobian[5, joint] = (
            ax * _TURN_WEIGHT,
            ay * _TURN_WEIGHT,
            az * _TURN_WEIGHT,
        )


@jit
def _least_squares(jacobian: FloatArray, error: FloatArray, normal: FloatArray, step: FloatArray) -> None:
    """Fill step (5,) with the damped solution of jacobian @ step = error."""
    for i in range(GRIPPER):
        step[i] = 0.0
        for row in range(6):
            step[i] += jacobian[row, i] * error[row]
        for k in range(GRIPPER):
            normal[i, k] = _DAMPING if i == k else 0.0
            for row in range(6):
                normal[i, k] += jacobian[row, i] * jacobian[row, k]
    _solved(normal, step)


@jit
def _block(angle_rad: FloatArray, step: FloatArray, jacobian: FloatArray) -> bool:
    """Take joints that a step would push through their limits out of the jacobian. Returns whether there were any."""
    found = False
    for joint in range(GRIPPER):
        low, high = angle_rad[joint] <= JOINT_MIN_RAD[joint], angle_rad[joint] >= JOINT_MAX_RAD[joint]
        if (low and step[joint] < 0) or (high and step[joint] > 0):
            found = True
            for row in range(6):
                jacobian[row, joint] = 0.0
    return found


@jit
def solve_pose(
    arms: Skeletons, row: int, angle_rad: FloatArray, target: FloatArray, yaw: float, iterations: int
) -> float:
    """Move angle_rad (6,) in place towards: tip at `target` (3,), jaw pointing down, opening along `yaw`.

    By damped least squares, from where the angles are, within the joint limits; the gripper stays. Where a jaw cannot
    point straight down, it tilts. Returns the distance of the tip from the target before the last step, in m.
    """
    pos, mat, tip = np.empty((_NUM_BODIES, 3)), np.empty((_NUM_BODIES, 3, 3)), np.empty(3)
    error, jacobian = np.empty(6), np.empty((6, GRIPPER))
    normal, step = np.empty((GRIPPER, GRIPPER)), np.empty(GRIPPER)
    distance = 0.0
    for _ in range(iterations):
        body_poses(arms, row, angle_rad, pos, mat)
        tip_of(arms, row, pos, mat, tip)
        distance = _task_error(mat, tip, target, yaw, error)
        _jacobian(pos, mat, tip, jacobian)
        _least_squares(jacobian, error, normal, step)
        if _block(angle_rad, step, jacobian):
            _least_squares(jacobian, error, normal, step)
        longest = 0.0
        for joint in range(GRIPPER):
            longest = max(longest, abs(step[joint]))
            moved = angle_rad[joint] + min(max(step[joint], -_STEP_RAD), _STEP_RAD)
            angle_rad[joint] = min(max(moved, JOINT_MIN_RAD[joint]), JOINT_MAX_RAD[joint])
        if distance < _CLOSE_M and longest < _STILL_RAD:
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
def _places(arms: Skeletons, angle_rad: FloatArray, places: FloatArray) -> None:
    mat = np.empty((_NUM_BODIES, 3, 3))
    for row in range(len(angle_rad)):
        body_poses(arms, row, angle_rad[row], places[row], mat)


def places_m(arms: Skeletons, angle_rad: FloatArray) -> FloatArray:
    """Where each of BODIES is on its table, (n, 8, 3), at true angles (n, 6)."""
    places = np.empty((len(angle_rad), _NUM_BODIES, 3))
    _places(arms, angle_rad, places)
    return places


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
