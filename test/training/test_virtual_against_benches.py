"""Virtual robots of a bench's unshifted arm against the bench's own arms with that shift."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_align_ros.bench.reach2 import bench as reach2
from vla_align_ros.bench.reach2 import camera, task
from vla_align_ros.bench.reach2.arm import encoder_reading, move_chunk
from vla_align_ros.bench.reach2.embodiment import unshifted
from vla_align_ros.bench.so101 import tasks
from vla_align_ros.bench.so101.bench import BENCH
from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import DELTA, GRIPPER, JOINT_MAX_RAD, JOINT_MIN_RAD, NUM_JOINTS
from vla_align_ros.bench.so101.labels import prefix_cameras, prefix_keypoints
from vla_align_ros.bench.so101.pictures import draw
from vla_align_ros.bench.so101.recording import Recording, Samples, draw_samples
from vla_align_ros.bench.so101.scene import FRONT_FOV_RAD, WRIST_FOV_RAD
from vla_align_ros.bench.so101.skeleton import skeletons
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.bench.so101.worlds import World
from vla_align_ros.observation.resize import letterbox
from vla_align_ros.observation.view import View
from vla_align_ros.training.virtual_parameters import Parameters, virtual_robot

JOINTS, CAMERAS = list(BENCH.robot.joints), list(BENCH.robot.cameras)
NOMINAL = Embodiment(encoder_noise_rad=0.0)
SIZE, TICKS, HORIZON = 64, 12, 4
FIELDS_OF_VIEW = {"front": FRONT_FOV_RAD, "wrist": WRIST_FOV_RAD}
ASKED = [Task.REACH, Task.PICK, Task.REACH]
DOING = [Behaviour.EXPERT, Behaviour.EXPERT, Behaviour.BABBLE]


def recorded(arm: Embodiment) -> Recording:
    """What an arm does: the same in true angles, whatever its calibration."""
    recording = record([arm] * 3, ASKED, [1, 2, 3], DOING, [arm] * 3, TICKS)
    return replace(recording, arm=np.zeros(3, np.int64))


def samples(arm: Embodiment, recording: Recording, size: int = SIZE) -> Samples:
    """Of an arm, as if it had done what was recorded."""
    tick, row = np.array([0, 2, 5, 7, 8]), np.array([0, 1, 2, 0, 1])
    return draw_samples(recording, [arm], skeletons([arm]), tick, row, HORIZON, size)


@pytest.fixture(scope="module")
def nominal() -> Recording:
    return recorded(NOMINAL)


six = st.lists(st.floats(-1, 1), min_size=NUM_JOINTS, max_size=NUM_JOINTS).map(np.array)


@settings(max_examples=6)
@given(six, six, six, st.lists(st.booleans(), min_size=NUM_JOINTS, max_size=NUM_JOINTS))
def test_a_calibration_is_exact_in_state_commands_and_what_is_imitated_and_changes_no_picture(
    nominal: Recording, zero: np.ndarray, scale: np.ndarray, command: np.ndarray, turned: list[bool]
) -> None:
    arm = replace(
        NOMINAL,
        zero_rad=0.3 * zero,
        scale=1 + 0.2 * scale,
        command_scale=1 + 0.2 * command,
        sign=np.where(turned, -1.0, 1.0),
    )
    shift = Parameters(
        joint_zeros_rad=dict(zip(JOINTS, arm.zero_rad, strict=True)),
        joint_scales=dict(zip(JOINTS, arm.scale, strict=True)),
        joint_flips=tuple(name for name, flips in zip(JOINTS, turned, strict=True) if flips),
        command_scales=dict(zip(JOINTS, arm.command_scale, strict=True)),
    )
    made = virtual_robot(BENCH.robot, shift, {})
    virtual, real = samples(NOMINAL, nominal), samples(arm, recorded(arm))
    np.testing.assert_allclose(made.state(virtual.readings), real.readings, atol=1e-5)
    for one, other in ((virtual.commands, real.commands), (virtual.actions, real.actions)):
        for row, state in enumerate(virtual.readings):
            told = made.commanded(one[row] - DELTA * state, state, HORIZON)
            np.testing.assert_allclose(told, other[row] - DELTA * real.readings[row], atol=1e-5)
    for one, other in ((virtual.images, real.images), (virtual.next_images, real.next_images)):
        assert np.abs(one.astype(int) - other).mean() < 0.01


def test_a_gripper_range_is_a_zero_and_a_scale_of_the_gripper() -> None:
    low, high = BENCH.robot.state[GRIPPER].range or (0.0, 0.0)
    made = virtual_robot(BENCH.robot, Parameters(gripper_range={JOINTS[GRIPPER]: (0.05, -0.1)}), {})
    scale = np.ones(NUM_JOINTS)
    scale[GRIPPER] = 1 / 0.85
    arm = replace(
        NOMINAL, scale=scale, zero_rad=np.eye(NUM_JOINTS)[GRIPPER] * (low - (low + 0.05 * (high - low)) / 0.85)
    )
    angles = np.random.default_rng(0).uniform(JOINT_MIN_RAD, JOINT_MAX_RAD, (20, NUM_JOINTS))
    np.testing.assert_allclose(made.state(angles), arm.reading(angles), atol=1e-9)
    np.testing.assert_allclose(made.commands(angles), arm.command_for(angles), atol=1e-9)


ROLLED: dict[str, tuple[str, dict[str, Any], Parameters, View]] = {
    "rolled a little": ("wrist", {"wrist_roll_rad": 0.4}, Parameters(camera_roll_rad={"wrist": 0.4}), View(circle=0.5)),
    "rolled far": ("wrist", {"wrist_roll_rad": -2.5}, Parameters(camera_roll_rad={"wrist": -2.5}), View(circle=0.5)),
    "rolled and mirrored": (
        "wrist",
        {"wrist_roll_rad": 1.0, "wrist_mirrored": True},
        Parameters(camera_roll_rad={"wrist": 1.0}, camera_mirrors=("wrist",)),
        View(circle=0.5),
    ),
    "tilted and rolled": (
        "wrist",
        {"wrist_tilt_rad": np.array([0.1, -0.12]), "wrist_roll_rad": 2.0},
        Parameters(camera_roll_rad={"wrist": 2.0}, camera_tilt_rad={"wrist": (0.1, -0.12)}),
        View(circle=0.39),
    ),
    "another lens": (
        "wrist",
        {"wrist_fov_rad": 0.1},
        Parameters(camera_zoom={"wrist": math.tan(WRIST_FOV_RAD / 2) / math.tan((WRIST_FOV_RAD + 0.1) / 2)}),
        View(square=0.45),
    ),
    "turned on its stand": (
        "front",
        {"front_rotation_rad": np.array([0.05, -0.06, 0.0])},
        Parameters(camera_tilt_rad={"front": (0.05, -0.06)}),
        View(square=0.4),
    ),
}


@pytest.mark.parametrize("case", ROLLED)
def test_a_picture_is_what_the_shifted_camera_sees_within_the_view(nominal: Recording, case: str) -> None:
    name, changes, shift, view = ROLLED[case]
    made, arm, at = virtual_robot(BENCH.robot, shift, FIELDS_OF_VIEW), replace(NOMINAL, **changes), CAMERAS.index(name)
    for images in ("images", "next_images"):
        large, unshifted_one, real = (
            getattr(samples(one, nominal, size), images)[:, at]
            for one, size in ((NOMINAL, 2 * SIZE), (NOMINAL, SIZE), (arm, SIZE))
        )
        virtual = np.stack([letterbox(made.cameras[name].picture(image), SIZE) for image in large])
        off, without = (
            np.abs(view.shown(one).astype(int) - view.shown(real)).mean() for one in (virtual, unshifted_one)
        )
        assert off < 1.5, f"{off:.2f} grey levels"
        assert without > 2.0 * off, f"{without:.2f} without"


@settings(max_examples=5)
@given(st.floats(-math.pi, math.pi), st.booleans(), st.floats(-0.1, 0.1))
def test_points_go_where_the_shifted_camera_sees_them(
    nominal: Recording, roll: float, mirrored: bool, tilt: float
) -> None:
    arm = replace(NOMINAL, wrist_roll_rad=roll, wrist_mirrored=mirrored, wrist_tilt_rad=np.array([tilt, -tilt]))
    shift = Parameters(
        camera_roll_rad={"wrist": roll},
        camera_tilt_rad={"wrist": (tilt, -tilt)},
        camera_mirrors=("wrist",) if mirrored else (),
    )
    made, rows = virtual_robot(BENCH.robot, shift, FIELDS_OF_VIEW), np.array([0, 1, 2])
    state = nominal.state(np.array([4, 4, 4]), rows)
    before, after = (prefix_keypoints(skeletons([one] * 3), state, nominal.asked, CAMERAS) for one in (NOMINAL, arm))
    for place, at in enumerate(prefix_cameras(CAMERAS)):
        seen = (np.abs(before[:, place] - 0.5) < 0.5).all(1) & (np.abs(after[:, place] - 0.5) < 0.5).all(1)
        moved = made.cameras[CAMERAS[at]].points(before[seen, place])
        np.testing.assert_allclose(moved, after[seen, place], atol=1e-4)


def test_a_delay_of_whole_ticks_is_exact() -> None:
    asked = tasks.assign([Task.REACH], [5])
    start, rng = tasks.start([NOMINAL], asked, [5]), np.random.default_rng(1)
    real, late = (World(replace(NOMINAL, delay_s=delay), start, np.random.default_rng(0)) for delay in (0.0, 0.2))
    ticks, delay_ticks = 9, 3  # 0.2 s at 15 Hz
    commands = real.standing_command() + np.cumsum(rng.uniform(-0.08, 0.08, (ticks + delay_ticks, NUM_JOINTS)), axis=0)
    commands[:delay_ticks] = real.standing_command()
    made = virtual_robot(BENCH.robot, Parameters(delay_ticks=delay_ticks), {})
    reads = NOMINAL.reading(start.angle_rad[0]).astype(np.float32)
    told = made.commanded((commands - DELTA * reads).astype(np.float32), reads, ticks) + DELTA * reads
    for tick in range(ticks):
        for world, sent in ((real, commands[tick]), (late, told[tick])):
            world.command(sent.astype(np.float64))
            world.advance(round((tick + 1) / 15 / 0.004) - world.now)
        np.testing.assert_allclose(late.reading(), real.reading(), atol=1e-5)
    assert np.abs(real.reading() - commands[0]).max() > 0.1


def test_the_two_joint_arm_with_zeros_gears_delay_and_a_turned_wrist_camera() -> None:
    count, size, rng = 6, 64, np.random.default_rng(0)
    arms, yaw, gain = unshifted(count), 0.9, np.array([-0.7, 1.3])
    arms = replace(arms, wrist_shift_m=np.zeros((count, 2)))
    shifted = replace(
        arms,
        offset_rad=np.tile([0.2, -0.4], (count, 1)),
        gain=np.tile(gain, (count, 1)),
        delay_s=np.full(count, 0.1),
        wrist_yaw_rad=np.full(count, yaw),
    )
    scene, pose = task.sample_scene(count, rng), task.sample_pose(count, rng)
    sent = rng.uniform(-1, 1, (count, 5, 2))  # the delay is one tick: the first one acted before
    after = move_chunk(arms, pose, sent[:, 1:], sent[:, 0])
    shift = Parameters(
        joint_zeros_rad={"shoulder": 0.2, "elbow": -0.4},
        command_scales={"shoulder": 0.7, "elbow": 1.3},
        command_flips=("shoulder",),
        camera_roll_rad={"left_wrist_0_rgb": yaw},
    )
    made = virtual_robot(reach2.BENCH.robot, shift, {})
    early = made.commands(sent)  # of a virtual robot without delay
    late = move_chunk(shifted, pose, early[:, 1:], early[:, 0])
    undelayed = move_chunk(replace(shifted, delay_s=np.zeros(count)), pose, early[:, :-1], 0 * early[:, 0])
    np.testing.assert_allclose(late, move_chunk(arms, pose, sent[:, :-1], 0 * sent[:, 0]), atol=1e-9)
    np.testing.assert_allclose(undelayed, late, atol=1e-9)
    told = np.stack(
        [replace(made, delay_ticks=1).commanded(row.astype(np.float32), np.zeros(2, np.float32), 4) for row in sent]
    )
    np.testing.assert_allclose(told, early[:, 1:], atol=1e-6)
    np.testing.assert_allclose(made.state(encoder_reading(arms, after)), encoder_reading(shifted, after), atol=1e-9)
    large, real = camera.draw(arms, pose, scene, 2 * size)[:, 1], camera.draw(shifted, pose, scene, size)[:, 1]
    virtual = np.stack([letterbox(made.cameras["left_wrist_0_rgb"].picture(image), size) for image in large])
    view = View(circle=0.5)
    assert np.abs(view.shown(virtual).astype(int) - view.shown(real)).mean() < 2.0


def test_a_camera_that_moves_is_a_guess_only(nominal: Recording) -> None:
    """Nothing but a bench's own arms has the parallax of a moved camera."""
    state: State = nominal.state(np.array([4]), np.array([1]))
    moved = replace(NOMINAL, front_position_m=np.array([0.04, 0.03, 0.0]))
    large, real = draw(skeletons([NOMINAL]), state, 2 * SIZE)[0, 0], draw(skeletons([moved]), state, SIZE)[0, 0]
    view, best = View(square=0.35), math.inf
    for right in np.linspace(-0.15, 0.15, 13):
        for down in np.linspace(-0.15, 0.15, 13):
            made = virtual_robot(BENCH.robot, Parameters(camera_shifts={"front": (right, down)}), {})
            virtual = letterbox(made.cameras["front"].picture(large), SIZE)
            best = min(best, float(np.abs(view.shown(virtual).astype(int) - view.shown(real)).mean()))
    assert 2.0 < best < 20.0
