"""Pictures show what geometry says, and a shift of one camera changes that camera's picture alone."""

from dataclasses import replace

import numpy as np
import pytest
from so101_tables import drawn, table, tables

from vla_align_ros.bench.so101 import painter
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.pictures import draw, draw_geoms
from vla_align_ros.bench.so101.scene import CUBE_HALF_M, CUBES, FRONT_EYE_M
from vla_align_ros.bench.so101.shapes import geom_names
from vla_align_ros.bench.so101.skeleton import skeletons

FRONT, WRIST = 0, 1
SIZE = 96
NOMINAL = skeletons([Embodiment()])
ASIDE = np.array([1.9, -1.5, 1.5, 1.0, 0.0, 0.0])  # the arm out of the front camera's way


def projected(points_m: np.ndarray, size: int) -> np.ndarray:
    """Points (n, 3) on the table -> pixels (n, 2) of the nominal front camera, by its definition."""
    inside = (points_m - NOMINAL.camera_pos[0, FRONT]) @ NOMINAL.camera_mat[0, FRONT]
    focal = NOMINAL.camera_focal[0, FRONT] * size
    return size / 2 + focal * np.stack([inside[:, 0], -inside[:, 1]], axis=1) / -inside[:, 2:]


def distance_inside(corners: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """How far pixels (m, 2) lie inside the convex hull of corners (n, 2), in px; negative outside."""
    best = np.full(len(pixels), np.inf)
    for a in range(len(corners)):
        for b in range(len(corners)):
            edge = corners[b] - corners[a]
            normal = np.array([-edge[1], edge[0]]) / (np.linalg.norm(edge) + 1e-12)
            if a != b and ((corners - corners[a]) @ normal >= -1e-9).all():
                best = np.minimum(best, (pixels - corners[a]) @ normal)
    return best


def corners_of(cube_m: np.ndarray, yaw: float) -> np.ndarray:
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * CUBE_HALF_M
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    return cube_m + signs @ turn.T


@pytest.mark.parametrize("seed", range(4))
def test_a_cube_covers_the_pixels_that_its_projection_covers(seed):
    state = table(ASIDE, seed)
    geoms = draw_geoms(NOMINAL, state, SIZE)[0, FRONT]
    centres = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), axis=-1).reshape(-1, 2)
    for cube, name in enumerate(CUBES):
        w, _, _, z = state.cube_quat[0, cube]
        corners = projected(corners_of(state.cube_m[0, cube], 2 * np.arctan2(z, w)), SIZE)
        inside = distance_inside(corners, centres).reshape(SIZE, SIZE)
        mask = geoms == geom_names().index(f"cube_{name}")
        assert mask.sum() > 10
        assert not (mask & (inside < -1e-3)).any()
        hidden = (inside > 1e-3) & ~mask
        before_it = {geom_names().index(f"cube_{other}") for other in CUBES if other != name}
        assert set(geoms[hidden]) <= before_it


def test_what_is_nearer_hides_what_is_behind():
    state = table(ASIDE)
    toward = (FRONT_EYE_M - state.cube_m[0, 0]) / np.linalg.norm(FRONT_EYE_M - state.cube_m[0, 0])
    cube_m = state.cube_m.copy()
    cube_m[0, 1] = cube_m[0, 0] + 0.06 * toward
    seen = draw_geoms(NOMINAL, replace(state, cube_m=cube_m), SIZE)[0, FRONT]
    x, y = projected(cube_m[0, :1], SIZE)[0].astype(int)
    assert geom_names()[seen[y, x]] == "cube_green"
    cube_m[0, 1] = cube_m[0, 0] - 0.06 * toward
    seen = draw_geoms(NOMINAL, replace(state, cube_m=cube_m), SIZE)[0, FRONT]
    assert geom_names()[seen[y, x]] == "cube_red"


def test_a_face_that_reaches_behind_the_camera_is_cut_and_drawn():
    floor = np.array([[-9, -1, 9], [9, -1, 9], [0, -1, -900]], np.float32)  # a metre below, from behind to far ahead
    nearest, depth = np.empty((8, 8), np.int32), np.empty((8, 8), np.float32)
    painter.raster(floor, np.array([[0, 1, 2]], np.int32), 8.0, depth, nearest)
    assert (nearest[:4] == painter.NOTHING).all()
    assert (nearest[5:] == 0).all()
    painter.raster(floor, np.array([[0, 2, 1]], np.int32), 8.0, depth, nearest)  # seen from its back
    assert (nearest == painter.NOTHING).all()


@pytest.mark.parametrize(("roll", "turns"), [(np.pi / 2, 1), (np.pi, 2), (-np.pi / 2, 3)])
def test_wrist_roll_turns_the_wrist_picture_and_nothing_else(roll, turns):
    state = table()
    upright, rolled = (draw(skeletons([Embodiment(wrist_roll_rad=angle)]), state, 64)[0] for angle in (0.0, roll))
    np.testing.assert_array_equal(upright[FRONT], rolled[FRONT])
    turned = np.rot90(upright[WRIST], -turns)  # a camera that turns left sees the world turn right
    assert (np.abs(turned.astype(int) - rolled[WRIST]).max(axis=-1) > 2).mean() < 0.01  # edges through pixel centres


def test_a_mirrored_wrist_camera_mirrors():
    plain, mirrored = (draw(skeletons([Embodiment(wrist_mirrored=flag)]), table(), 64)[0] for flag in (False, True))
    np.testing.assert_array_equal(plain[FRONT], mirrored[FRONT])
    np.testing.assert_array_equal(plain[WRIST][:, ::-1], mirrored[WRIST])


@pytest.mark.parametrize(
    ("shift", "changed"),
    [
        ({"front_position_m": np.array([0.0, 0.03, 0.0])}, {FRONT}),
        ({"front_rotation_rad": np.array([0.0, 0.05, 0.0])}, {FRONT}),
        ({"front_fov_rad": 0.05}, {FRONT}),
        ({"wrist_position_m": np.array([0.0, 0.01, 0.0])}, {WRIST}),
        ({"wrist_tilt_rad": np.array([0.1, 0.0])}, {WRIST}),
        ({"wrist_fov_rad": 0.1}, {WRIST}),
        ({"base_yaw_rad": 0.2}, {FRONT, WRIST}),
        ({"tool_m": 0.02}, {FRONT, WRIST}),
        ({"zero_rad": np.full(6, 0.1), "sign": -np.ones(6), "stiffness": 0.5, "delay_s": 0.1}, set()),
        ({"payload_kg": 0.1, "backlash_rad": 0.02, "encoder_noise_rad": 0.01, "command_scale": np.full(6, 1.1)}, set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_at_the_same_true_pose_a_shift_changes_these_pictures_alone(shift, changed):
    plain, shifted = (draw(skeletons([arm]), table(), 64)[0] for arm in (Embodiment(), Embodiment(**shift)))
    assert {camera for camera in (FRONT, WRIST) if (plain[camera] != shifted[camera]).any()} == changed


def test_a_picture_is_the_same_in_any_batch_and_with_threads():
    arms, state = skeletons(drawn(7)), tables(7)
    images = draw(arms, state, 64)
    np.testing.assert_array_equal(draw(arms, state, 64, threads=3), images)
    one = np.array([4])
    np.testing.assert_array_equal(draw(skeletons([drawn(7)[4]]), state[one], 64)[0], images[4])


def test_finer_sampling_smooths_edges_and_keeps_the_mean():
    coarse, fine = (draw(NOMINAL, table(), 64, supersample).astype(float) for supersample in (1, 4))
    assert np.abs(coarse - fine).max() > 30
    np.testing.assert_allclose(coarse.mean((2, 3)), fine.mean((2, 3)), atol=1.5)


def test_the_wrist_camera_sees_none_of_the_arm_and_the_front_camera_does():
    table_top = {name for name in geom_names() if name.startswith(("cube_", "pad_"))} | {"table"}
    bodies = skeletons([Embodiment()] * 8)
    seen = draw_geoms(bodies, tables(8), SIZE)
    of_camera = [np.unique(seen[:, camera]) for camera in (FRONT, WRIST)]
    front, wrist = ({geom_names()[geom] for geom in geoms if geom >= 0} for geoms in of_camera)
    assert wrist <= table_top
    assert wrist & table_top
    assert front - table_top
