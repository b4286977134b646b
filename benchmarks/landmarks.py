"""The rival that knows what shifted: a fit of the shifted parameters to landmarks in the pictures, by kinematics.

A board lies at a known place on the table, and five points of the arm are marked: what a hand-eye calibration has. A
detector finds each in each picture to DETECTED of its width, hidden ones too. The parameters that are said to have
shifted are fitted to all of a buffer's observations; of several starts (rolls, mirrored or not) the best goes on. The
gripper's zero, which no mark shows, is taken from its stop.

With them what the policy sees is made what the nominal robot would have seen (states in its numbers, pictures by a
homography of the table), and what it says is put into the shifted robot's commands. Heights above the table are seen a
little wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from vla_align_ros.bench.evaluate import Act
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.episodes import Episodes
from vla_align_ros.bench.so101.joints import DELTA, GRIPPER, FloatArray
from vla_align_ros.bench.so101.kinematics import places_m, tips_m
from vla_align_ros.bench.so101.pictures import project
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.skeleton import BODIES, Skeletons, rows_of, skeletons
from vla_align_ros.types import Experience, Observation, UInt8Array

DETECTED = 0.005  # standard deviation, in picture widths: half a pixel of 96
OBSERVATIONS = 48  # of a buffer, spread over it
MARKED = tuple(BODIES.index(name) for name in ("lower_arm", "wrist", "gripper", "moving_jaw"))
BOARD_M = np.array([[x, y, 0.0] for x in np.linspace(0.1, 0.32, 5) for y in np.linspace(-0.16, 0.16, 5)])
TABLE_M = np.array([[0.14, -0.12, 0.0], [0.30, -0.12, 0.0], [0.30, 0.12, 0.0], [0.14, 0.12, 0.0]])
NEAR_TIP_M = np.array([[-0.03, -0.03, 0.0], [0.03, -0.03, 0.0], [0.03, 0.03, 0.0], [-0.03, 0.03, 0.0]])
ROLLS_RAD = np.linspace(-np.pi, np.pi, 12, endpoint=False)
STARTS = {"wrist_roll_rad": ROLLS_RAD.tolist(), "wrist_mirrored": [False, True]}
# How far a number is expected to be off, weighed as much as one detection: a rad or a metre says nothing.
EXPECTED = 1.0
WIDTH = {"position_m": 0.05, "rotation_rad": 0.1, "tilt_rad": 0.1, "fov_rad": 0.08, "yaw_rad": 0.2}

Fields = Sequence[str]
CAMERA = ("front_position_m", "front_rotation_rad", "front_fov_rad")
WRIST = ("wrist_position_m", "wrist_tilt_rad", "wrist_roll_rad", "wrist_fov_rad", "wrist_mirrored")
BASE = ("base_position_m", "base_yaw_rad", "base_tilt_rad")
FORMULAS: dict[str, Fields] = {  # by family: the fields that somebody who knows what shifted would fit
    "camera": CAMERA,
    "wrist_camera": WRIST,
    "base": BASE,
    "zeros": ("zero_rad",),
    "pixels": (*CAMERA, *WRIST, *BASE),
}


def repeated(arm: Embodiment, count: int) -> Skeletons:
    """One arm in as many rows."""
    return rows_of(skeletons([arm]), np.zeros(count, np.int64))


def landmarks(arm: Embodiment, reading_rad: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Where the pictures of an arm with these readings (n, 6) have the landmarks, (n, C, K, 2) in picture widths, and
    which of them lie inside, (n, C, K)."""
    bodies, angle = repeated(arm, len(reading_rad)), arm.angle_of_reading(reading_rad)
    board = np.broadcast_to(BOARD_M, (len(angle), *BOARD_M.shape))
    marked = np.concatenate([places_m(bodies, angle)[:, MARKED], tips_m(bodies, angle)[:, None], board], axis=1)
    points, depth = project(bodies, angle, marked)
    return points, (depth > 0) & (points > 0).all(-1) & (points < 1).all(-1)


def detected(
    truth: Embodiment, observations: Sequence[Observation], cameras: Sequence[str], rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Readings (n, 6) of some of the observations, and what a detector finds in the pictures of some cameras."""
    chosen = np.unique(np.linspace(0, len(observations) - 1, OBSERVATIONS).round().astype(int))
    readings = np.stack([observations[place].state for place in chosen]).astype(np.float64)
    points, inside = landmarks(truth, readings)
    inside &= np.isin(CAMERAS, cameras)[:, None]
    return readings, points + DETECTED * rng.standard_normal(points.shape), inside


def fit(fields: Fields, readings: FloatArray, points: FloatArray, inside: NDArray[np.bool_]) -> Embodiment:
    """The embodiment, nominal but for `fields`, whose landmarks lie nearest to those that were detected."""
    numbers = [name for name in fields if name != "wrist_mirrored"]
    nominal = Embodiment()
    start = np.concatenate([np.atleast_1d(getattr(nominal, name)) for name in numbers])
    width = np.concatenate(
        [np.full(np.size(getattr(nominal, name)), WIDTH.get(name.split("_", 1)[1], EXPECTED)) for name in numbers]
    )

    def rest(values: FloatArray, mirrored: bool) -> FloatArray:
        found, _ = landmarks(with_numbers(numbers, values, mirrored), readings)
        off = np.where(inside[..., None], found - points, 0.0).clip(-2.0, 2.0) / DETECTED
        return np.append(off.ravel(), (values - start) / width)

    choices = {name: STARTS[name] for name in fields if name in STARTS}
    best: tuple[float, FloatArray, bool] | None = None
    for chosen in product(*choices.values()):
        values, mirrored = start.copy(), False
        for name, value in zip(choices, chosen, strict=True):
            if name == "wrist_mirrored":
                mirrored = bool(value)
            else:
                values[_place(numbers, name)] = value
        robust = float(np.log1p(rest(values, mirrored) ** 2).sum())
        if best is None or robust < best[0]:
            best = robust, values, mirrored
    assert best is not None
    found = least_squares(rest, best[1], x_scale=width, args=(best[2],), loss="soft_l1", f_scale=3.0, max_nfev=40)
    return with_numbers(numbers, found.x, best[2])


def with_numbers(names: Fields, values: FloatArray, mirrored: bool) -> Embodiment:
    """A nominal embodiment but for some fields, whose values stand in a row."""
    nominal, parts, place = Embodiment(), dict[str, Any](), 0
    for name in names:
        size = np.size(getattr(nominal, name))
        part = values[place : place + size]
        parts[name] = part if np.ndim(getattr(nominal, name)) else float(part[0])
        place += size
    return Embodiment(**parts, wrist_mirrored=mirrored)


def _place(names: Fields, wanted: str) -> int:
    nominal = Embodiment()
    return sum(np.size(getattr(nominal, name)) for name in names[: list(names).index(wanted)])


def hand_eye(
    family: str, truth: Embodiment, experiences: Sequence[Experience], cameras: Sequence[str], seed: int
) -> Embodiment:
    """What somebody who knows which family shifted makes of a buffer. truth: whose pictures these are. cameras: those
    that the robot has."""
    seen = [item.observation for item in experiences]
    found = fit(FORMULAS[family], *detected(truth, seen, cameras, np.random.default_rng([seed, 101])))
    if "zero_rad" in FORMULAS[family]:
        found = replace(found, zero_rad=np.append(found.zero_rad[:GRIPPER], truth.zero_rad[GRIPPER:]))
    return found


class Undone:
    """Makes of a known embodiment the nominal one, for a policy that has learned the nominal one."""

    def __init__(self, arm: Embodiment) -> None:
        self.arm = arm
        self._mine, self._nominal = skeletons([arm]), skeletons([Embodiment()])
        turn = self._mine.body_mat[0, 0] @ self._nominal.body_mat[0, 0].T
        self._turn, self._shift = turn, self._mine.body_pos[0, 0] - turn @ self._nominal.body_pos[0, 0]

    def observation(self, seen: Observation) -> Observation:
        """As the nominal robot would have seen it."""
        angle = self.arm.angle_of_reading(seen.state.astype(np.float64))
        images = {
            name: self._picture(seen.images[name], camera, angle)
            for camera, name in enumerate(CAMERAS)
            if name in seen.images
        }
        return replace(seen, images=images, state=Embodiment().reading(angle).astype(np.float32))

    def _picture(self, image: UInt8Array, camera: int, angle_rad: FloatArray) -> UInt8Array:
        around = TABLE_M
        if CAMERAS[camera] == "wrist":
            around = tips_m(self._mine, angle_rad[None])[0] * [1.0, 1.0, 0.0] + NEAR_TIP_M
        seen, depth = project(self._mine, angle_rad[None], around[None])
        wanted, nominal_depth = project(self._nominal, angle_rad[None], ((around - self._shift) @ self._turn)[None])
        if min(depth[0, camera].min(), nominal_depth[0, camera].min()) <= 0:
            return image
        size = image.shape[0]
        corners = [(points[0, camera] * size - 0.5).astype(np.float32) for points in (wanted, seen)]
        matrix = cv2.getPerspectiveTransform(*corners)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(
            cv2.warpPerspective(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
        )

    def commands(self, chunks: NDArray[np.floating], reading_rad: FloatArray) -> FloatArray:
        """Chunks (n, H, 6) for the nominal robot as this one must be sent them from its readings (n, 6)."""
        nominal, mine = (
            np.where(DELTA, each, 0.0)[:, None] for each in (self.arm.angle_of_reading(reading_rad), reading_rad)
        )
        return self.arm.command_for(chunks + nominal) - mine

    def around(self, act: Act) -> Act:
        """A policy between both."""

        def acting(going: Episodes, rows: NDArray[np.intp]) -> FloatArray:
            return self.commands(act(_Seen(going, self), rows), going.readings_rad())  # type: ignore[arg-type]

        return acting


class _Seen:
    """Episodes whose observations are the nominal robot's."""

    def __init__(self, going: Episodes, undone: Undone) -> None:
        self._going, self._undone = going, undone

    def observe(self) -> list[Observation]:
        """See `Episodes`."""
        return [self._undone.observation(seen) for seen in self._going.observe()]
