"""What a `robot:` may say, what its numbers mean, and what is refused with which sentence."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.robot.units import line

ROBOTS = Path(__file__).parents[2] / "config" / "robots"
EXAMPLES = sorted(ROBOTS.glob("*.yaml"))


def raw(name: str = "so101") -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load((ROBOTS / f"{name}.yaml").read_text()))


def described(value: dict[str, Any]) -> RobotDescription:
    return TypeAdapter(RobotDescription).validate_python(value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_whole_description(path: Path) -> None:
    robot = described(yaml.safe_load(path.read_text()))
    grouped = [joint for group in robot.command_groups for joint in group.joints]
    assert sorted(grouped) == sorted(robot.action_joints)
    assert len(robot.position_columns) == len(robot.action)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@given(data=st.data())
def test_the_way_to_the_model_and_back_changes_nothing(path: Path, data: st.DataObject) -> None:
    robot = described(yaml.safe_load(path.read_text()))
    numbers = st.floats(-10, 10, width=32)
    state = np.array(data.draw(st.lists(numbers, min_size=len(robot.state), max_size=len(robot.state))))
    actions = np.array(data.draw(st.lists(numbers, min_size=len(robot.action), max_size=len(robot.action))))
    assert np.allclose(robot.state_scale.to_ros(robot.state_scale.to_model(state)), state, atol=1e-9)
    assert np.allclose(robot.action_scale.to_ros(robot.action_scale.to_model(actions)), actions, atol=1e-9)


def test_so101_speaks_degrees_and_percent() -> None:
    robot = described(raw())
    assert np.allclose(robot.state_scale.to_ros(np.array([90.0, 0, 0, 0, 0, 100.0])), [math.pi / 2, 0, 0, 0, 0, 1.745])
    assert np.allclose(robot.state_scale.to_model(np.array([0.0, 0, 0, 0, 0, -0.175])), np.zeros(6))


def test_only_a_position_has_an_offset() -> None:
    spoken = {"unit": "degrees", "scale": -1.0}
    value = raw() | {"execute": 1}
    value["action"][0] |= spoken | {"offset": 0.5}
    value["action"][1] |= spoken | {"offset": 0.5, "kind": "delta_position"}
    value["action"][2] |= spoken | {"kind": "velocity"}
    value["action"][5] |= {"kind": "velocity"}
    value["state"].append(value["state"][5] | {"name": "gripper.vel", "entry": "velocity"})
    robot, numbers = described(value), np.array([180.0, 180.0, 180.0, 0.0, 0.0, 100.0])
    assert np.allclose(robot.action_scale.to_ros(numbers), [0.5 - math.pi, -math.pi, -math.pi, 0, 0, 1.92])
    assert robot.state_scale.to_ros(np.full(7, 100.0))[5:] == pytest.approx([1.745, 1.92])
    goals = robot.goal_scale.to_ros(numbers)
    assert np.allclose(goals, [0.5 - math.pi, 0.5 - math.pi, -math.pi, 0, 0, 1.92])


def test_aloha_has_two_arms_of_the_same_names_and_openpis_delta_mask() -> None:
    robot = described(raw("aloha_bimanual"))
    delta = [kind == "delta_position" for kind in robot.kinds]
    assert delta == [True] * 6 + [False] + [True] * 6 + [False]
    assert [item.prefix for item in robot.joint_states] == ["left/", "right/"]


def test_a_falling_range_turns_a_gripper_round() -> None:
    factor, offset = line("fraction", (0.8, 0.0), 1.0, 0.0)
    assert (offset, offset + factor) == (0.8, 0.0)


def broken(change: str) -> dict[str, Any]:
    value = raw()
    group = value["command_groups"][0]
    pan = value["joints"]["shoulder_pan_joint"]
    changes = {
        "field twice": lambda: value["state"].append(value["state"][0]),
        "joint commanded twice": lambda: value["action"].append(value["action"][0] | {"name": "again"}),
        "unknown unit": lambda: value["state"][0].update(unit="furlong"),
        "unknown kind": lambda: value["action"][0].update(kind="torque"),
        "pose": lambda: value["action"][0].update(kind="ee_pose"),
        "limits the wrong way round": lambda: pan.update(position=[1.0, -1.0]),
        "limit not finite": lambda: pan.update(position=[-1.0, math.inf]),
        "no speed": lambda: pan.update(velocity_max=0.0),
        "group without topic": lambda: group.pop("topic"),
        "group with an empty topic": lambda: group.update(topic=""),
        "two groups, one field": lambda: value["command_groups"].append(group | {"topic": "other"}),
        "two groups, one topic": lambda: value["command_groups"].append(group | {"joints": ["gripper_joint"]}),
        "two cameras, one topic": lambda: value["cameras"].update(wrist="static_camera/image_raw"),
        "stream rate 0": lambda: group.update(stream_rate_hz=1e-12),
        "stream rate without end": lambda: group.update(stream_rate_hz=1e9),
        "joint in no group": lambda: group["joints"].pop(),
        "group of a stranger": lambda: group["joints"].append("third_arm"),
        "unknown joint": lambda: value["state"][0].update(joint="shoulder_tilt_joint"),
        "commanded, not read": lambda: value["state"].pop(0),
        "range for degrees": lambda: value["state"][0].update(range=[0, 1]),
        "percent without range": lambda: value["state"][5].pop("range"),
        "empty range": lambda: value["state"][5].update(range=[1.0, 1.0]),
        "scale 0": lambda: value["state"][0].update(scale=0.0),
        "offset of a velocity": lambda: value["action"][0].update(kind="velocity", offset=0.1),
        "offset of an effort": lambda: value["state"][0].update(entry="effort", offset=0.1),
        "metres of a hinge": lambda: value["state"][0].update(unit="m"),
        "misspelt key": lambda: value["state"][0].update(units="rad"),
        "no state": lambda: value.update(state=[]),
        "no cameras": lambda: value.update(cameras={}),
        "rate 0": lambda: value.update(control_rate_hz=0),
        "wrong prefix": lambda: group.update(prefix="left/"),
        "topic twice": lambda: value.update(joint_states=[{"topic": "a"}, {"topic": "a"}]),
        "joint of no topic": lambda: value.update(joint_states=[{"topic": "a", "prefix": "gripper"}]),
        "topic of no joint": lambda: value.update(joint_states=[{"topic": "a"}, {"topic": "b", "prefix": "left/"}]),
    }
    changes[change]()
    return value


REFUSED = {
    "field twice": "'shoulder_pan.pos' is there twice",
    "joint commanded twice": "commanded by two fields",
    "unknown unit": "'rad', 'm', 'degrees'",
    "unknown kind": "kind must be one of position, delta_position, velocity",
    "pose": "end-effector poses are not supported yet",
    "limits the wrong way round": "the wrong way round",
    "limit not finite": "finite",
    "no speed": "greater than 0",
    "group without topic": "topic",
    "group with an empty topic": "topic",
    "two groups, one field": "commanded by two groups",
    "two groups, one topic": "the topic 'forward_position_controller/commands' is there twice",
    "two cameras, one topic": "the topic 'static_camera/image_raw' is there twice",
    "stream rate 0": "stream_rate_hz",
    "stream rate without end": "stream_rate_hz",
    "joint in no group": "no group sends it anywhere",
    "group of a stranger": "'third_arm' is in no field of action",
    "unknown joint": "not in joints",
    "commanded, not read": "state needs a field with its position",
    "range for degrees": "range belongs to percent",
    "percent without range": "needs range",
    "empty range": "two different",
    "scale 0": "not 0",
    "offset of a velocity": "shoulder_pan.pos: only a position has an offset, no velocity",
    "offset of an effort": "shoulder_pan.pos: only a position has an offset, no effort",
    "metres of a hinge": "moves in rad",
    "misspelt key": "units",
    "no state": "state",
    "no cameras": "cameras",
    "rate 0": "control_rate_hz",
    "wrong prefix": "is not how",
    "topic twice": "the topic 'a' is there twice",
    "joint of no topic": r"'wrist_roll_joint' is read, but begins with none of the prefixes ['gripper']",
    "topic of no joint": "no joint that the state reads begins with the prefix 'left/'",
}


@pytest.mark.parametrize("change", REFUSED)
def test_a_wrong_description_is_refused_with_what_is_wrong(change: str) -> None:
    with pytest.raises(ValidationError) as refused:
        described(broken(change))
    assert REFUSED[change] in str(refused.value)
