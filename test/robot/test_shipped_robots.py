"""Each robot of `config/robots/`, and an odd one, through the real runtime: messages in, commands for each group out,
experience, an alignment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import NAMES, SPREAD, MadeUpRobot, write_robot_model

from vla_align_ros.action.controller import Published
from vla_align_ros.action.groups import PositionStream, group_trajectory
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.observation.codecs import IMAGE, decode_trajectory, encode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import load_policy
from vla_align_ros.runtime import Runtime, make_runtime

START_S = 10**9
PARAMS = {"experience_stride_ticks": 1, "experience_lag_s": 0.05, "align_batch_size": 4, "align_draws": 1}
# What the wire must carry, worked out by hand: joint -> what the model asks for, in ROS's units. A change of position
# counts from where the joint was, a velocity is one.
WIRE = {
    "so101": {
        "shoulder_pan_joint": ("position", np.deg2rad(5.0)),
        "wrist_roll_joint": ("position", np.deg2rad(25.0)),
        "gripper_joint": ("position", (-0.175 + 1.745) / 2),
    },
    "ur5e_two_finger": {
        "shoulder_pan_joint": ("delta_position", 0.01),
        "wrist_3_joint": ("delta_position", 0.06),
        "robotiq_85_left_knuckle_joint": ("position", 0.4),
    },
    "aloha_bimanual": {
        "left/waist": ("delta_position", 0.01),
        "left/left_finger": ("position", 0.03822),
        "right/waist": ("delta_position", 0.08),
        "right/left_finger": ("position", 0.03822),
    },
    "droid": {
        "panda_joint1": ("velocity", 0.06),
        "panda_joint7": ("velocity", 0.42),
        "robotiq_85_left_knuckle_joint": ("position", 0.4),
    },
    "odd": {
        "left/shoulder": ("delta_position", -0.01),
        "right/finger": ("position", 0.02),
        "right/lift": ("velocity", 0.03),
        "left/elbow": ("position", 0.1 - np.deg2rad(20.0)),
    },
}


class Run:
    """A robot and a runtime, at work in steps of half a control tick."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.set_num_threads(1)
        policy = load_policy(write_robot_model(folder / "model", name), "cpu")
        self.robot, self.plant = policy.config.robot, MadeUpRobot(policy.config.robot)
        params = PolicyParams.from_mapping({"store": str(folder / "store"), **PARAMS})
        self.runtime: Runtime = make_runtime(policy, params, 20)
        self.runtime.assembler.push_prompt("touch red", 0)
        self.streams = {
            group.topic: PositionStream(group, self.robot.period_ns)
            for group in self.robot.command_groups
            if group.type == "position_stream"
        }
        self.now_ns = START_S * 10**9 // self.robot.period_ns * self.robot.period_ns
        self.published: list[Published] = []
        self.params = params

    def work(self, ticks: int, exploration_fraction: float = 0.0) -> None:
        runtime, plant = self.runtime, self.plant
        for half in range(2 * ticks):
            plant.move(self.now_ns)
            for _, prefix, raw in plant.joint_states(self.now_ns):
                runtime.assembler.push_joints(raw, self.now_ns, prefix)
            for camera, _, raw in plant.images(self.now_ns):
                runtime.assembler.push_image(camera, raw, IMAGE, self.now_ns)
            if (tick_ns := runtime.controller.tick(self.now_ns)) is not None:
                self._publish(runtime.controller.make(tick_ns, 2, exploration_fraction, lambda: self.now_ns))
            for group in self.robot.command_groups:
                if group.topic in self.streams:
                    positions = self.streams[group.topic].due(self.now_ns)
                    assert positions is not None
                    plant.take_positions(group, positions)
            runtime.take_experience(self.now_ns)
            self.now_ns += self.robot.period_ns // 2 + half % 2 * (self.robot.period_ns % 2)

    def _publish(self, published: Published) -> None:
        """As `ros/command_groups.py` does, down to the bytes."""
        self.published.append(published)
        self.runtime.builder.push_command(encode_trajectory(published.trajectory), self.now_ns)
        for group in self.robot.command_groups:
            if group.topic in self.streams:
                self.streams[group.topic].put(published.trajectory)
            else:
                raw = encode_trajectory(group_trajectory(published.trajectory, group))
                self.plant.take_trajectory(group, decode_trajectory(raw, group.wire_names))
        self.runtime.controller.sent(published, self.now_ns)


@pytest.fixture(scope="module", params=NAMES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = Run(request.param, tmp_path_factory.mktemp(request.param))
    made.name = request.param
    return made


def test_messages_become_commands_for_each_group_experience_and_an_alignment(run: Run) -> None:
    robot, runtime = run.robot, run.runtime
    report = runtime.align(run.params.align, 0.0)
    assert report.reason is Reason.TOO_LITTLE_EXPERIENCE

    run.work(4 * robot.execute)
    assert len(run.published) == 4, "one chunk every `execute` ticks"
    for published in run.published:
        for joint, (kind, wanted) in WIRE[run.name].items():
            group = next(group for group in robot.command_groups if joint in group.joints)
            part = group_trajectory(published.trajectory, group)
            column = part.joint_names.index(joint.removeprefix(group.prefix))
            start = published.chunk.start[robot.action_joints.index(joint)]
            first = part.positions[0, column]
            found = {"position": first, "delta_position": first - start, "velocity": part.velocities[0, column]}[kind]
            assert found == pytest.approx(wanted, abs=10 * SPREAD)
    assert not runtime.controller.refused
    assert not runtime.assembler.refused

    horizon = runtime.policy.model.architecture.action_horizon
    by_stamp = {item.trajectory.stamp_ns: item.chunk for item in run.published}
    held = [item for item in runtime.buffer.snapshot() if item.observation.stamp_ns in by_stamp]
    assert held
    for item in held:
        assert item.commands.shape == (horizon, len(robot.action))
        assert item.observation.state.shape == (len(robot.state),)
        chunk = by_stamp[item.observation.stamp_ns]
        np.testing.assert_allclose(item.commands[: robot.execute], chunk.actions[: robot.execute], atol=2e-5)


def test_a_stop_holds_each_joint_where_it_is(run: Run) -> None:
    hold = run.runtime.controller.hold(run.now_ns)
    assert hold is not None
    assert hold.joint_names == run.robot.action_joints
    places = [run.plant.position[name] for name in hold.joint_names]
    follows = run.robot.must_follow
    np.testing.assert_allclose(hold.positions[0, follows], np.array(places)[follows], atol=0.05)


def test_an_alignment_is_judged_by_losses_where_the_robot_moves(run: Run) -> None:
    run.runtime.buffer.clear()
    run.work(6 * run.robot.execute, exploration_fraction=1.0)
    report = run.runtime.align(run.params.align, 1.0)
    assert report.before, report.sentence()  # losses were compared: nothing is wrong with the experience itself
    assert not run.runtime.controller.refused
