"""Three tasks, the tables that they are set on, the prompts that name them, and when they are done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import HOME_RAD, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.scene import CUBE_HALF_M, CUBES, PAN_AXIS_M, PADS
from vla_align_ros.bench.so101.state import State


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
_CUBES_APART_M, _PADS_APART_M, _CUBE_TO_PAD_M = 0.06, 0.08, 0.065
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
        rng = np.random.default_rng([seed, 43])
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
        rng = np.random.default_rng([seed, 47])
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
    """Cubes, then pads, (6, 2) from the pan axis: drawn until they are apart and a push finds its lane free."""
    while True:
        radius = rng.uniform(_NEAREST_M, _FARTHEST_M, len(CUBES) + len(PADS))
        angle = rng.uniform(-_SIDEWAYS_RAD, _SIDEWAYS_RAD, len(radius))
        points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        cubes, pads = points[: len(CUBES)], points[len(CUBES) :]
        apart = (
            _closest(cubes, cubes) > _CUBES_APART_M
            and _closest(pads, pads) > _PADS_APART_M
            and _closest(cubes, pads) > _CUBE_TO_PAD_M
        )
        if apart and (task is not Task.PUSH or _lane_free(cubes, cube, pads[pad])):
            return points


def _closest(first: FloatArray, second: FloatArray) -> float:
    """The smallest distance between points of two sets (or two different points of one)."""
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return float(distance[distance > 0].min())


def _lane_free(cubes: FloatArray, cube: int, pad: FloatArray) -> bool:
    """Whether the arm reaches behind the cube, and no other cube is in the way to the pad."""
    along = (pad - cubes[cube]) / np.linalg.norm(pad - cubes[cube])
    behind = cubes[cube] - _BEHIND_M * along
    others = np.delete(cubes, cube, axis=0) - behind
    reach = others @ along
    aside = np.abs(others @ np.array([-along[1], along[0]]))
    length = np.linalg.norm(pad - behind) + _BEHIND_M
    in_the_way = (reach > -_LANE_M) & (reach < length) & (aside < _LANE_M)
    return bool(_NEAREST_M - 0.02 < np.linalg.norm(behind) < _FARTHEST_M + 0.02 and not in_the_way.any())


def done(asked: Assignments, state: State, tip_m: FloatArray) -> NDArray[np.bool_]:
    """Which of n arms have done at this moment what was asked for; tip_m (n, 3) from `kinematics.tips_m`."""
    rows = np.arange(len(state))
    cube, pad = state.cube_m[rows, asked.cube], state.pad_m[rows, asked.pad]
    over = np.linalg.norm(tip_m - cube - [0.0, 0.0, REACH_HEIGHT_M], axis=1) < REACH_WITHIN_M
    on_pad = (np.linalg.norm(cube[:, :2] - pad, axis=1) < PAD_WITHIN_M) & (cube[:, 2] < RESTING_M)
    let_go = np.linalg.norm(tip_m - cube, axis=1) > CLEAR_M
    return np.where(asked.task == Task.REACH, over, on_pad & (let_go | (asked.task == Task.PUSH)))
