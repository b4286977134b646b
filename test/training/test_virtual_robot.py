"""The map of one virtual robot: it composes, has an inverse, and says what a robot with that shift would say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.observation.resize import area
from vla_align_ros.robot.description import ActionField, Joint, RobotDescription, StateField
from vla_align_ros.training.virtual_parameters import Parameters, virtual_robot
from vla_align_ros.training.virtual_robot import VirtualRobot, with_delay
from vla_align_ros.types import Experience, Observation

NAMES, CAMERAS = ("pan", "lift", "grip"), ("front", "wrist")
ROBOT = a_robot(
    ["position", "delta_position", "velocity"],
    NAMES,
    [Joint((-2, 2), 1.0), Joint((-2, 2), 1.0), Joint((-0.2, 1.8), 1.0, may_be_blocked=True)],
    cameras={camera: f"{camera}/image_raw" for camera in CAMERAS},
)
rng = np.random.default_rng(0)
PICTURES = {camera: rng.integers(0, 256, (16, 16, 3), np.uint8) for camera in CAMERAS}


def numbers(least: float, most: float) -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from(NAMES), st.floats(least, most))


def for_cameras(least: float, most: float) -> st.SearchStrategy[dict[str, float]]:
    return st.dictionaries(st.sampled_from(CAMERAS), st.floats(least, most))


parameters = st.builds(
    Parameters,
    joint_zeros_rad=numbers(-1, 1),
    joint_scales=numbers(0.5, 2),
    joint_flips=st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    gripper_range=st.just({}) | st.tuples(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3)).map(lambda ends: {"grip": ends}),
    command_scales=numbers(0.5, 2),
    command_flips=st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    delay_ticks=st.integers(0, 3),
    camera_roll_rad=for_cameras(-math.pi, math.pi),
    camera_zoom=for_cameras(0.5, 2),
    camera_mirrors=st.lists(st.sampled_from(CAMERAS), unique=True).map(tuple),
    camera_swap=st.just(()) | st.just(CAMERAS),
)
virtual_robots = st.builds(lambda shift: virtual_robot(ROBOT, shift, {}), parameters)
vectors = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


def same(one: VirtualRobot, other: VirtualRobot) -> None:
    vector = np.array([0.3, -0.7, 1.1])
    np.testing.assert_allclose(one.state(vector), other.state(vector), atol=1e-9)
    np.testing.assert_allclose(one.commands(vector), other.commands(vector), atol=1e-9)
    assert one.delay_ticks == other.delay_ticks
    assert {name: item.camera for name, item in one.cameras.items()} == {
        name: item.camera for name, item in other.cameras.items()
    }
    for name, item in one.cameras.items():
        np.testing.assert_allclose(item.to_real, other.cameras[name].to_real, atol=1e-9)


@given(virtual_robots, virtual_robots, virtual_robots)
def test_maps_compose_in_any_grouping_and_undo_each_other(a: VirtualRobot, b: VirtualRobot, c: VirtualRobot) -> None:
    same(a.then(b).then(c), a.then(b.then(c)))
    nothing = virtual_robot(ROBOT, Parameters(), {})
    same(a.then(a.inverse()), nothing)
    same(a.inverse().then(a), nothing)
    same(a.then(b).inverse(), b.inverse().then(a.inverse()))


@given(virtual_robots, virtual_robots, vectors)
def test_then_is_one_after_the_other(a: VirtualRobot, b: VirtualRobot, vector: np.ndarray) -> None:
    both = a.then(b)
    np.testing.assert_allclose(both.state(vector), b.state(a.state(vector)), atol=1e-9)
    np.testing.assert_allclose(both.commands(vector), b.commands(a.commands(vector)), atol=1e-9)
    sent = np.arange(30, dtype=np.float32).reshape(10, 3)
    state = vector.astype(np.float32)
    told = b.commanded(a.commanded(sent, state, 10), a.state(state).astype(np.float32), 4)
    np.testing.assert_allclose(both.commanded(sent, state, 4), told, atol=1e-3)


def picture(shift: Parameters, camera: str = "wrist") -> np.ndarray:
    mounted = virtual_robot(ROBOT, shift, {}).cameras[camera]
    return mounted.picture(PICTURES[mounted.camera])


def test_mirrors_quarter_turns_and_swaps_are_exact_to_the_bit() -> None:
    wrist = PICTURES["wrist"]
    np.testing.assert_array_equal(picture(Parameters()), wrist)
    np.testing.assert_array_equal(picture(Parameters(camera_mirrors=("wrist",))), wrist[:, ::-1])
    turned = picture(
        Parameters(camera_roll_rad={"wrist": math.pi / 2})
    )  # counter-clockwise: what it sees goes clockwise
    np.testing.assert_array_equal(turned, np.rot90(wrist, -1))
    both = Parameters(camera_roll_rad={"wrist": math.pi / 2}, camera_mirrors=("wrist",), camera_swap=CAMERAS)
    np.testing.assert_array_equal(picture(both, "front"), np.rot90(wrist, -1)[:, ::-1])
    np.testing.assert_array_equal(picture(both, "wrist"), PICTURES["front"])


def test_a_shift_in_whole_pixels_and_a_zoom_of_two_are_what_they_say() -> None:
    moved = picture(Parameters(camera_shifts={"wrist": (2 / 16, 1 / 16)}))
    np.testing.assert_array_equal(moved[1:, 2:], PICTURES["wrist"][:-1, :-2])
    one = virtual_robot(ROBOT, Parameters(camera_zoom={"wrist": 2.0}), {}).cameras["wrist"]
    np.testing.assert_allclose(one.points(np.array([[0.6, 0.45]])), [[0.7, 0.4]])


@given(parameters)
def test_a_point_goes_where_its_pixel_goes(shift: Parameters) -> None:
    mounted = virtual_robot(ROBOT, shift, {}).cameras["wrist"]
    inside = np.array([[0.5, 0.5], [0.4, 0.55]])
    dot = np.zeros((64, 64, 3), np.uint8)
    for point in inside:
        dot[:] = 0
        x, y = (point * 64).astype(int)
        dot[y - 2 : y + 3, x - 2 : x + 3] = 255
        seen = np.argwhere(mounted.picture(dot)[..., 0] > 128) + 0.5
        np.testing.assert_allclose(seen.mean(0)[::-1] / 64, mounted.points((np.array([x, y]) + 0.5) / 64), atol=0.02)


def test_zeros_move_positions_alone_and_scales_all_that_is_measured_in_them() -> None:
    robot = RobotDescription(
        joints={"arm": Joint((-2, 2), 1.0)},
        state=tuple(StateField(joint="arm", name=entry, entry=entry) for entry in ("position", "velocity", "effort")),
        action=(ActionField(joint="arm", kind="position"),),
        cameras={"front": "front/image_raw"},
        control_rate_hz=10.0,
        execute=1,
    )
    made = virtual_robot(robot, Parameters({"arm": 0.5}, {"arm": 1.1}, ("arm",), command_scales={"arm": 2.0}), {})
    np.testing.assert_allclose(made.state(np.array([1.0, 2.0, 3.0])), [-1.1 + 0.5, -2.2, -3.0])
    np.testing.assert_allclose(made.commands(np.array([1.0])), [-1.1 / 2 + 0.5])


def test_each_kind_of_command_is_told_in_the_numbers_of_the_readings() -> None:
    shift = Parameters(joint_zeros_rad=dict.fromkeys(NAMES, 0.5), joint_flips=NAMES, command_scales={"lift": 2.0})
    made = virtual_robot(ROBOT, shift, {})
    np.testing.assert_allclose(made.state(np.ones(3)), [-0.5] * 3)
    sent = made.commanded(np.ones((1, 3), np.float32), np.full(3, 0.4, np.float32), 1)
    reads = -0.4 + 0.5  # a change of 1 from 0.4 is to 1.4, which it is sent as half of that
    np.testing.assert_allclose(sent, [[-0.5, -0.7 + 0.5 - reads, -1.0]], atol=1e-6)


def test_a_gripper_reads_its_range_between_its_own_ends() -> None:
    made = virtual_robot(ROBOT, Parameters(gripper_range={"grip": (0.1, -0.2)}), {})
    np.testing.assert_allclose(made.state(np.array([0, 0, -0.2 + 0.1 * 2.0]))[2], -0.2)
    np.testing.assert_allclose(made.state(np.array([0, 0, 1.8 - 0.2 * 2.0]))[2], 1.8)
    percent = StateField(joint="grip", unit="percent", range=(0.0, 1.0))
    robot = a_robot("position", NAMES, list(ROBOT.joints.values()), state=(*ROBOT.state[:2], percent))
    made = virtual_robot(robot, Parameters(gripper_range={"grip": (0.1, -0.2)}), {})
    np.testing.assert_allclose(robot.state_scale.to_model(made.state(np.array([0, 0, 0.1])))[2], 0.0, atol=1e-9)
    np.testing.assert_allclose(robot.state_scale.to_model(made.state(np.array([0, 0, 0.8])))[2], 100.0)


def test_another_order_of_joints_is_one_in_state_and_commands() -> None:
    robot = a_robot("position", NAMES)
    made = virtual_robot(robot, Parameters(joint_order=("lift", "grip", "pan")), {})
    np.testing.assert_array_equal(made.state(np.array([1, 2, 3])), [2, 3, 1])
    np.testing.assert_array_equal(made.commands(np.array([1, 2, 3])), [2, 3, 1])


def worked(ticks: int, horizon: int, stride: int, robot: RobotDescription) -> list[Experience]:
    """One episode: the goal of each joint at tick t is t, its position half of that."""
    found = []
    for tick in range(0, ticks - horizon + 1, stride):
        state = np.full(3, tick / 2, np.float32)
        goals = np.arange(tick, tick + horizon, dtype=np.float32)[:, None].repeat(3, 1)
        goals[:, robot.kinds == "delta_position"] -= tick / 2
        before, after = (Observation({}, state, "", 7_000 + at * robot.period_ns) for at in (tick, tick + horizon))
        found.append(Experience(before, goals, after, 0))
    return found


@pytest.mark.parametrize("ticks", [1, 3, 5])
def test_a_delay_takes_what_was_sent_later_from_later_experience(ticks: int) -> None:
    items = worked(24, 6, 3, ROBOT)
    known = with_delay(items, ROBOT, ticks)
    assert len(known) == sum(start + 6 + ticks <= 24 for start in range(0, 19, 3))
    made = virtual_robot(ROBOT, Parameters(delay_ticks=ticks), {})
    for item, start in zip(known, range(0, 19, 3), strict=False):
        told = made.experience(item, 6, {}, None, area)
        np.testing.assert_allclose(told.commands[:, 0], np.arange(start, start + 6) + ticks)
        np.testing.assert_allclose(told.commands[:, 1], np.arange(start, start + 6) + ticks - start / 2)
        assert told.next_observation.stamp_ns == item.next_observation.stamp_ns
    assert with_delay(items, ROBOT, 0) == items


def test_the_same_parameters_have_the_same_digest() -> None:
    assert Parameters({"pan": 0.1}).digest == Parameters({"pan": 0.1}).digest != Parameters({"pan": 0.2}).digest
