"""What can be seen of an arm and its table: vertices and faces, and what carries them. The same for all arms."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.joints import FloatArray
from vla_align_ros.bench.so101.painter import Float32Array, Int32Array
from vla_align_ros.bench.so101.scene import CUBES, HIDDEN_GROUP, PADS, nominal_model
from vla_align_ros.bench.so101.skeleton import BODIES

CARRIERS = (*BODIES, *(f"pad_{name}" for name in PADS), *(f"cube_{name}" for name in CUBES), "world")
_BOX_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
_BOX_SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))


class Shapes(NamedTuple):
    """Everything that can be seen, in the frames of what carries it (places in CARRIERS).

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
    vertices, vertex_geom, faces = list[FloatArray](), list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    face_geom, colours = list[NDArray[np.int64]](), list[FloatArray]()
    for place, geom in enumerate(_seen_geoms()):
        points, triangles = _geometry(model, geom)
        faces.append(triangles + sum(map(len, vertices)))
        vertices.append(points)
        vertex_geom.append(np.full(len(points), place))
        face_geom.append(np.full(len(triangles), place))
        colours.append(np.tile(model.geom_rgba[geom, :3] * 255, (len(triangles), 1)))
    seen = _seen_geoms()
    mat = np.empty((len(seen), 9))
    for place, geom in enumerate(seen):
        mujoco.mju_quat2Mat(mat[place], model.geom_quat[geom])
    return Shapes(
        np.array([CARRIERS.index(model.body(int(model.geom_bodyid[geom])).name) for geom in seen]),
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
