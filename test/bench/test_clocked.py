"""The closed loop on a simulated clock."""

import numpy as np
import pytest
import torch
from clocked import run_clocked

from vla_align_ros.action.limits import ChunkReason
from vla_align_ros.bench.port import bench_names, find_bench
from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.arm import JOINT_NAMES, PERIOD_NS
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import sample_embodiments, unshifted
from vla_align_ros.bench.robot import CHUNK_TOPIC, JOINTS_TOPIC, PROMPT_TOPIC, SimulatedRobot, topics_of
from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.recorder import BagRecorder
from vla_align_ros.observation.assemble import ObservationReason
from vla_align_ros.observation.codecs import JOINT_TRAJECTORY, decode_trajectory
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import PolicyError
from vla_align_ros.runtime import make_assembler, make_builder
from vla_align_ros.types import ActionChunk

pytestmark = pytest.mark.slow
CAMERA_TOPICS = BENCH.robot.cameras

T0 = 17_000_000_000 * PERIOD_NS
EPISODE_S = 4.8


def robot(seed: int = 0, arm=None, **changes) -> SimulatedRobot:
    return SimulatedRobot(BENCH, unshifted() if arm is None else arm, T0, seed, **{"image_size": 32, **changes})


def be_tame(monkeypatch, policy) -> None:
    """Chunks of small random velocities, far from every limit."""

    def infer(observation, generator, num_steps) -> ActionChunk:
        actions = 0.3 * torch.randn(8, 2, generator=generator).numpy()
        return ActionChunk(actions, observation.state, observation.stamp_ns, PERIOD_NS)

    monkeypatch.setattr(policy, "infer", infer)


def follow_expert(monkeypatch, policy, made: SimulatedRobot) -> None:
    """The policy's answers become those of the scripted expert, which knows this arm and its scene."""

    def infer(observation, generator, num_steps) -> ActionChunk:
        last = np.zeros((1, 2))
        actions = task.expert_chunk(made.body.arm, made.body.angle_rad, last, made.body.scene, 8)[0].astype(np.float32)
        return ActionChunk(actions, observation.state, observation.stamp_ns, PERIOD_NS)

    monkeypatch.setattr(policy, "infer", infer)


@pytest.mark.parametrize("seed", range(5))
def test_expert_reaches_every_target_through_the_whole_loop(monkeypatch, policy, seed):
    arm = unshifted() if seed == 0 else sample_embodiments(1, seed, scale=0.5)
    made = robot(seed, arm)
    follow_expert(monkeypatch, policy, made)
    run = run_clocked(policy, made, EPISODE_S)
    assert run.distance_m < task.SUCCESS_M


def test_finished_episodes_are_reported_and_the_next_ones_start_where_the_arm_is(monkeypatch, policy):
    made = robot(1, episode_s=4.0)
    follow_expert(monkeypatch, policy, made)
    run = run_clocked(policy, made, 13.0)
    assert [episode.index for episode in run.episodes] == [0, 1, 2]
    assert all(episode.success for episode in run.episodes)


@pytest.mark.parametrize("latency_s", [0.0, 0.05, 0.25])
def test_chunks_are_made_every_few_ticks_and_none_is_late(monkeypatch, policy, latency_s):
    be_tame(monkeypatch, policy)
    stamps = []

    def tap(message):
        if message.topic == CHUNK_TOPIC:
            stamps.append(decode_trajectory(message.raw, JOINT_NAMES).stamp_ns)
        return message

    run = run_clocked(policy, robot(), EPISODE_S, latency_s=latency_s, tap=tap)
    assert stamps[0] == T0
    assert set(np.diff(stamps)) == {policy.config.robot.execute * PERIOD_NS}
    assert (run.chunks, run.late_chunks) == (len(stamps), 0)
    assert not run.refused


def test_same_seeds_give_the_same_run_and_another_noise_another_one(policy):
    ends = [run_clocked(policy, robot(), 2.0, seed=seed).distance_m for seed in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (CAMERA_TOPICS["base_0_rgb"], ObservationReason.NO_IMAGE),
        (JOINTS_TOPIC, ObservationReason.NO_JOINTS),
        (PROMPT_TOPIC, ObservationReason.NO_PROMPT),
    ],
)
def test_without_a_sensor_no_chunk_is_made_and_the_arm_stays(policy, lost, reason):
    made = robot()
    start = made.body.angle_rad.copy()
    run = run_clocked(policy, made, 1.0, tap=lambda message: None if message.topic == lost else message)
    assert set(run.refused) == {reason}
    assert run.chunks == 0
    assert np.array_equal(made.body.angle_rad, start)


def test_camera_that_dies_stops_the_arm(monkeypatch, policy):
    be_tame(monkeypatch, policy)
    made = robot()
    died_ns = T0 + 1000_000_000

    def tap(message):
        return None if message.topic in CAMERA_TOPICS.values() and message.stamp_ns > died_ns else message

    run = run_clocked(policy, made, 3.5, tap=tap)
    assert set(run.refused) == {ObservationReason.STALE_IMAGE}
    stopped = made.body.angle_rad.copy()
    made.advance(made.now_ns + 1_000_000_000)
    assert np.array_equal(made.body.angle_rad, stopped)


def test_chunk_beyond_the_limits_is_not_sent(monkeypatch, policy):
    made = robot()
    start = made.body.angle_rad.copy()

    def infer(observation, generator, num_steps) -> ActionChunk:
        return ActionChunk(np.full((8, 2), 50.0, np.float32), observation.state, observation.stamp_ns, PERIOD_NS)

    monkeypatch.setattr(policy, "infer", infer)
    run = run_clocked(policy, made, 1.0)
    assert run.chunks == 0
    assert set(run.refused) == {ChunkReason.JUMP}
    assert np.array_equal(made.body.angle_rad, start)


def test_recorded_run_gives_experiences_with_the_commands_that_were_sent(monkeypatch, policy, tmp_path):
    be_tame(monkeypatch, policy)
    types = {**topics_of(BENCH.robot), CHUNK_TOPIC: JOINT_TRAJECTORY}
    sent = []
    with BagRecorder(tmp_path / "bag", types) as bag:

        def tap(message):
            bag.write(message.topic, message.raw, message.stamp_ns)
            if message.topic == CHUNK_TOPIC:
                sent.append(decode_trajectory(message.raw, JOINT_NAMES))
            return message

        run_clocked(policy, robot(), EPISODE_S, tap=tap)
    params = PolicyParams()
    assembler = make_assembler(policy, params)
    topics = bag_topics(policy.config.robot, str, prompt=PROMPT_TOPIC, command=CHUNK_TOPIC)
    found = list(BagReading(tmp_path / "bag", topics, assembler, make_builder(policy, params, assembler)))
    assert len(found) >= 8
    execute = policy.config.robot.execute
    for experience in found:
        index = (experience.observation.stamp_ns - T0) // (execute * PERIOD_NS)
        offset = (experience.observation.stamp_ns - T0) // PERIOD_NS % execute
        assert np.allclose(experience.commands[: execute - offset], sent[index].velocities[offset:execute], atol=1e-6)


def test_a_policy_drives_the_robot_of_any_bench_through_the_whole_loop(bench, policy_for):
    policy = policy_for(bench)
    made = SimulatedRobot(bench, bench.embodiment(0), T0, 1, image_size=32)
    start = made.body.reading()
    run = run_clocked(policy, made, 3.0)
    assert run.chunks >= 3
    assert run.late_chunks == 0
    assert not np.allclose(made.body.reading(), start, atol=1e-3)
    other = find_bench(next(name for name in bench_names() if find_bench(name) is not bench))
    with pytest.raises(PolicyError, match="is of another robot"):
        run_clocked(policy, SimulatedRobot(other, other.embodiment(0), T0), 1.0)
