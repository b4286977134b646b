"""What only a bench knows: where things are in its images, and what they look like a random motion later."""

from __future__ import annotations

import numpy as np

from vla_align_ros.action.exploration import motion
from vla_align_ros.bench.reach2 import camera, task
from vla_align_ros.bench.reach2.arm import EXPLORATION_RAD_S, encoder_reading, forward_kinematics, move_chunk
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray, sample_embodiments
from vla_align_ros.experience.source import Frames, Pairs
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of
from vla_align_ros.types import Float32Array

NUM_KEYPOINTS = 3 + len(task.COLOURS)  # tip, elbow, base, and the target of each colour
POINT_CAMERAS = (0, 0, 0, 1)  # of `prefix_keypoints`
ABSENT = -9.0
PAIR_TICKS = 8  # of random motion between the two frames of a pair


def keypoints(arms: Embodiments, angle_rad: FloatArray, scene: camera.Scene) -> Float32Array:
    """Where things are in each camera's image, (n, cameras, 7, 2) in image widths; ABSENT for a colour not on the
    table.
    """
    elbow, tip = forward_kinematics(arms.link_m, angle_rad)
    joints = camera.at_height(np.stack([tip, elbow, np.zeros_like(tip)], axis=1), camera.ARM_HEIGHT_M)
    points = np.full((len(arms), len(camera.CAMERAS), NUM_KEYPOINTS, 2), ABSENT, np.float32)
    rows = np.arange(len(arms))
    for index, view in enumerate(camera.views(arms, angle_rad).values()):
        points[:, index, :3] = view.project(joints)[0]
        targets, _ = view.project(camera.at_height(scene.targets_m, 0.0))
        for target in range(scene.colours.shape[1]):
            points[rows, index, 3 + scene.colours[:, target]] = targets[:, target]
    return points


def prefix_keypoints(arms: Embodiments, angle_rad: FloatArray, scene: camera.Scene) -> Float32Array:
    """(n, 4, 2): in the first camera the target that is asked for, tip, elbow; in the second the target."""
    points = keypoints(arms, angle_rad, scene)
    everyone, asked = np.arange(len(arms)), 3 + scene.colours[:, 0]
    chosen = [points[everyone, 0, asked], points[:, 0, 0], points[:, 0, 1], points[everyone, 1, asked]]
    clipped: Float32Array = np.clip(np.stack(chosen, axis=1), -1.0, 2.0).astype(np.float32)
    return clipped


def draw_frames(count: int, size: int, seed: int) -> Frames:
    """`count` frames, half from each camera, of many arms and tables. pose: sine and cosine of the joints' true
    angles, (N, 4)."""
    rng = rng_of(seed, Stream.LABELLED_FRAMES)
    rows = (count + 1) // 2
    arms = sample_embodiments(rows, seed_of(seed, Part.LABELLED_ARMS))
    scene = task.sample_scene(rows, rng)
    pose = task.training_pose(arms, scene, rng)
    images = camera.draw(arms, pose, scene, size)
    points = keypoints(arms, pose, scene)
    circle = np.concatenate([np.sin(pose), np.cos(pose)], axis=1).astype(np.float32)
    cameras = len(camera.CAMERAS)
    return Frames(
        images.reshape(-1, *images.shape[2:])[:count],
        points.reshape(-1, *points.shape[2:])[:count],
        circle.repeat(cameras, axis=0)[:count],
    )


def draw_pairs(count: int, size: int, arms_seed: int, rng: np.random.Generator) -> Pairs:
    """`count` pairs of many arms, tables and poses, PAIR_TICKS of random motion apart."""
    arms = sample_embodiments(count, arms_seed)
    scene = task.sample_scene(count, rng)
    pose = task.training_pose(arms, scene, rng)
    moved = move_chunk(arms, pose, motion(count, PAIR_TICKS, rng, EXPLORATION_RAD_S), np.zeros((count, 2)))
    before, after = (camera.draw(arms, angles, scene, size) for angles in (pose, moved))
    return Pairs(before, after, (encoder_reading(arms, moved) - encoder_reading(arms, pose)).astype(np.float32))


def training_pairs(count: int, size: int, seed: int) -> Pairs:
    """Pairs to pretrain an eye on."""
    return draw_pairs(count, size, seed_of(seed, Part.LABELLED_ARMS), rng_of(seed, Stream.PAIRS))


def probe_pairs(count: int, size: int, seed: int) -> Pairs:
    """Pairs of other arms, to ask what its features tell of the motion."""
    return draw_pairs(count, size, seed_of(seed, Part.PROBE_ARMS), rng_of(seed, Stream.PROBE_PAIRS))
