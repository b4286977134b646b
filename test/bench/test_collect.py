"""What a robot's buffer would hold: experience that counts, in order of time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_align_ros.action.exploration import CLIP_SHARE
from vla_align_ros.bench import collect
from vla_align_ros.bench.collect import collect_experience, fill_buffer, fill_buffers
from vla_align_ros.bench.evaluate import action_error, finished
from vla_align_ros.bench.port import Bench, bench_names, find_bench
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import unshifted
from vla_align_ros.experience.builder import joint_held
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy, PolicyError, load_policy
from vla_align_ros.zoo import find_model


def test_a_buffer_is_filled_with_experience_that_counts_however_often_the_arm_is_at_its_stops() -> None:
    policy, arm = load_policy(find_model("tiny"), "cpu"), unshifted()
    arm.gain[:] = -1.0  # drives itself to its stops
    token, robot = policy.initial_token(), policy.config.robot
    assert token is not None
    (recorded,) = collect_experience(policy, BENCH, arm, token[None], 128, seed=3)
    buffer = fill_buffer(policy, BENCH, arm, token, seed=3)
    assert sum(joint_held(item, robot) for item in recorded) > 10
    assert len(buffer) == 128
    assert not any(joint_held(item, robot) for item in buffer)
    assert len({item.commands.tobytes() for item in buffer}) == 128, "each turn is another one"
    starts_ns = [item.observation.stamp_ns for item in buffer]
    assert (np.diff(starts_ns) > 0).all()
    assert (np.diff([item.episode for item in buffer]) >= 0).all()


def test_only_what_is_missing_is_recorded_again(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    asked = list[tuple[int, int]]()

    def recorded(policy: Policy, bench: Any, arms: Any, tokens: Any, count: int, *rest: Any) -> Any:
        asked.append((len(arms), count))
        return collect_experience(policy, bench, arms, tokens, count, *rest)

    monkeypatch.setattr(collect, "collect_experience", recorded)
    at_its_stops, token = unshifted(2), policy.initial_token()
    assert token is not None
    at_its_stops.gain[0] = -1.0
    (held, free) = fill_buffers(policy, BENCH, at_its_stops, token.expand(2, -1, -1), seed=3, count=32)
    assert (len(held), len(free)) == (32, 32)
    assert asked[0] == (2, 32)
    assert [count for _, count in asked[1:]] == [16] * len(asked[1:]) != []


def test_arms_side_by_side_are_each_asked_until_they_have_enough() -> None:
    policy = load_policy(find_model("tiny"), "cpu")
    free, at_its_stops = unshifted(), unshifted()
    at_its_stops.gain[:] = -1.0
    token = policy.initial_token()
    assert token is not None
    buffers = fill_buffers(policy, BENCH, [at_its_stops, free], token.expand(2, -1, -1), seed=3)
    assert [len(buffer) for buffer in buffers] == [128, 128]
    assert not any(joint_held(item, policy.config.robot) for buffer in buffers for item in buffer)
    turned = [
        np.mean([(item.next_observation.state - item.observation.state) * item.commands.mean(0) for item in buffer])
        for buffer in buffers
    ]
    assert turned[0] < 0 < turned[1], "each has its own arm's"


def test_the_same_seeds_give_what_they_always_gave(policy: Policy) -> None:
    """Recorded when each bench had a loop of its own: episodes, noise and exploration stay as they are."""
    arms, token = BENCH.embodiments(2, 7), policy.initial_token()
    assert token is not None
    tokens = token.expand(2, -1, -1)
    made = collect_experience(policy, BENCH, arms, tokens, 24, seed=3)
    assert [len(mine) for mine in made] == [24, 24]
    assert np.allclose([mine[5].commands[3] for mine in made], [[0.77172345, -0.5577988], [-0.28016371, 1.44937503]])
    last = [mine[-1].next_observation.state for mine in made]
    assert np.allclose(last, [[-1.6762017, 0.45032891], [-0.78767592, 0.74319071]], atol=1e-5)
    error = action_error(policy, BENCH, arms, tokens, seed=4, samples=16)
    assert np.allclose(error, [2.74193711, 4.40977962], rtol=1e-4)
    ended = finished(policy, BENCH, arms, tokens, seed=6)
    assert np.allclose(ended.distance_m(), [0.47973022, 0.56059939], atol=1e-4)
    assert not ended.succeeded.any()


def test_random_motion_is_commanded_in_each_robots_own_kind_and_moves_it(bench: Bench[Any], policy_for: Any) -> None:
    policy, robot = policy_for(bench), bench.robot
    token = policy.initial_token()
    (made,) = collect_experience(policy, bench, [bench.embodiment(0)], token[None], 32, 1, exploration_fraction=1.0)
    assert len(made) == 32
    commands = np.stack([item.commands for item in made]).astype(float)
    start, after = (
        robot.measured(np.stack([seen.state for seen in part]))
        for part in ([item.observation for item in made], [item.next_observation for item in made])
    )
    fastest = PolicyParams.exploration_speed_fraction * robot.velocity_max * CLIP_SHARE + 1e-6
    period_s = robot.period_ns * 1e-9
    if (robot.kinds != "velocity").all():
        origin = np.where(robot.kinds == "position", start, 0.0)
        assert (np.abs(commands[:, 0] - origin) <= fastest * period_s).all(), "from where the joints are"
        way = commands[:, -1] - origin
    else:
        assert (np.abs(commands) <= fastest).all()
        way = commands.sum(1) * period_s
    for joint in range(len(robot.action)):
        assert np.corrcoef(way[:, joint], (after - start)[:, joint])[0, 1] > 0.7, robot.action_joints[joint]
    stamps = np.array([[item.observation.stamp_ns, item.next_observation.stamp_ns] for item in made])
    assert (stamps[:, 1] - stamps[:, 0] == 2 * robot.execute * robot.period_ns).all()
    assert (np.diff(stamps[:, 0]) > 0).all()


def test_episodes_of_any_bench_end_and_a_policy_of_another_robot_is_refused(bench: Bench[Any], policy_for: Any) -> None:
    policy = policy_for(bench)
    tokens = policy.initial_token().expand(3, -1, -1)
    ended = finished(policy, bench, bench.embodiments(3, 1), tokens, 2)
    assert ended.over.all()
    assert np.isfinite(ended.distance_m()).all()
    assert (action_error(policy, bench, bench.embodiments(3, 1), tokens, 2, samples=2) > 0).all()
    (other,) = (find_bench(name) for name in bench_names() if find_bench(name) is not bench)
    with pytest.raises(PolicyError, match="is of another robot: state"):
        collect_experience(policy, other, other.embodiments(1, 1), tokens[:1], 8, 1)
