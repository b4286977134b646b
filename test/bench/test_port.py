"""What every bench gives, and what is written once for all of them does with it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from vla_align_ros.bench import so101
from vla_align_ros.bench.evaluate import expert, run
from vla_align_ros.bench.port import bench_names, find_bench
from vla_align_ros.bench.robot import EPISODE_TOPIC, JOINTS_TOPIC, PROMPT_TOPIC, SimulatedRobot, topics_of
from vla_align_ros.observation.codecs import (
    IMAGE,
    MessageRefused,
    decode_image,
    decode_string,
    encode_trajectory,
)
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.params import ParameterError, SimParams, fields_of
from vla_align_ros.types import Trajectory

T0, S, SIZE, HORIZON = 10**18, 1_000_000_000, 32, 16


def test_arms_see_and_feel_what_the_description_says_and_the_expert_does_their_tasks(bench):
    arms = bench.embodiments(6, seed=3, scale=0.5)
    episodes = bench.episodes(arms, 4, SIZE)
    robot = bench.robot
    for observation in episodes.observe():
        assert observation.state.shape == (len(robot.state),)
        assert observation.prompt
        assert list(observation.images) == list(robot.cameras)
        assert {image.shape for image in observation.images.values()} == {(SIZE, SIZE, 3)}
    assert episodes.expert_chunks(HORIZON).shape == (6, HORIZON, len(robot.action))
    rows, going = episodes.at_work()
    assert rows.tolist() == list(range(6))
    before_m = episodes.distance_m()
    assert run(going, expert(HORIZON), robot.execute).sum() >= 5
    assert episodes.over.all(), "the same arms go on in both"
    assert (episodes.distance_m() < before_m).sum() >= 5
    assert len(episodes.at_work()[0]) == 0


def test_seeds_give_the_same_again_and_others_something_else(bench):
    def first(seed_of_arms: int, seed: int) -> bytes:
        return bench.episodes([bench.embodiments(2, seed_of_arms)[0]], seed, SIZE).observe()[0].state.tobytes()

    assert first(1, 2) == first(1, 2)
    assert first(1, 2) != first(1, 3)
    assert first(1, 2) != first(2, 2)


def made(bench, **changes) -> SimulatedRobot:
    changes = {"image_size": SIZE, "image_hz": 10.0, "joint_hz": 20.0, **changes}
    return SimulatedRobot(bench, bench.embodiment(0), T0, 3, **changes)


def test_the_robot_sends_its_topics_and_goes_where_a_trajectory_leads(bench):
    robot, names = made(bench), bench.robot.action_joints
    sent = [robot.prompt_message(), *robot.advance(T0 + S // 10)]
    assert {message.topic for message in sent} == set(topics_of(bench.robot)) - {EPISODE_TOPIC}
    assert decode_string(sent[0].raw)
    for topic in bench.robot.cameras.values():
        image = next(message for message in sent if message.topic == topic)
        assert decode_image(image.raw, IMAGE).image.shape == (SIZE, SIZE, 3)
    joints = [message.raw for message in sent if message.topic == JOINTS_TOPIC]
    start = JointStateReader(bench.robot.state).read(joints[-1]).values.astype(float)
    way = 0.15 * np.where(start > 0.5, -1.0, 1.0)
    there = encode_trajectory(Trajectory(0, names, np.array([S]), (start + way)[None]))
    with pytest.raises(MessageRefused):
        robot.receive(there[:-9])
    robot.receive(there)
    sent = robot.advance(T0 + 2 * S)
    assert np.allclose(robot.body.reading(), start + way, atol=0.03)
    assert robot.now_ns == T0 + 2 * S
    assert robot.advance(T0) == []


def test_a_task_ends_with_a_report_and_the_next_begins_where_the_arm_is(bench):
    robot = made(bench, episode_s=1.0)
    robot.advance(T0 + S)
    before, prompts = robot.body.reading(), [robot.body.prompt]
    sent = robot.advance(T0 + 4 * S + S // 2)
    reports = [json.loads(decode_string(message.raw)) for message in sent if message.topic == EPISODE_TOPIC]
    prompts += [decode_string(message.raw) for message in sent if message.topic == PROMPT_TOPIC]
    assert [report["index"] for report in reports] == list(range(len(reports)))
    assert [report["prompt"] for report in reports] == prompts[:-1]
    assert all(one != other for one, other in pairwise(prompts))
    assert all(np.isfinite(report["distance_m"]) and report["success"] in (True, False) for report in reports)
    assert np.allclose(robot.body.reading(), before, atol=0.05), "told nothing, the arm stays"


def test_a_bench_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    (known,) = (field.choices for field in fields_of(SimParams) if field.name == "bench")
    assert bench_names() == list(known)
    with pytest.raises(ParameterError, match="bench: expected one of reach2, so101, got 'so100'"):
        find_bench("so100")
    monkeypatch.setattr("vla_align_ros.bench.so101", so101)  # put back at the end
    for name in [name for name in sys.modules if name.startswith("vla_align_ros.bench.so101")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ParameterError, match=r"needs mujoco, which is not installed: pip install"):
        find_bench("so101")


def test_a_bench_may_have_some_tasks_and_shifts_alone():
    turned = find_bench("so101").narrowed(["reach"], ["wrist_roll", "wrist_mirror"])
    nominal, arm = turned.embodiment(0), turned.embodiment(7)
    unturned = replace(arm, wrist_roll_rad=0.0, wrist_mirrored=False)
    assert arm.wrist_roll_rad != 0.0
    assert np.array_equal(unturned.vector(), nominal.vector())
    prompts = turned.episodes([arm] * 12, 0, SIZE).prompts
    assert all(any(word in prompt for word in ("reach", "over", "go to")) for prompt in prompts)
    assert find_bench("so101").narrowed([], []) == find_bench("so101")
    assert find_bench("reach2").narrowed(["reach"], []) is find_bench("reach2")
    for name, tasks, shifts, text in (
        ("so101", ["stack"], [], "tasks: expected some of reach, push, pick, got 'stack'"),
        ("so101", [], ["wrist_roll", "roll"], "shifts: expected some of front_camera, .*, got 'roll'"),
        ("reach2", [], ["wrist_roll"], "shifts: expected some of none, got 'wrist_roll'"),
    ):
        with pytest.raises(ParameterError, match=text):
            find_bench(name).narrowed(tasks, shifts)


def test_the_way_that_is_drawn_is_the_way_that_the_arm_goes(bench):
    arm, robot = bench.embodiment(0), bench.robot
    body = bench.body(arm, T0, 3, SIZE)
    body.advance(T0 + S)
    now = body.reading()
    goals = now + np.linspace(0.0, 0.1, 9)[1:, None]
    velocities = np.append(np.full((7, now.size), 0.0125e9 / robot.period_ns), np.zeros((1, now.size)), axis=0)
    times_ns = np.arange(1, 9) * robot.period_ns
    trajectory = Trajectory(body.now_ns, robot.action_joints, times_ns, goals, velocities)
    body.follow(trajectory)
    body.advance(body.now_ns + int(times_ns[-1]) + S)
    drawn = bench.carried_out(arm, now, replace(trajectory, stamp_ns=0))
    assert drawn.shape == (9, len(robot.state))
    np.testing.assert_array_equal(drawn[0], now)
    np.testing.assert_allclose(drawn[-1], body.reading(), atol=0.05)
    for camera in robot.cameras:
        places = bench.tips_in_picture(arm, camera, now, drawn)
        assert places.shape == (9, 2)
        assert 0.005 < np.linalg.norm(places[-1] - places[0]) < 0.5
