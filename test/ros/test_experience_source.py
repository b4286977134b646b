"""Where experience comes from, over DDS: a bag played onto topics, and a folder that a recorder fills."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from live import RELIABLE
from policy_live import (
    ALIGN_QUICKLY,
    CAMERA,
    FITTING,
    JOINTS,
    POLICY,
    PROMPT,
    ParameterClient,
    PolicyProcess,
    Status,
    lenient_model,
)
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_align_ros.action.exploration import Exploration
from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.alignment import align
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.robot import CHUNK_TOPIC, make_robot, topics_of
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.observation.codecs import JOINT_TRAJECTORY, encode_trajectory
from vla_align_ros.offline import read_bag
from vla_align_ros.params import PolicyParams, SimParams
from vla_align_ros.policy import load_policy
from vla_align_ros.types import ActionChunk

pytestmark = [pytest.mark.ros, pytest.mark.slow]

PLAYER = "vla_align_ros.ros.bag_player"
SETTINGS = {**ALIGN_QUICKLY, "exploration_fraction": 0.0, "experience_lag_s": 1.0}
SECONDS, SEAM_S = 20.0, 11.3
TOPICS = topics_of(BENCH.robot)
NAMES = {topic: f"/{topic.lstrip('/')}" for topic in (*TOPICS, CHUNK_TOPIC) if not topic.startswith("~")}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return lenient_model(tmp_path_factory.mktemp("model"), initial_token=FITTING)


@pytest.fixture(scope="module")
def policy(model):
    torch.set_num_threads(1)
    return load_policy(model)


@pytest.fixture(scope="module")
def recording(policy, tmp_path_factory) -> Path:
    """A robot that moved at random, in two splits."""
    folder = tmp_path_factory.mktemp("recording")
    robot = make_robot(
        SimParams(bench="reach2", embodiment_seed=3, episode_s=6.0, image_hz=10.0, joint_hz=20.0), 1_800_000_000 * 10**9
    )
    config, start_ns = policy.config.robot, robot.now_ns
    horizon = policy.model.architecture.action_horizon
    motion = Exploration(1, horizon, config.execute, 0.35 * config.velocity_max, np.random.default_rng(5))
    for split, end_s in (("run_0", SEAM_S), ("run_1", SECONDS)):
        types = {name: {**TOPICS, CHUNK_TOPIC: JOINT_TRAJECTORY}[topic] for topic, name in NAMES.items()}
        with BagRecorder(folder / split, types, latched=[NAMES[PROMPT]]) as bag:
            if split == "run_0":
                bag.write(NAMES[PROMPT], robot.prompt_message().raw, start_ns)
            while robot.now_ns < start_ns + round(end_s * 1e9):
                tick_ns = robot.now_ns
                if (tick_ns - start_ns) // config.period_ns % config.execute == 0:
                    actions = motion.chunk(1.0)[0][0].astype(np.float32)
                    chunk = ActionChunk(actions, np.zeros(len(config.action), np.float32), tick_ns, config.period_ns)
                    raw = encode_trajectory(to_trajectory(chunk, config, 2))
                    robot.receive(raw)
                    bag.write(NAMES[CHUNK_TOPIC], raw, tick_ns)
                for message in robot.advance(tick_ns + config.period_ns):
                    if message.topic in NAMES:
                        bag.write(NAMES[message.topic], message.raw, message.stamp_ns)
    (folder / "run").mkdir()
    for split in ("run_0", "run_1"):
        shutil.move(folder / split / f"{split}.mcap", folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def params(policy, model) -> PolicyParams:
    return PolicyParams.from_mapping({**asdict(policy.config.recommended), **SETTINGS, "model": str(model)})


@pytest.fixture(scope="module")
def offline(policy, recording, params):
    """What `vla-align align` reads from the same bag."""
    topics = bag_topics(policy.config.robot)
    return list(read_bag(policy, recording, topics, params))


@pytest.fixture(scope="module")
def node(shared_ros, model, tmp_path_factory) -> PolicyProcess:
    own = {"model": str(model), "experience_source": "topic", "use_sim_time": True}
    made = PolicyProcess(shared_ros, tmp_path_factory.mktemp("policy"), **{**SETTINGS, **own})
    made.wait_for_state("active")
    return made


def assert_aligns_as(node: PolicyProcess, policy, experiences, params) -> None:
    """An alignment of the node is that of these experiences, to the bit."""
    before = TokenStore(node.store, 20).active()
    count = len(node.reports.messages)
    node.trigger("align")
    node.ros.wait_until(lambda: len(node.reports.messages) > count, "a report")
    live = json.loads(node.reports.messages[-1].data)
    policy.swap_token(torch.from_numpy(before.token.copy()))
    expected = align(policy, experiences, params.align).to_json()
    differing = {key for key in live if key not in ("duration_s", "token_version") and live[key] != expected[key]}
    assert not differing, {key: (live[key], expected[key]) for key in differing}
    assert live["before"], live["detail"]


def sends_nothing(node: PolicyProcess) -> bool:
    """Nobody but the test's player has a publisher for chunks, so that none can go out."""
    publishers = node.ros.node.get_publishers_info_by_topic(f"{POLICY}/action_chunk")
    return not [info for info in publishers if info.node_name.startswith("vla_policy")]


def test_a_played_bag_gives_the_experience_of_the_bag_and_nothing_is_sent(
    shared_ros, node, recording, offline, policy, params
):
    assert len(offline) > 64
    assert sends_nothing(node)
    player = shared_ros.run_node(PLAYER, {"path": str(recording), "rate": 4.0, "commands": True})
    node.wait_for_status("inference", lambda status: "observing: experience from the commands" in status.message)
    assert player.wait() == 0, player.output
    newest = str(offline[-1].next_observation.stamp_ns)
    status = node.wait_for_status("experience", lambda status: status.values["newest_stamp_ns"] == newest)
    assert status.number("total") == len(offline), (status.values, node.wait_for_status("observation").values)
    assert_aligns_as(node, policy, offline, params)
    assert sends_nothing(node)


def test_the_player_plays_no_command_unless_told(shared_ros, recording):
    commands = shared_ros.listen("/played/action_chunk", JointTrajectory, RELIABLE)
    joints = shared_ros.listen("/played/joint_states", JointState)
    moved = ("-r", f"{NAMES[CHUNK_TOPIC]}:=/played/action_chunk", "-r", f"{NAMES[JOINTS]}:=/played/joint_states")
    topics = f"{NAMES[CHUNK_TOPIC]} {NAMES[JOINTS]}"
    player = shared_ros.run_node(PLAYER, {"path": str(recording), "rate": 20.0, "topics": topics}, *moved)
    assert player.wait() == 0, player.output
    assert "not played: {'/vla_policy/action_chunk': " in player.output
    joints.wait()
    assert not commands.messages


def test_of_a_topic_with_two_types_the_player_plays_the_one_that_has_more(shared_ros, tmp_path):
    topic, state = "/mixed/joint_states", JointState(name=["shoulder"], position=[0.25])
    with BagRecorder(tmp_path / "bag", {topic: "sensor_msgs/msg/JointState"}) as bag:
        bag.write(topic, serialize_message(String(data="not a joint state")), 10**9, "std_msgs/msg/String")
        for tick in range(1, 4):
            bag.write(topic, serialize_message(state), 10**9 + tick * 10**7)
    heard = shared_ros.listen(topic, JointState, RELIABLE)
    player = shared_ros.run_node(PLAYER, {"path": str(tmp_path / "bag")})
    assert player.wait() == 0, player.output
    assert "not played, of other types: {'std_msgs/msg/String': 1}" in player.output
    shared_ros.wait_until(lambda: len(heard.messages) == 3, "all joint states")
    assert all(list(message.position) == [0.25] for message in heard.messages)


def test_the_player_waits_until_its_last_messages_are_confirmed_but_not_for_ever(shared_ros, recording):
    def played_on(topic):
        moved = ("-r", f"{NAMES[JOINTS]}:={topic}")
        settings = {"path": str(recording), "rate": 20.0, "topics": NAMES[JOINTS]}
        player = shared_ros.run_node(PLAYER, settings, *moved)
        assert player.wait() == 0, player.output
        return player.output

    shared_ros.listen("/heard/joint_states", JointState, RELIABLE)
    assert "nobody confirms" not in played_on("/heard/joint_states")
    ear = shared_ros.run_script(Path(__file__).with_name("stopped_ear.py"))
    try:
        there = lambda: shared_ros.node.count_subscribers("/unconfirmed/joint_states")  # noqa: E731
        shared_ros.wait_until(there, "somebody who stops at the first message")
        assert "nobody confirms the last messages on ['/unconfirmed/joint_states']" in played_on(
            "/unconfirmed/joint_states"
        )
    finally:
        ear.send(signal.SIGKILL)


def test_the_player_keeps_off_a_topic_where_a_robot_publishes(shared_ros, recording):
    publisher = shared_ros.publisher(NAMES[JOINTS], JointState, subscribers=0)
    shared_ros.listen(NAMES[CAMERA], JointState)
    player = shared_ros.run_node(PLAYER, {"path": str(recording)})
    assert player.wait() == 1, player.output
    assert "somebody else publishes on /joint_states, perhaps a robot" in player.output
    shared_ros.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "path: expected the folder of a bag"),
        ({"path": "/nowhere"}, "no such bag"),
        ({"path": "RECORDING", "topics": "/other"}, "'/other'] are not in"),
    ],
)
def test_a_wrong_parameter_of_the_player_is_a_sentence(shared_ros, recording, wrong, words):
    given = {name: value.replace("RECORDING", str(recording)) for name, value in wrong.items()}
    player = shared_ros.run_node(PLAYER, given)
    assert player.wait() == 2, player.output
    assert words in player.output
    assert "Traceback" not in player.output


def test_splits_of_a_folder_are_aligned_on_and_again_after_kill_9(
    shared_ros, node, recording, offline, policy, params, model, tmp_path_factory
):
    """The clock of the node stands since the bag was played: bags need none."""
    folder = tmp_path_factory.mktemp("bags") / "run"
    folder.mkdir()
    parameters = ParameterClient(shared_ros, "vla_policy")
    node.bring_to("unconfigured")
    assert not parameters.set(experience_source="bag")
    assert not node.transition("configure"), "without a folder"
    node.logged("bag_folder: experience_source bag needs the folder")
    bags = {"bag_folder": str(folder.parent), "align_frequency_hz": 1.0}
    assert not parameters.set(**bags)
    node.bring_to("active")
    shutil.copy(recording / "run_0.mcap", folder)
    node.wait_for_status("alignment", lambda status: status.number("accepted") + status.number("refused") == 1)
    first = node.wait_for_status("experience", lambda status: status.number("buffer") > 0)
    assert 20 < first.number("buffer") < len(offline)
    assert sends_nothing(node)
    (folder / "run_1.mcap").write_bytes((recording / "run_1.mcap").read_bytes()[:-100])
    node.wait_for_status("experience", lambda status: status.values["waiting"] == "run/run_1.mcap")
    assert "observing: experience from the bags in" in node.wait_for_status("inference").message
    node.process.send(signal.SIGKILL)
    node.process.wait()

    again = PolicyProcess(
        shared_ros,
        node.store.parent,
        **{**SETTINGS, **bags, "model": str(model), "experience_source": "bag", "use_sim_time": True},
    )
    restored = again.wait_for_status("experience", lambda status: status.number("buffer") > 0)
    for key in ("buffer", "total", "newest_stamp_ns"):
        assert restored.values[key] == first.values[key]
    for _ in range(3):
        status: Status = again.wait_for_status("alignment")
        assert status.number("attempted") == 0, "there is nothing new"
    assert not ParameterClient(shared_ros, "vla_policy").set(align_frequency_hz=0.0)
    storage = (recording / "run_1.mcap").read_bytes()
    (folder / "broken.mcap").write_bytes(bytes(200) + storage[200:])
    said = again.wait_for_status("experience", lambda status: "run/broken.mcap: cannot be read" in status.message)
    assert said.level == DiagnosticStatus.WARN
    (folder / "run_1.mcap").write_bytes(storage)
    again.wait_for_status("experience", lambda status: status.number("total") == len(offline))
    assert_aligns_as(again, policy, offline, params)
    assert sends_nothing(again)
