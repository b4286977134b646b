"""The simulated robot: which command acts when, what the sensors send, how episodes change."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.trajectory import hold_trajectory, to_trajectory
from vla_align_ros.bench.reach2.arm import JOINT_MAX_RAD, JOINT_NAMES, PERIOD_NS, encoder_reading
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import sample_embodiments, unshifted
from vla_align_ros.bench.robot import EPISODE_TOPIC, JOINTS_TOPIC, PROMPT_TOPIC, SimulatedRobot, make_robot
from vla_align_ros.observation.codecs import (
    IMAGE,
    MessageReason,
    MessageRefused,
    decode_image,
    decode_string,
    encode_trajectory,
)
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.params import SimParams
from vla_align_ros.types import ActionChunk, Trajectory

CAMERA_TOPICS = BENCH.robot.cameras
T0 = 17_000_000_000 * PERIOD_NS
MS = 1_000_000
S = 1_000_000_000


def robot(arm=None, pose=(0.0, 1.4), **changes) -> SimulatedRobot:
    """An arm in the middle, with few sensor messages unless asked for."""
    made = SimulatedRobot(
        BENCH, unshifted() if arm is None else arm, T0, **{"image_hz": 1.0, "joint_hz": 10.0, **changes}
    )
    made.body.angle_rad = np.array([pose])
    return made


def constant(
    velocity: tuple[float, float], stamp_ns: int = T0, horizon: int = 8, ramp: int = 2, start=(0.0, 1.4)
) -> Trajectory:
    actions = np.tile(np.array(velocity, np.float32), (horizon, 1))
    chunk = ActionChunk(actions, np.array(start, np.float32), stamp_ns, PERIOD_NS)
    return to_trajectory(chunk, a_robot(), ramp)


def moved(made: SimulatedRobot) -> np.ndarray:
    return made.body.angle_rad[0] - [0.0, 1.4]


def others(times_ms, *rows, stamp_ns=0) -> bytes:
    """Another controller's: how far the shoulder shall go from 0 (the elbow stays), its velocities, accelerations."""
    still = ([1.4] * len(times_ms), [0.0] * len(times_ms), [0.0] * len(times_ms))
    columns = [np.array([row, elbow]).T for row, elbow in zip(rows, still, strict=False)]
    return encode_trajectory(Trajectory(stamp_ns, JOINT_NAMES, np.array(times_ms) * MS, *columns))


@pytest.mark.parametrize(
    "raw",
    [
        others([1000], [0.4]),
        others([250, 500, 1000], [0.1, 0.2, 0.4]),
        others([0, 1000], [0.0, 0.4]),
        others([1000], [0.4], [0.0]),
        others([0, 500, 1000], [0.0, 0.2, 0.4], [0.0, 0.6, 0.0], [2.4, 0.0, -2.4]),
        others([1050], [0.4], stamp_ns=T0 + 300 * MS),
    ],
    ids=["one point", "straight", "from time 0", "from rest", "as MoveIt's", "stamped 50 ms ago"],
)
def test_trajectories_of_other_controllers_are_executed_by_their_times(raw):
    made = robot()
    made.advance(T0 + 350 * MS)
    made.receive(raw)
    made.advance(T0 + 850 * MS)
    assert np.allclose(moved(made), [0.2, 0.0], atol=2e-3), "half-way"
    made.advance(T0 + 1350 * MS)
    assert np.allclose(moved(made), [0.4, 0.0])
    made.advance(T0 + 5 * S)
    assert np.allclose(moved(made), [0.4, 0.0])


def test_points_of_20_hz_are_as_far_as_those_of_10_hz():
    made = robot()
    made.receive(others([50, 100, 150, 200], [0.05, 0.1, 0.1, 0.1], [1.0, 1.0, 0.0, 0.0], stamp_ns=T0))
    made.advance(T0 + 75 * MS)
    assert np.allclose(moved(made), [0.075, 0.0])
    made.advance(T0 + S)
    assert np.allclose(moved(made), [0.1, 0.0])


def test_ramp_is_executed_and_then_the_arm_stands_still():
    made = robot()
    made.receive(encode_trajectory(constant((1.0, 0.0), ramp=2)))
    made.advance(T0 + 900 * MS)
    assert np.allclose(moved(made), [0.85, 0.0]), "8 ticks, and one ramp point at half the speed"
    made.advance(T0 + 1000 * MS)
    stopped = made.body.angle_rad.copy()
    made.advance(T0 + 5 * S)
    assert np.array_equal(made.body.angle_rad, stopped)


def test_hold_stops_at_once():
    made = robot()
    made.receive(encode_trajectory(constant((1.0, 0.0))))
    made.advance(T0 + 250 * MS)
    made.receive(encode_trajectory(hold_trajectory([0.25, 1.4], T0 + 250 * MS, PERIOD_NS, JOINT_NAMES)))
    made.advance(T0 + 2 * S)
    assert np.allclose(moved(made), [0.25, 0.0])


def test_point_is_chosen_by_stamp_not_by_arrival():
    made = robot()
    made.advance(T0 + 350 * MS)
    made.receive(encode_trajectory(constant((1.0, 0.0), horizon=4, ramp=1)))
    made.advance(T0 + 2 * S)
    assert np.allclose(moved(made), [0.05, 0.0]), "what was due before it came is not made up for"


def test_chunk_with_the_largest_started_stamp_acts():
    made = robot()
    made.receive(encode_trajectory(constant((0.0, 1.0), T0 + 400 * MS)))
    made.receive(encode_trajectory(constant((1.0, 0.0), T0)))
    made.advance(T0 + 700 * MS)
    assert np.allclose(moved(made), [0.7, 0.0]), "the later word replaces what it did not start before"
    made.receive(encode_trajectory(constant((0.0, 1.0), T0 + 750 * MS)))
    made.advance(T0 + 900 * MS)
    assert np.allclose(moved(made), [0.75, 0.15])


@given(st.floats(0.0, 0.1), st.integers(0, 1000))
def test_delay_is_continuous(delay_s, at_ms):
    made = robot(replace(unshifted(), delay_s=np.array([delay_s])))
    made.receive(encode_trajectory(constant((1.0, 0.0))))
    made.advance(T0 + at_ms * MS)
    t_s = np.clip(at_ms / 1000 - delay_s, 0.0, None)
    assert np.allclose(moved(made)[0], min(t_s, 0.8) + 0.5 * np.clip(t_s - 0.8, 0.0, 0.1), atol=1e-8)


@given(st.lists(st.integers(1, 1500), max_size=8), st.integers(0, 400), st.integers(1, 10**6))
def test_motion_does_not_depend_on_how_often_time_advances(stops_ms, arrival_ms, seed):
    arm = sample_embodiments(1, seed)
    one, other = robot(arm), robot(arm)
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-2, 2, (8, 2)).astype(np.float32)
    chunk = ActionChunk(actions, np.zeros(2, np.float32), T0 + int(rng.integers(0, 300)) * MS, PERIOD_NS)
    raw = encode_trajectory(to_trajectory(chunk, a_robot(), 2))
    for stop_ms in sorted({ms for ms in stops_ms if ms < arrival_ms}):
        other.advance(T0 + stop_ms * MS)
    for made in (one, other):
        made.advance(T0 + arrival_ms * MS)
        made.receive(raw)
    for stop_ms in sorted({ms for ms in stops_ms if ms > arrival_ms}):
        other.advance(T0 + stop_ms * MS)
    for made in (one, other):
        made.advance(T0 + 1600 * MS)
    assert np.allclose(one.body.angle_rad, other.body.angle_rad, atol=1e-9)


@given(st.integers(1, 10**6), st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
def test_gain_and_sign_act_on_the_true_angle_and_the_offset_on_the_reading(seed, velocity):
    arm = replace(sample_embodiments(1, seed), delay_s=np.array([0.0]))
    made = robot(arm)
    reading = encoder_reading(arm, made.body.angle_rad)[0]
    made.receive(encode_trajectory(constant(velocity, start=reading)))
    sent = made.advance(T0 + 100 * MS)
    assert np.allclose(moved(made), 0.1 * arm.gain[0] * np.float32(velocity), atol=1e-6)
    reader = JointStateReader(a_robot().state)
    joints = [reader.read(message.raw) for message in sent if message.topic == JOINTS_TOPIC]
    assert joints[-1].stamp_ns == T0 + 100 * MS
    assert np.allclose(joints[-1].values, encoder_reading(arm, made.body.angle_rad)[0], atol=1e-6)


def test_arm_stops_at_its_stops_even_for_absurd_commands():
    made = robot()
    made.receive(encode_trajectory(constant((3e38, -3e38))))
    made.advance(T0 + 2 * S)
    assert made.body.angle_rad[0, 0] == JOINT_MAX_RAD[0]
    assert np.isfinite(made.body.angle_rad).all()


@pytest.mark.parametrize("delay_s", [-0.1, 1.5, float("nan")])
def test_impossible_delay_is_refused(delay_s):
    with pytest.raises(ValueError, match="delay of 0 to 1 s"):
        robot(replace(unshifted(), delay_s=np.array([delay_s])))
    with pytest.raises(ValueError, match="one arm"):
        robot(unshifted(2))


def test_refused_trajectory_changes_nothing():
    made = robot()
    made.receive(encode_trajectory(constant((1.0, 0.0))))
    wrong = encode_trajectory(replace(constant((0.0, 1.0)), joint_names=("shoulder", "wrist")))
    for raw, reason in ((b"junk", MessageReason.MALFORMED), (wrong, MessageReason.MISSING_JOINT)):
        with pytest.raises(MessageRefused) as refused:
            made.receive(raw)
        assert refused.value.reason == reason
    made.advance(T0 + 400 * MS)
    assert np.allclose(moved(made), [0.4, 0.0])


def test_sensors_send_on_schedule_with_stamps_of_their_own_time():
    made = robot(image_hz=30.0, joint_hz=100.0, image_size=32)
    sent = [message for ms in range(0, 1001, 50) for message in made.advance(T0 + ms * MS)]
    assert [message.stamp_ns for message in sent] == sorted(message.stamp_ns for message in sent)
    for topic, count in {**dict.fromkeys(CAMERA_TOPICS.values(), 31), JOINTS_TOPIC: 101}.items():
        stamps = [message.stamp_ns for message in sent if message.topic == topic]
        assert len(stamps) == count
        assert (stamps[0], stamps[-1]) == (T0, T0 + S)
    image = next(message for message in sent if message.topic in CAMERA_TOPICS.values())
    assert decode_image(image.raw, IMAGE).image.shape == (32, 32, 3)
    assert decode_image(image.raw, IMAGE).stamp_ns == image.stamp_ns


def test_standing_camera_has_a_grey_level_of_noise_and_no_more():
    made = robot(image_hz=10.0)
    sent = made.advance(T0 + 100 * MS)
    for topic in CAMERA_TOPICS.values():
        first, second = (decode_image(m.raw, IMAGE).image.astype(int) for m in sent if m.topic == topic)
        assert 0.3 < np.abs(first - second).mean() < 2
        assert np.abs(first - second).max() <= 2


def test_messages_that_are_due_too_long_ago_are_dropped_but_episodes_are_not():
    made = robot(image_hz=30.0, joint_hz=100.0, episode_s=1.0)
    sent = made.advance(T0 + 10 * S)
    sensors = [message for message in sent if message.topic not in (PROMPT_TOPIC, EPISODE_TOPIC)]
    assert min(message.stamp_ns for message in sensors) >= T0 + 9_500 * MS
    assert len(sensors) <= 51 + 2 * 16
    assert made.dropped > 1000
    assert [episode.index for episode in made.episodes] == list(range(9))


def test_prompt_changes_half_way_between_ticks_and_never_to_the_same_words():
    made = SimulatedRobot(BENCH, unshifted(), T0 + 33 * MS, seed=4, episode_s=0.5, image_hz=1.0, joint_hz=1.0)
    sent = [made.prompt_message(), *made.advance(T0 + 60 * S)]
    prompts = [message for message in sent if message.topic == PROMPT_TOPIC]
    assert prompts[0].stamp_ns == T0 + 33 * MS
    assert len(prompts) > 100
    assert {message.stamp_ns % PERIOD_NS for message in prompts[1:]} == {PERIOD_NS // 2}
    assert set(np.diff([message.stamp_ns for message in prompts[1:]])) == {500 * MS}
    words = [decode_string(message.raw) for message in prompts]
    assert all(one != other for one, other in pairwise(words))
    assert all(any(colour in text for colour in ("red", "green", "blue", "yellow")) for text in words)


def test_arm_stays_where_it_is_when_an_episode_ends_and_the_scene_changes():
    made = robot(image_hz=10.0, episode_s=1.0)
    before = made.body.angle_rad.copy()
    sent = made.advance(T0 + 1049 * MS)
    distance_m = made.body.distance_m()
    sent += made.advance(T0 + 1100 * MS)
    assert np.array_equal(made.body.angle_rad, before)
    assert made.body.distance_m() != distance_m
    images = [decode_image(m.raw, IMAGE).image for m in sent if m.topic == CAMERA_TOPICS["base_0_rgb"]]
    assert np.abs(images[-2].astype(int) - images[-3]).max() <= 2
    assert np.abs(images[-1].astype(int) - images[-2]).max() > 20
    report = next(json.loads(decode_string(m.raw)) for m in sent if m.topic == EPISODE_TOPIC)
    assert report["distance_m"] == pytest.approx(distance_m)
    assert report == {"index": 0, "prompt": report["prompt"], "distance_m": report["distance_m"], "success": False}
    prompts = [decode_string(m.raw) for m in sent if m.topic == PROMPT_TOPIC]
    assert prompts == [made.body.prompt] != [report["prompt"]]


def test_arm_is_put_back_after_an_episode_and_is_deaf_meanwhile():
    settings = {"image_hz": 1.0, "joint_hz": 10.0, "episode_s": 1.0, "home_s": 0.5}
    made = SimulatedRobot(BENCH, unshifted(), T0, **settings)
    start = made.body.angle_rad.copy()
    end_ns = T0 + 1_000 * MS + PERIOD_NS // 2
    made.body.angle_rad = np.array([(0.0, 1.4)])
    away = encode_trajectory(constant((1.0, 0.0), stamp_ns=0))
    made.receive(away)
    made.advance(end_ns + 100 * MS)
    assert abs(made.body.angle_rad - start).max() > 0.1
    made.receive(away)
    made.advance(end_ns + 600 * MS)
    np.testing.assert_allclose(made.body.angle_rad, start, atol=0.02)
    made.receive(away)
    sent = made.advance(end_ns + 900 * MS)
    assert abs(made.body.angle_rad - start).max() > 0.1, "it obeys again"
    assert PROMPT_TOPIC not in {message.topic for message in sent}


def test_an_arm_that_is_put_back_has_another_prompt_meanwhile_so_that_no_experience_reaches_into_it():
    made = SimulatedRobot(BENCH, unshifted(), T0, image_hz=1.0, joint_hz=10.0, episode_s=1.0, home_s=0.5)
    sent = made.advance(T0 + 5 * S)
    prompts = [message for message in sent if message.topic == PROMPT_TOPIC]
    apart = [(after.stamp_ns - before.stamp_ns) // MS for before, after in pairwise(prompts)]
    assert apart == [500, 1000, 500, 1000, 500]
    assert all(after.raw != before.raw for before, after in pairwise(prompts))
    assert sum(message.topic == EPISODE_TOPIC for message in sent) == 3


def test_episode_succeeds_when_the_tip_is_at_the_target():
    made = robot(episode_s=1.0)
    made.body.scene.targets_m[0, 0] = made.body.scene.targets_m[0, 0] * 0 + [
        0.47 + 0.47 * np.cos(1.4) + 0.09,
        0.47 * np.sin(1.4),
    ]
    made.advance(T0 + 1100 * MS)
    assert made.episodes[0].success
    assert made.episodes[0].distance_m == pytest.approx(0.09)


def test_embodiment_can_change_in_mid_run():
    made = robot(image_hz=10.0)
    made.receive(encode_trajectory(constant((1.0, 0.0), horizon=20)))
    made.advance(T0 + 500 * MS)
    made.body.become(replace(unshifted(), gain=-np.ones((1, 2)), delay_s=np.array([0.05])))
    made.advance(T0 + 800 * MS)
    assert np.allclose(moved(made), [0.2, 0.0])


def test_same_parameters_give_the_same_bytes_and_another_seed_others():
    params = SimParams(bench="reach2", embodiment_seed=7, episode_seed=3, episode_s=1.0)
    sent = [make_robot(params, T0).advance(T0 + 500 * MS) for _ in range(2)]
    assert sent[0] == sent[1]
    assert sent[0] != make_robot(params.updated({"episode_seed": 4}), T0).advance(T0 + 500 * MS)
    assert np.array_equal(make_robot(params, T0).body.arm.gain, sample_embodiments(1, 7).gain)
    assert (make_robot(SimParams(bench="reach2"), T0).body.arm.gain == 1).all()
