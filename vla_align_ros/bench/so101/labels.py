"""What only the bench knows: where things are in the pictures, and what they look like a random motion later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.kinematics import places_m, tips_m
from vla_align_ros.bench.so101.pictures import draw, places_of, project
from vla_align_ros.bench.so101.recording import Recording, Rows
from vla_align_ros.bench.so101.scene import CAMERAS, CUBE_HALF_M
from vla_align_ros.bench.so101.skeleton import BODIES, Skeletons, rows_of, skeletons
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.tasks import Assignments, Task
from vla_align_ros.experience.source import Frames, Pairs
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Float32Array

ABSENT = -9.0
LIFTED_M = 2 * CUBE_HALF_M  # a cube's middle
PAIR_TICKS = 16  # of random motion between the two frames of a pair
_JOINTS = tuple(BODIES.index(name) for name in ("lower_arm", "wrist", "moving_jaw"))
_ARM_POINTS = 1 + len(_JOINTS)
_FRAMES_AN_ARM, _PAIRS_AN_ARM = 40, 8


def keypoints(arms: Skeletons, state: State) -> Float32Array:
    """Where tip, elbow, wrist, jaw, cubes and pads are in each camera's picture, (n, cameras, 10, 2) in picture widths;
    ABSENT for what is behind a camera, and for the arm where its camera is on it and shows none of it. A thing that
    another one hides counts as seen."""
    pads = np.append(state.pad_m, np.zeros((*state.pad_m.shape[:2], 1)), axis=-1)
    joints = places_m(arms, state.angle_rad)[:, _JOINTS]
    tip = tips_m(arms, state.angle_rad)[:, None]
    points, depth = project(arms, state.angle_rad, np.concatenate([tip, joints, state.cube_m, pads], axis=1))
    shown = depth > 0
    shown[:, places_of(["wrist"]), :_ARM_POINTS] = False
    return np.where(shown[..., None], points, ABSENT).astype(np.float32)


def prefix_cameras(cameras: Sequence[str]) -> tuple[int, ...]:
    """Place of the camera in whose picture each of `prefix_keypoints` is."""
    return tuple(place for place, name in enumerate(cameras) for _ in range(3 if name == "front" else 2))


def prefix_keypoints(arms: Skeletons, state: State, asked: Assignments, cameras: Sequence[str]) -> Float32Array:
    """(n, K, 2): the tip in the front picture, cube and goal in each camera's, all of them those that
    are asked for. The goal is the pad, or the cube where it shall be reached."""
    rows = np.arange(len(state))
    cube = state.cube_m[rows, asked.cube]
    pad = np.append(state.pad_m[rows, asked.pad], np.zeros((len(rows), 1)), axis=1)
    goal = np.where((asked.task == Task.REACH)[:, None], cube, pad)
    tip = tips_m(arms, state.angle_rad)
    points, _ = project(arms, state.angle_rad, np.stack([tip, cube, goal], axis=1))
    chosen = np.concatenate(
        [points[:, CAMERAS.index(camera), 0 if camera == "front" else 1 :] for camera in cameras], axis=1
    )
    return np.asarray(np.clip(chosen, -1.0, 2.0), np.float32)


def in_sight(arms: Skeletons, state: State, asked: Assignments, camera: str) -> NDArray[np.bool_]:
    """(n,): whether a camera's picture has what the expert goes by now: the cube; the pad, to push it, and once it is
    lifted. The end of a chunk that lifts a cube may go by a pad that is not in the picture yet."""
    points = prefix_keypoints(arms, state, asked, (camera,))[:, -2:]
    shown = np.asarray(((points >= 0.0) & (points <= 1.0)).all(axis=2), np.bool_)
    on_the_table = state.cube_m[np.arange(len(state)), asked.cube, 2] < LIFTED_M
    return np.asarray(shown[:, 0] & (shown[:, 1] | ((asked.task == Task.PICK) & on_the_table)), np.bool_)


def draw_frames(
    arms: Sequence[Embodiment], count: int, size: int, seed: int, cameras: Sequence[str] = CAMERAS
) -> Frames:
    """`count` frames, as many from each camera, of some of the arms at work. pose: sine and cosine of the joints' true
    angles, (N, 12)."""
    rng, rows = rng_of(seed, Stream.LABELLED_FRAMES), -(-count // len(cameras))
    recording, mine = _some_at_work(arms, -(-rows // _FRAMES_AN_ARM), list(Behaviour), rng)
    tick, row = _anywhere(recording, rows, 0, rng)
    bodies, state = rows_of(skeletons(mine), row), recording.state(tick, row)
    images, points = draw(bodies, state, size, cameras=cameras), keypoints(bodies, state)[:, places_of(cameras)]
    circle = np.concatenate([np.sin(state.angle_rad), np.cos(state.angle_rad)], axis=1).astype(np.float32)
    return Frames(
        images.reshape(-1, *images.shape[2:])[:count],
        points.reshape(-1, *points.shape[2:])[:count],
        circle.repeat(images.shape[1], axis=0)[:count],
    )


def draw_pairs(arms: Sequence[Embodiment], count: int, size: int, seed: int, cameras: Sequence[str] = CAMERAS) -> Pairs:
    """`count` pairs of some of the arms, PAIR_TICKS of random motion apart."""
    rng = rng_of(seed, Stream.PAIRS)
    recording, mine = _some_at_work(arms, -(-count // _PAIRS_AN_ARM), [Behaviour.BABBLE], rng)
    tick, row = _anywhere(recording, count, PAIR_TICKS, rng)
    bodies = rows_of(skeletons(mine), row)
    before, after = (draw(bodies, recording.state(at, row), size, cameras=cameras) for at in (tick, tick + PAIR_TICKS))
    return Pairs(before, after, recording.readings[tick + PAIR_TICKS, row] - recording.readings[tick, row])


def _some_at_work(
    arms: Sequence[Embodiment], count: int, behaviours: Sequence[Behaviour], rng: np.random.Generator
) -> tuple[Recording, list[Embodiment]]:
    """`count` episodes of any tasks, and whose they are."""
    mine, others = ([arms[place] for place in rng.integers(0, len(arms), count)] for _ in range(2))
    asked = [Task(value) for value in rng.integers(0, len(Task), count)]
    doing = [behaviours[place] for place in rng.integers(0, len(behaviours), count)]
    seeds = rng.integers(0, 2**31, count).tolist()
    return record(mine, asked, seeds, doing, others, ticks=4 * PAIR_TICKS), mine


def _anywhere(recording: Recording, count: int, ahead: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """`count` (tick, row) with `ahead` ticks after them."""
    ticks, rows = recording.commands.shape[:2]
    return rng.integers(0, ticks - ahead + 1, count), rng.integers(0, rows, count)
