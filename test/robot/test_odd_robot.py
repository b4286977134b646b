"""A robot with everything at once (`odd.yaml`): its numbers by hand, from the wire to the network and back."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from made_up import EFFORT, ODD, SPREAD, VELOCITY, MadeUpRobot, asked, write_robot_model
from robots import a_robot

from vla_align_ros.observation.codecs import IMAGE
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.runtime import make_assembler
from vla_align_ros.types import Experience, Observation

T = 10**10
PLACES = {"left/shoulder": 0.5, "left/elbow": -0.3, "left/turret": 1.5, "right/lift": 0.7, "right/finger": 0.01}
STATE = [EFFORT, 0.01, VELOCITY, 1.5, -0.3, 0.7, 0.5]
IN_MODEL_UNITS = [EFFORT, 0.75, np.rad2deg(VELOCITY), 100.0, np.rad2deg(0.4), 1.0, -0.5]
COMMAND = [-0.2, 0.03, 0.1, 0.1]
COMMAND_IN_MODEL_UNITS = [0.2, 0.25, 0.2, 0.0]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return load_policy(write_robot_model(tmp_path_factory.mktemp(ODD), ODD), "cpu")


@pytest.fixture(scope="module")
def observation(policy: Policy) -> Observation:
    plant, assembler = MadeUpRobot(policy.config.robot), make_assembler(policy, PolicyParams())
    plant.position = PLACES
    assembler.push_prompt("touch red", 0)
    for _, prefix, raw in plant.joint_states(T):
        assembler.push_joints(raw, T, prefix)
    for camera, _, raw in plant.images(T):
        assembler.push_image(camera, raw, IMAGE, T)
    return assembler.observe(T)


def test_what_is_sensed_is_in_ros_units_field_by_field(policy: Policy, observation: Observation) -> None:
    np.testing.assert_allclose(observation.state, STATE, rtol=1e-6)
    robot = policy.config.robot
    np.testing.assert_allclose(robot.measured(observation.state), [PLACES[name] for name in robot.action_joints])


def test_motion_is_that_of_positions_a_slide_as_if_it_turned(policy: Policy) -> None:
    change = np.tile(np.float32([100.0, 0.25, 100.0, 1.0, -1.0, 0.5, 2.0]), (3, 1))
    np.testing.assert_array_equal(policy.config.robot.motion(change), np.tile([1.0, 1.0, -1.0, 2.0, 2.0], (3, 1)))
    np.testing.assert_array_equal(a_robot().motion(change[:, 1:3]), change[:, 1:3])


def test_the_network_and_the_prompt_are_given_the_models_units(policy: Policy, observation: Observation) -> None:
    told: list[Any] = []

    class Tokenizer:
        def batch(self, prompts: Any, states: Any) -> Any:
            told.append(states)
            return np.zeros((1, 8), np.int64), np.ones((1, 8), bool)

    robot = dataclasses.replace(policy.robot, tokenizer=Tokenizer())  # type: ignore[arg-type]
    inputs = robot.prepare([observation], policy.device)
    np.testing.assert_allclose(inputs.state[0], [*IN_MODEL_UNITS, 0.0], rtol=2e-6)
    np.testing.assert_allclose(told[0], [IN_MODEL_UNITS], rtol=2e-6)  # pi0.5 writes them in its prompt, without padding


def test_commands_are_given_in_the_models_units_and_padding_is_masked(policy: Policy, observation: Observation) -> None:
    horizon = policy.config.architecture.action_horizon
    commands = np.tile(np.array(COMMAND, np.float32), (horizon, 1))
    item = Experience(observation, commands, observation, 0)
    _, given = policy.prepare_experiences([item])
    expected = (np.array(COMMAND_IN_MODEL_UNITS) - asked(policy.config.robot)) / (SPREAD + 1e-6)
    np.testing.assert_allclose(given.actions[0, 0], [*expected, 0, 0, 0, 0], rtol=1e-4)
    assert given.state_mask.tolist() == [True] * 7 + [False]
    assert given.action_mask.tolist() == [True] * 4 + [False] * 4


def test_a_chunk_is_in_ros_units_and_starts_where_its_joints_are(policy: Policy, observation: Observation) -> None:
    chunk = policy.infer(observation, torch.Generator().manual_seed(0))
    assert chunk.start.tolist() == pytest.approx([0.5, 0.01, 0.7, -0.3])
    assert np.abs(chunk.actions - [-0.01, 0.02, 0.03, 0.1 - np.deg2rad(20.0)]).max() < 10 * SPREAD
