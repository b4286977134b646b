"""What both cameras of n arms see, from states: drawn while an episode runs, or any number of times later."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.jit import jit
from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.kinematics import body_poses
from vla_align_ros.bench.so101.painter import Float32Array, Int32Array, raster, resolve, shade
from vla_align_ros.bench.so101.scene import CAMERAS, CUBES, HIDDEN_GROUP, PAD_THICK_M, PADS, nominal_model
from vla_align_ros.bench.so101.skeleton import CAMERA_BODY, BODIES, Skeletons
from vla_align_ros.bench.so101.state import State

SUPERSAMPLE = 2
BACKGROUND_RGB = np.array([200.0, 205.0, 210.0], np.float32)
LIGHT = np.array([0.35, -0.45, 0.82]) / np.linalg.norm([0.35, -0.45, 0.82])  # on the table, towards the lamp
_CARRIERS = (*BODIES, *(f"pad_{name}" for name in PADS), *(f"cube_{name}" for name in CUBES), "world")
_NUM_BODIES, _NUM_PADS, _NUM_CARRIERS = len(BODIES), len(PADS), len(_CARRIERS)
_NUM_CUBES, _NUM_CAMERAS = len(CUBES), len(CAMERAS)
_BOX_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_BOX_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


class Shapes(NamedTuple):
    """Everything that can be seen, in the frames of what carries it (places in _CARRIERS).

    geom_carrier (g,); geom_pos (g, 3), geom_mat (g, 3, 3). vertices (v, 3) in their geom's frame, vertex_geom (v,);
    faces (m, 3) and face_geom (m,), colours (m, 3). fixed_pad: the geom whose place differs between arms.
    """

    geom_carrier: NDArray[np.int64]
    geom_pos: FloatArray
    geom_mat: FloatArray
    vertices: FloatArray
    vertex_geom: NDArray[np.int64]
    faces: Int32Array
    face_geom: NDArray[np.int64]
    colours: Float32Array
    fixed_pad: int


@cache
def geom_names() -> tuple[str, ...]:
    """What `face_geom` counts: the geoms' names, those of their bodies where they have none."""
    model = nominal_model()
    return tuple(model.geom(g).name or model.body(int(model.geom_bodyid[g])).name for g in _seen_geoms())


@cache
def shapes() -> Shapes:
    """Of the nominal arm and its table."""
    model = nominal_model()
    vertices, vertex_geom, faces, face_geom, colours = [], [], [], [], []
    for place, geom in enumerate(_seen_geoms()):
        points, triangles = _geometry(model, geom)
        faces.append(triangles + sum(len(part) for part in vertices))
        vertices.append(points)
        vertex_geom.append(np.full(len(points), place))
        face_geom.append(np.full(len(triangles), place))
        colours.append(np.tile(model.geom_rgba[geom, :3] * 255, (len(triangles), 1)))
    seen = _seen_geoms()
    mat = np.empty((len(seen), 9))
    for place, geom in enumerate(seen):
        mujoco.mju_quat2Mat(mat[place], model.geom_quat[geom])
    return Shapes(
        np.array([_CARRIERS.index(model.body(int(model.geom_bodyid[geom])).name) for geom in seen]),
        model.geom_pos[seen],
        mat.reshape(-1, 3, 3),
        np.concatenate(vertices),
        np.concatenate(vertex_geom),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(face_geom),
        np.concatenate(colours).astype(np.float32),
        seen.index(model.geom("fixed_jaw_pad").id),
    )


def _seen_geoms() -> list[int]:
    model = nominal_model()
    return [geom for geom in range(model.ngeom) if model.geom_group[geom] != HIDDEN_GROUP]


def _geometry(model: mujoco.MjModel, geom: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Vertices (v, 3) and triangles (m, 3) of a mesh or a box."""
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX:
        triangles = [(side[0], *side[k : k + 2]) for side in _BOX_SIDES for k in (1, 2)]
        return _BOX_CORNERS * model.geom_size[geom], np.array(triangles)
    mesh = model.geom_dataid[geom]
    vertices = slice(model.mesh_vertadr[mesh], model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh])
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    return model.mesh_vert[vertices].astype(np.float64), model.mesh_face[faces].astype(np.int64)


@jit
def _box_pose(place: FloatArray, quat: FloatArray, row: int, cube: int, pos: FloatArray, mat: FloatArray, at: int) -> None:
    """Fill the pose of carrier `at` with that of a cube of table `row`."""
    w, x, y, z = quat[row, cube, 0], quat[row, cube, 1], quat[row, cube, 2], quat[row, cube, 3]
    mat[at, 0, 0], mat[at, 0, 1], mat[at, 0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    mat[at, 1, 0], mat[at, 1, 1], mat[at, 1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    mat[at, 2, 0], mat[at, 2, 1], mat[at, 2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    for i in range(3):
        pos[at, i] = place[row, cube, i]


@jit
def _carriers(
    arms: Skeletons, row: int, angle: FloatArray, cube: FloatArray, quat: FloatArray, pad: FloatArray,
    pos: FloatArray, mat: FloatArray,
) -> None:  # fmt: skip
    """Fill pos (c, 3), mat (c, 3, 3) with the poses of all _CARRIERS of one table."""
    body_poses(arms, row, angle[row], pos, mat)
    for at in range(_NUM_BODIES, _NUM_CARRIERS):
        for i in range(3):
            pos[at, i] = 0.0
            for k in range(3):
                mat[at, i, k] = 1.0 if i == k else 0.0
    for i in range(_NUM_PADS):
        pos[_NUM_BODIES + i, 0], pos[_NUM_BODIES + i, 1] = pad[row, i, 0], pad[row, i, 1]
        pos[_NUM_BODIES + i, 2] = PAD_THICK_M / 2
    for i in range(_NUM_CUBES):
        _box_pose(cube, quat, row, i, pos, mat, _NUM_BODIES + _NUM_PADS + i)


@jit
def _camera(
    arms: Skeletons, row: int, camera: int, carrier_pos: FloatArray, carrier_mat: FloatArray, pos: FloatArray,
    mat: FloatArray,
) -> None:  # fmt: skip
    """Fill pos (3,) and mat (3, 3) with a camera's pose on the table."""
    body = CAMERA_BODY[camera]
    for i in range(3):
        pos[i] = arms.camera_pos[row, camera, i]
        for j in range(3):
            mat[i, j] = arms.camera_mat[row, camera, i, j]
    if body >= 0:
        for i in range(3):
            pos[i] = carrier_pos[body, i]
            for j in range(3):
                pos[i] += carrier_mat[body, i, j] * arms.camera_pos[row, camera, j]
                mat[i, j] = 0.0
                for k in range(3):
                    mat[i, j] += carrier_mat[body, i, k] * arms.camera_mat[row, camera, k, j]


@jit
def _geom_in_camera(
    arms: Skeletons, row: int, shown: Shapes, geom: int, carrier_pos: FloatArray, carrier_mat: FloatArray,
    eye: FloatArray, axes: FloatArray, turn: FloatArray, shift: FloatArray,
) -> None:  # fmt: skip
    """Fill turn (3, 3) and shift (3,): from a geom's frame to the camera's."""
    carrier = shown.geom_carrier[geom]
    for i in range(3):
        shift[i] = 0.0
        for k in range(3):
            on_table = carrier_pos[carrier, k] - eye[k]
            for j in range(3):
                place = arms.fixed_pad_m[row, j] if geom == shown.fixed_pad else shown.geom_pos[geom, j]
                on_table += carrier_mat[carrier, k, j] * place
            shift[i] += axes[k, i] * on_table
        for j in range(3):
            turn[i, j] = 0.0
            for k in range(3):
                for m in range(3):
                    turn[i, j] += axes[m, i] * carrier_mat[carrier, m, k] * shown.geom_mat[geom, k, j]


@jit
def _into_camera(
    arms: Skeletons, row: int, shown: Shapes, carrier_pos: FloatArray, carrier_mat: FloatArray, eye: FloatArray,
    axes: FloatArray, points: Float32Array,
) -> None:  # fmt: skip
    """Fill points (v, 3) with all vertices in the camera's frame."""
    turn, shift = np.empty((3, 3)), np.empty(3)
    of = -1
    for vertex in range(len(points)):
        geom = shown.vertex_geom[vertex]
        if geom != of:
            of = geom
            _geom_in_camera(arms, row, shown, geom, carrier_pos, carrier_mat, eye, axes, turn, shift)
        x, y, z = shown.vertices[vertex, 0], shown.vertices[vertex, 1], shown.vertices[vertex, 2]
        for i in range(3):
            points[vertex, i] = turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z + shift[i]


@jit
def _draw(
    arms: Skeletons, shown: Shapes, angle: FloatArray, cube: FloatArray, quat: FloatArray, pad: FloatArray,
    light: FloatArray, background: Float32Array, nearest: Int32Array, images: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Fill images (n, cameras, size, size, 3); nearest (n, cameras, k size, k size) keeps the faces where n > 1."""
    fine = nearest.shape[-1]
    depth = np.empty((fine, fine), np.float32)
    pos, mat = np.empty((_NUM_CARRIERS, 3)), np.empty((_NUM_CARRIERS, 3, 3))
    eye, axes, seen_light = np.empty(3), np.empty((3, 3)), np.empty(3, np.float32)
    points, shaded = np.empty(shown.vertices.shape, np.float32), np.empty(shown.colours.shape, np.float32)
    for row in range(len(angle)):
        _carriers(arms, row, angle, cube, quat, pad, pos, mat)
        for camera in range(_NUM_CAMERAS):
            _camera(arms, row, camera, pos, mat, eye, axes)
            _into_camera(arms, row, shown, pos, mat, eye, axes, points)
            faces = nearest[row % len(nearest), camera]
            raster(points, shown.faces, arms.camera_focal[row, camera] * fine, depth, faces)
            for i in range(3):
                seen_light[i] = axes[0, i] * light[0] + axes[1, i] * light[1] + axes[2, i] * light[2]
            shade(points, shown.faces, shown.colours, seen_light, shaded)
            resolve(faces, shaded, background, arms.mirrored[row, camera], images[row, camera])


def draw(
    arms: Skeletons, state: State, size: int, supersample: int = SUPERSAMPLE, threads: int = 1
) -> NDArray[np.uint8]:
    """(n, cameras, size, size, 3) uint8 RGB of n arms (a row each) in n states; a pixel is a mean of supersample^2."""
    images = np.empty((len(state), _NUM_CAMERAS, size, size, 3), np.uint8)

    def work(rows: slice) -> None:
        nearest = np.empty((1, _NUM_CAMERAS, size * supersample, size * supersample), np.int32)
        _draw_part(arms, state, rows, nearest, images)

    step = max(1, -(-len(state) // threads))
    parts = [slice(first, first + step) for first in range(0, len(state), step)]
    if len(parts) < 2:
        for part in parts:
            work(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, parts))
    return images


def draw_geoms(arms: Skeletons, state: State, size: int) -> NDArray[np.int64]:
    """(n, cameras, size, size): which geom each pixel shows, a place in `geom_names()`; -1 where there is none."""
    nearest = np.empty((len(state), _NUM_CAMERAS, size, size), np.int32)
    images = np.empty((len(state), _NUM_CAMERAS, size, size, 3), np.uint8)
    _draw_part(arms, state, slice(None), nearest, images)
    geoms = np.where(nearest < 0, -1, shapes().face_geom[nearest])
    geoms[arms.mirrored] = geoms[arms.mirrored][..., ::-1]
    return geoms


def _draw_part(
    arms: Skeletons, state: State, rows: slice, nearest: Int32Array, images: NDArray[np.uint8]
) -> None:
    mine, seen = Skeletons(*(values[rows] for values in arms)), state[rows]
    _draw(
        mine, shapes(), seen.angle_rad, seen.cube_m, seen.cube_quat, seen.pad_m, LIGHT, BACKGROUND_RGB, nearest,
        images[rows],
    )  # fmt: skip
