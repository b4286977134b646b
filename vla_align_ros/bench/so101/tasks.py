"""Three tasks, the tables that they are set on, the prompts that name them, and when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import HOME_RAD, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.scene import CUBE_HALF_M, CUBES, PADS, PAN_AXIS_M
from vla_align_ros.bench.so101.state import State
from vla_align_ros.seeds import Stream, rng_of


class Task(IntEnum):
    """What is asked for."""

    REACH = 0  # hold the open jaw over the named cube
    PUSH = 1  # push it onto the named pad
    PICK = 2  # pick it up, place it on the named pad, let go


REACH_HEIGHT_M = 0.035  # of the tip over the cube's middle
REACH_WITHIN_M, PAD_WITHIN_M, RESTING_M, CLEAR_M = 0.02, 0.03, 0.021, 0.03
HOLD_S = 0.5  # that it must stay done
LIMIT_S = {Task.REACH: 5.0, Task.PUSH: 15.0, Task.PICK: 13.0}

TEMPLATES = {
    Task.REACH: ("reach the {cube} cube", "move over the {cube} cube", "go to the {cube} block"),
    Task.PUSH: ("push the {cube} cube onto the {pad} pad", "slide the {cube} block to the {pad} square"),
    Task.PICK: (
        "pick up the {cube} cube and place it on the {pad} pad",
        "put the {cube} block on the {pad} square",
    ),
}
_POSE_SPREAD_RAD = np.array([0.5, 0.15, 0.15, 0.15, 0.4, 0.3])
_NEAREST_M, _FARTHEST_M, _SIDEWAYS_RAD = 0.14, 0.235, 0.8  # where things lie, seen from the pan axis
_APART_M = np.array([[0.06, 0.065], [0.065, 0.08]])  # cubes and pads from cubes and pads
_CANDIDATES = 64
_LANE_M = 0.055  # a push needs this much free to both sides
_BEHIND_M = 0.05  # and this much behind the cube


@dataclass(frozen=True)
class Assignments:
    """What n arms are asked for: task (n,) values of Task; cube, pad (n,) places in CUBES and PADS; prompts."""

    task: NDArray[np.int64]
    cube: NDArray[np.int64]
    pad: NDArray[np.int64]
    prompts: tuple[str, ...]

    def __getitem__(self, rows: NDArray[np.int64]) -> Assignments:
        prompts = tuple(self.prompts[row] for row in rows)
        return Assignments(self.task[rows], self.cube[rows], self.pad[rows], prompts)


def assign(tasks: Sequence[Task], seeds: Sequence[int]) -> Assignments:
    """A cube, a pad and words for each arm, by its seed."""
    cubes, pads, prompts = [], [], []
    for task, seed in zip(tasks, seeds, strict=True):
        rng = rng_of(seed, Stream.ASSIGNMENT)
        cube, pad = int(rng.integers(len(CUBES))), int(rng.integers(len(PADS)))
        template = TEMPLATES[task][rng.integers(len(TEMPLATES[task]))]
        cubes.append(cube)
        pads.append(pad)
        prompts.append(template.format(cube=list(CUBES)[cube], pad=list(PADS)[pad]))
    return Assignments(np.array(tasks, np.int64), np.array(cubes), np.array(pads), tuple(prompts))


def start(embodiments: Sequence[Embodiment], asked: Assignments, seeds: Sequence[int]) -> State:
    """A table for each arm, by its seed: everything lies where the arm can take it, wherever its base stands."""
    angle, cube_m, quat, pad_m = [], [], [], []
    for row, (embodiment, seed) in enumerate(zip(embodiments, seeds, strict=True)):
        rng = rng_of(seed, Stream.TABLE)
        pan_axis = embodiment.base_position_m[:2] + np.array([PAN_AXIS_M, 0.0])
        points = _layout(rng, Task(asked.task[row]), int(asked.cube[row]), int(asked.pad[row]))
        yaw = rng.uniform(-np.pi, np.pi, len(CUBES))
        angle.append(HOME_RAD + rng.uniform(-1.0, 1.0, NUM_JOINTS) * _POSE_SPREAD_RAD)
        cubes = points[: len(CUBES)] + pan_axis
        cube_m.append(np.append(cubes, np.full((len(CUBES), 1), CUBE_HALF_M), axis=1))
        quat.append(np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], axis=1))
        pad_m.append(points[len(CUBES) :] + pan_axis)
    return State(np.stack(angle), np.stack(cube_m), np.stack(quat), np.stack(pad_m))


def _layout(rng: np.random.Generator, task: Task, cube: int, pad: int) -> FloatArray:
    """Cubes, then pads, (6, 2) from the pan axis: apart from each other, and a push finds its lane free."""
    kinds = np.repeat([0, 1], [len(CUBES), len(PADS)])
    asked = [cube, len(CUBES) + pad]
    order = [*asked, *(place for place in range(len(kinds)) if place not in asked)]
    while True:
        points = np.full((len(kinds), 2), np.nan)
        for count, place in enumerate(order):
            there = order[:count]
            candidates = _anywhere(rng)
            distance = np.linalg.norm(candidates[:, None] - points[there], axis=-1)
            free = (distance > _APART_M[kinds[place], kinds[there]]).all(axis=1)
            if task is Task.PUSH and place == asked[1]:
                free &= _reaches_behind(points[cube], candidates)
            elif task is Task.PUSH and count > 1 and kinds[place] == 0:
                free &= ~_in_the_lane(points[cube], points[asked[1]], candidates)
            if not free.any():
                break
            points[place] = candidates[free.argmax()]
        else:
            return points


def _anywhere(rng: np.random.Generator) -> FloatArray:
    """Places (_CANDIDATES, 2) where the arm works."""
    radius = rng.uniform(_NEAREST_M, _FARTHEST_M, _CANDIDATES)
    angle = rng.uniform(-_SIDEWAYS_RAD, _SIDEWAYS_RAD, _CANDIDATES)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _reaches_behind(cube: FloatArray, pads: FloatArray) -> NDArray[np.bool_]:
    """To which of the pads (k, 2) a cube can be pushed: the jaw reaches behind it."""
    along = (pads - cube) / np.linalg.norm(pads - cube, axis=1, keepdims=True)
    behind = np.linalg.norm(cube - _BEHIND_M * along, axis=1)
    return np.asarray((behind > _NEAREST_M - 0.02) & (behind < _FARTHEST_M + 0.02), np.bool_)


def _in_the_lane(cube: FloatArray, pad: FloatArray, others: FloatArray) -> NDArray[np.bool_]:
    """Which of the places (k, 2) are in the way of a push."""
    length = float(np.linalg.norm(pad - cube))
    along = (pad - cube) / length
    reach = (others - cube) @ along
    aside = np.abs((others - cube) @ np.array([-along[1], along[0]]))
    return np.asarray((reach > -_BEHIND_M - _LANE_M) & (reach < length + _LANE_M) & (aside < _LANE_M), np.bool_)


def done(asked: Assignments, state: State, tip_m: FloatArray) -> NDArray[np.bool_]:
    """Which of n arms have done at this moment what was asked for; tip_m (n, 3) from `kinematics.tips_m`."""
    rows = np.arange(len(state))
    cube = state.cube_m[rows, asked.cube]
    near = distance_m(asked, state, tip_m) < np.where(asked.task == Task.REACH, REACH_WITHIN_M, PAD_WITHIN_M)
    let_go = np.linalg.norm(tip_m - cube, axis=1) > CLEAR_M
    resting = (cube[:, 2] < RESTING_M) & (let_go | (asked.task == Task.PUSH))
    return np.asarray(near & (resting | (asked.task == Task.REACH)), np.bool_)


def distance_m(asked: Assignments, state: State, tip_m: FloatArray) -> FloatArray:
    """How far the tip is from where it is asked for, or the cube from its pad, (n,); tip_m as for `done`."""
    rows = np.arange(len(state))
    cube, pad = state.cube_m[rows, asked.cube], state.pad_m[rows, asked.pad]
    reach = np.linalg.norm(tip_m - cube - [0.0, 0.0, REACH_HEIGHT_M], axis=1)
    return np.asarray(np.where(asked.task == Task.REACH, reach, np.linalg.norm(cube[:, :2] - pad, axis=1)))
