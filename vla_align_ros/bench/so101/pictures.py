"""What both cameras of n arms see, from states: drawn while an episode runs, or any number of times later.

The wrist camera is drawn as one that sees none of the arm. Where it has the jaws in its picture, a single picture tells
how it is mounted, and a policy hardly needs an alignment for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.jit import jit
from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.kinematics import body_poses
from vla_align_ros.bench.so101.painter import NEAR_M, Float32Array, Int32Array, raster, resolve, shade
from vla_align_ros.bench.so101.scene import CAMERAS, CUBES, PAD_THICK_M, PADS
from vla_align_ros.bench.so101.shapes import CARRIERS, Shapes, shapes
from vla_align_ros.bench.so101.skeleton import BODIES, CAMERA_BODY, Skeletons, rows_of
from vla_align_ros.bench.so101.state import State

SUPERSAMPLE = 2
BACKGROUND_RGB = np.array([200.0, 205.0, 210.0], np.float32)
LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])  # on the table, towards the lamp
_NUM_BODIES, _NUM_PADS, _NUM_CUBES, _NUM_CARRIERS = len(BODIES), len(PADS), len(CUBES), len(CARRIERS)
_NUM_CAMERAS = len(CAMERAS)


class _Tables(NamedTuple):
    """The arrays of a State."""

    angle: FloatArray
    cube: FloatArray
    quat: FloatArray
    pad: FloatArray


class _Poses(NamedTuple):
    """Room for one table: pos (c, 3), mat (c, 3, 3) of all CARRIERS; eye (3,), axes (3, 3) of one camera."""

    pos: FloatArray
    mat: FloatArray
    eye: FloatArray
    axes: FloatArray


@jit
def _place_things(tables: _Tables, row: int, pos: FloatArray, mat: FloatArray) -> None:
    """Fill in the poses of pads, cubes and the world of one table."""
    for at in range(_NUM_BODIES, _NUM_CARRIERS):
        for i in range(3):
            pos[at, i] = 0.0
            for k in range(3):
                mat[at, i, k] = 1.0 if i == k else 0.0
    for pad in range(_NUM_PADS):
        at = _NUM_BODIES + pad
        pos[at, 0], pos[at, 1], pos[at, 2] = tables.pad[row, pad, 0], tables.pad[row, pad, 1], PAD_THICK_M / 2
    for cube in range(_NUM_CUBES):
        at = _NUM_BODIES + _NUM_PADS + cube
        w, x = tables.quat[row, cube, 0], tables.quat[row, cube, 1]
        y, z = tables.quat[row, cube, 2], tables.quat[row, cube, 3]
        mat[at, 0, 0], mat[at, 0, 1], mat[at, 0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
        mat[at, 1, 0], mat[at, 1, 1], mat[at, 1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
        mat[at, 2, 0], mat[at, 2, 1], mat[at, 2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
        for i in range(3):
            pos[at, i] = tables.cube[row, cube, i]


@jit
def _place_camera(arms: Skeletons, row: int, camera: int, poses: _Poses) -> None:
    """Fill in eye and axes."""
    body = CAMERA_BODY[camera]
    for i in range(3):
        poses.eye[i] = arms.camera_pos[row, camera, i] if body < 0 else poses.pos[body, i]
        for j in range(3):
            if body < 0:
                poses.axes[i, j] = arms.camera_mat[row, camera, i, j]
            else:
                poses.eye[i] += poses.mat[body, i, j] * arms.camera_pos[row, camera, j]
                poses.axes[i, j] = 0.0
                for k in range(3):
                    poses.axes[i, j] += poses.mat[body, i, k] * arms.camera_mat[row, camera, k, j]


@jit
def _geom_in_camera(
    arms: Skeletons, row: int, shown: Shapes, geom: int, poses: _Poses, turn: FloatArray, shift: FloatArray
) -> None:
    """Fill turn (3, 3) and shift (3,): from a geom's frame to the camera's."""
    carrier = shown.geom_carrier[geom]
    for i in range(3):
        shift[i] = 0.0
        for k in range(3):
            on_table = poses.pos[carrier, k] - poses.eye[k]
            for j in range(3):
                place = arms.fixed_pad_m[row, j] if geom == shown.fixed_pad else shown.geom_pos[geom, j]
                on_table += poses.mat[carrier, k, j] * place
            shift[i] += poses.axes[k, i] * on_table
        for j in range(3):
            turn[i, j] = 0.0
            for k in range(3):
                for m in range(3):
                    turn[i, j] += poses.axes[m, i] * poses.mat[carrier, m, k] * shown.geom_mat[geom, k, j]


@jit
def _into_camera(arms: Skeletons, row: int, camera: int, shown: Shapes, poses: _Poses, points: Float32Array) -> None:
    """Fill points (v, 3) with all vertices in the camera's frame; those that it does not see are behind it."""
    turn, shift = np.empty((3, 3)), np.empty(3)
    of, hidden = -1, False
    for vertex in range(len(points)):
        geom = shown.vertex_geom[vertex]
        if geom != of:
            of, hidden = geom, CAMERA_BODY[camera] >= 0 and shown.geom_carrier[geom] < _NUM_BODIES
            _geom_in_camera(arms, row, shown, geom, poses, turn, shift)
        if hidden:
            points[vertex, 0], points[vertex, 1], points[vertex, 2] = 0.0, 0.0, 1.0
            continue
        x, y, z = shown.vertices[vertex, 0], shown.vertices[vertex, 1], shown.vertices[vertex, 2]
        for i in range(3):
            points[vertex, i] = turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z + shift[i]


@jit
def _draw(
    arms: Skeletons,
    shown: Shapes,
    tables: _Tables,
    cameras: NDArray[np.int64],
    nearest: Int32Array,
    images: NDArray[np.uint8],
) -> None:
    """Fill images (n, k, size, size, 3) of cameras (k,); nearest (1 or n, k, m size, m size): the last or all faces."""
    fine = nearest.shape[-1]
    depth = np.empty((fine, fine), np.float32)
    poses = _Poses(np.empty((_NUM_CARRIERS, 3)), np.empty((_NUM_CARRIERS, 3, 3)), np.empty(3), np.empty((3, 3)))
    points, shaded = np.empty(shown.vertices.shape, np.float32), np.empty(shown.colours.shape, np.float32)
    light = np.empty(3, np.float32)
    for row in range(len(images)):
        body_poses(arms, row, tables.angle[row], poses.pos, poses.mat)
        _place_things(tables, row, poses.pos, poses.mat)
        for place, camera in enumerate(cameras):
            _place_camera(arms, row, camera, poses)
            _into_camera(arms, row, camera, shown, poses, points)
            for i in range(3):
                light[i] = poses.axes[0, i] * LIGHT[0] + poses.axes[1, i] * LIGHT[1] + poses.axes[2, i] * LIGHT[2]
            faces = nearest[row % len(nearest), place]
            raster(points, shown.faces, arms.camera_focal[row, camera] * fine, depth, faces)
            shade(points, shown.faces, shown.colours, light, shaded)
            resolve(faces, shaded, BACKGROUND_RGB, arms.mirrored[row, camera], images[row, place])


@jit
def _camera_poses(arms: Skeletons, angle_rad: FloatArray, eyes: FloatArray, axes: FloatArray) -> None:
    poses = _Poses(np.empty((_NUM_CARRIERS, 3)), np.empty((_NUM_CARRIERS, 3, 3)), np.empty(3), np.empty((3, 3)))
    for row in range(len(angle_rad)):
        body_poses(arms, row, angle_rad[row], poses.pos, poses.mat)
        for camera in range(_NUM_CAMERAS):
            _place_camera(arms, row, camera, poses)
            eyes[row, camera] = poses.eye
            axes[row, camera] = poses.axes


def camera_poses(arms: Skeletons, angle_rad: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where each camera of n arms is at true angles (n, 6): eyes (n, cameras, 3), and axes (n, cameras, 3, 3): columns
    right, up, backwards."""
    eyes, axes = np.empty((len(angle_rad), _NUM_CAMERAS, 3)), np.empty((len(angle_rad), _NUM_CAMERAS, 3, 3))
    _camera_poses(arms, angle_rad, eyes, axes)
    return eyes, axes


def project(arms: Skeletons, angle_rad: FloatArray, points_m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points (n, k, 3) on the tables of n arms at true angles (n, 6) -> where each camera's picture has them,
    (n, cameras, k, 2) in picture widths from its top left, and how far before the camera they are, (n, cameras, k) m.

    What is nearer than NEAR_M, or behind, is placed as if it were NEAR_M away.
    """
    eyes, axes = camera_poses(arms, angle_rad)
    inside = np.einsum("nckj,ncji->ncki", points_m[:, None] - eyes[:, :, None], axes)
    depth = -inside[..., 2]
    zoom = arms.camera_focal[:, :, None] / np.maximum(depth, NEAR_M)
    across = inside[..., 0] * zoom * np.where(arms.mirrored, -1.0, 1.0)[:, :, None]
    return np.stack([0.5 + across, 0.5 - inside[..., 1] * zoom], axis=-1), depth


def draw(
    arms: Skeletons,
    state: State,
    size: int,
    supersample: int = SUPERSAMPLE,
    threads: int = 1,
    cameras: Sequence[str] = CAMERAS,
) -> NDArray[np.uint8]:
    """(n, cameras, size, size, 3) uint8 RGB of n arms (a row each) in n states; a pixel is a mean of supersample^2."""
    images = np.empty((len(state), len(cameras), size, size, 3), np.uint8)
    which = places_of(cameras)

    def work(rows: slice) -> None:
        nearest = np.empty((1, len(cameras), size * supersample, size * supersample), np.int32)
        _draw_part(arms, state, rows, which, nearest, images)

    step = max(1, -(-len(state) // threads))
    parts = [slice(first, first + step) for first in range(0, len(state), step)]
    if len(parts) < 2:
        for part in parts:
            work(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    return images


def places_of(cameras: Sequence[str]) -> NDArray[np.int64]:
    """Where cameras stand in CAMERAS."""
    return np.array([CAMERAS.index(camera) for camera in cameras], np.int64)


def draw_geoms(arms: Skeletons, state: State, size: int) -> NDArray[np.int64]:
    """(n, cameras, size, size): which geom each pixel shows, a place in `geom_names()`; -1 where there is none."""
    nearest = np.empty((len(state), _NUM_CAMERAS, size, size), np.int32)
    images = np.empty((len(state), _NUM_CAMERAS, size, size, 3), np.uint8)
    _draw_part(arms, state, slice(None), places_of(CAMERAS), nearest, images)
    geoms = np.where(nearest < 0, -1, shapes().face_geom[nearest])
    geoms[arms.mirrored] = geoms[arms.mirrored][..., ::-1]
    return geoms


def _draw_part(
    arms: Skeletons,
    state: State,
    rows: slice,
    cameras: NDArray[np.int64],
    nearest: Int32Array,
    images: NDArray[np.uint8],
) -> None:
    seen = state[rows]
    tables = _Tables(seen.angle_rad, seen.cube_m, seen.cube_quat, seen.pad_m)
    _draw(rows_of(arms, rows), shapes(), tables, cameras, nearest, images[rows])
