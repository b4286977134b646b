"""Which experience is left out, and how the rest is split in time: what is learned from and what judges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import make_experiences
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.alignment.split import split, split_by_episode, straying
from vla_align_ros.policy import Policy
from vla_align_ros.robot.description import METRES_A_RAD, ActionKind, Joint
from vla_align_ros.types import Experience

ROBOT = a_robot()


def moved_by(gain: list[float], count: int = 40, seed: int = 0, stop_rad: float = 9.0) -> list[Experience]:
    """One episode, 10 s apart, of a robot whose joints go `gain` times as far as asked, or backwards, and no farther
    than `stop_rad`."""
    found = []
    for item in make_experiences(count, episodes=1, seed=seed):
        start = np.clip(item.observation.state, None, stop_rad)
        end = np.clip(start + np.float32(0.1 * np.array(gain)) * item.commands.sum(0), None, stop_rad)
        found.append(
            dataclasses.replace(
                item,
                observation=dataclasses.replace(item.observation, state=start, stamp_ns=len(found) * 10**10),
                next_observation=dataclasses.replace(item.next_observation, state=end.astype(np.float32)),
            )
        )
    return found


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_have_no_later_part(count: int) -> None:
    learn, judged = split_by_episode(make_experiences(count))
    assert (len(learn), len(judged)) == (count, 0)


@given(st.integers(2, 60), st.data())
def test_what_is_judged_by_is_later_than_what_was_learned_from(count: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 8))
    episodes = np.sort(data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count)))
    experiences = [
        dataclasses.replace(
            item,
            episode=int(episodes[index]),
            observation=dataclasses.replace(item.observation, stamp_ns=index * stride),
            next_observation=dataclasses.replace(item.next_observation, stamp_ns=index * stride + 5),
        )
        for index, item in enumerate(make_experiences(count))
    ]
    learn, judged = split_by_episode(experiences)
    assert judged == experiences[-len(judged) :]
    assert 1 <= len(judged) <= count - count // 2
    assert all(item.next_observation.stamp_ns <= judged[0].observation.stamp_ns for item in learn)
    cut = count - len(judged)
    dropped = [item for item in experiences[:cut] if not any(item is kept for kept in learn)]
    assert all(item.next_observation.stamp_ns > judged[0].observation.stamp_ns for item in dropped)
    quarter = max(1, round(count / 4))
    assert len(judged) >= quarter / 2
    borders = [i for i in range(count // 2, count) if i and episodes[i] != episodes[i - 1]]
    assert cut == count - quarter or cut in borders
    assert cut in borders or all(count - border < quarter / 2 for border in borders)


def test_without_a_border_the_last_quarter_judges() -> None:
    learn, judged = split_by_episode(make_experiences(40, episodes=1))
    assert (len(learn), len(judged)) == (30, 10)
    learn, judged = split_by_episode(make_experiences(40, episodes=5))
    assert (len(learn), len(judged)) == (32, 8)


@pytest.mark.parametrize(("count", "after_border", "judging"), [(40, 3, 10), (24, 2, 6), (24, 3, 3), (40, 5, 5)])
def test_a_border_that_leaves_too_little_to_judge_by_is_none(count: int, after_border: int, judging: int) -> None:
    experiences = make_experiences(count, episodes=1)
    experiences[-after_border:] = [dataclasses.replace(item, episode=1) for item in experiences[-after_border:]]
    learn, judged = split_by_episode(experiences)
    assert (len(learn), len(judged)) == (count - judging, judging)


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([-1.4, -0.6, 0.6, 1.0, 1.4]), min_size=2, max_size=2), st.integers(0, 1000), st.booleans()
)
def test_joints_follow_whatever_their_gain_and_a_stop_is_no_fault(gain: list[float], seed: int, stop: bool) -> None:
    strays = straying(moved_by(gain, seed=seed, stop_rad=0.9 if stop else 9.0), ROBOT)
    assert strays.max() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("gain", [1.4, -0.6])
@pytest.mark.parametrize(("reaches", "strays"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (1.5, 0.5), (-0.5, 0.5)])
def test_a_joint_strays_by_what_it_goes_too_far_or_the_wrong_way(gain: float, reaches: float, strays: float) -> None:
    """reaches: how far it goes in one experience, over how far it should."""
    moved = moved_by([gain, 1.0])
    item, should = moved[5], gain * 0.1 * float(moved[5].commands[:, 0].sum())
    start = item.observation.state
    state = np.array([start[0] + reaches * should, item.next_observation.state[1]], np.float32)
    moved[5] = dataclasses.replace(item, next_observation=dataclasses.replace(item.next_observation, state=state))
    mostly = np.sqrt(np.mean([(gain * 0.1 * item.commands[:, 0].sum()) ** 2 for item in moved]))
    found = straying(moved, ROBOT)
    assert found[5, 0] == pytest.approx(strays * abs(should) / mostly, abs=1e-4)
    assert np.delete(found, 5, 0).max() == pytest.approx(0.0, abs=1e-4)


def hardly_sent() -> list[Experience]:
    """The second joint is sent almost nowhere, and trembles."""
    still = list[Experience]()
    for index, item in enumerate(moved_by([1.0, 1.0])):
        end = [item.next_observation.state[0], item.observation.state[1] + 0.002 * (-1) ** index]
        seen = dataclasses.replace(item.next_observation, state=np.array(end, np.float32))
        still.append(dataclasses.replace(item, commands=item.commands * np.float32([1, 1e-4]), next_observation=seen))
    return still


def test_a_joint_that_is_hardly_sent_anywhere_has_noise_alone() -> None:
    assert straying(hardly_sent(), ROBOT).max() < 0.2


def test_a_slide_strays_as_a_joint_that_turns_as_far() -> None:
    def slid(item: Experience) -> Experience:
        seen, after = (
            dataclasses.replace(each, state=each.state * np.float32(METRES_A_RAD))
            for each in (item.observation, item.next_observation)
        )
        commands = item.commands * np.float32(METRES_A_RAD)
        return dataclasses.replace(item, observation=seen, commands=commands, next_observation=after)

    turned, slide = straying(hardly_sent(), ROBOT), Joint((-3.0, 3.0), 2.5, unit="m")
    assert turned.max() > 0.05
    strays = straying([slid(item) for item in hardly_sent()], a_robot(joint=slide))
    np.testing.assert_allclose(strays, turned, rtol=1e-4, atol=1e-6)


def test_what_was_held_and_what_strayed_is_neither_learned_from_nor_judges(policy: Policy) -> None:
    right = moved_by([1.0, 1.0], 64)
    strayed = [3, 20, 50]
    mixed = list(right)
    for index in strayed:
        mixed[index] = dataclasses.replace(right[index], commands=-right[index].commands)
    held = [i for i in range(21, 49) if abs(0.1 * right[i].commands[:, 1].sum()) > 0.3][:5]
    for i in held:
        stuck = right[i].next_observation.state.copy()
        stuck[1] = right[i].observation.state[1]
        mixed[i] = dataclasses.replace(
            right[i], next_observation=dataclasses.replace(right[i].next_observation, state=stuck)
        )
    found = split(mixed, policy.config.robot, 0.3)
    used = [*found.learn, *found.judged]
    assert not any(item is mixed[i] for item in used for i in (*held, *strayed))
    assert found.left_out == len(held) + len(strayed) == 8
    assert found.strays.shape == (64 - len(held), 2)
    assert found.usable == 56
    assert split(mixed, policy.config.robot, 1e9).left_out == len(held)


def test_another_robots_joint_strays_from_what_the_first_ones_do() -> None:
    strays = straying([*moved_by([1.0, 1.0], 28), *moved_by([1.0, -1.0], 12, seed=1)], ROBOT)
    assert strays[:28].max() == pytest.approx(0.0, abs=1e-4)
    assert strays[:, 0].max() == pytest.approx(0.0, abs=1e-4)
    assert (strays[28:, 1] > 0).all()


@pytest.mark.parametrize("kind", ["velocity", "delta_position", "position"])
def test_what_the_commands_mean_is_the_models(kind: ActionKind) -> None:
    def meant(item: Experience) -> Experience:
        goals = positions_of(item.commands, item.observation.state, ROBOT.kinds, 0.1)
        start = 0.0 if kind == "position" else item.observation.state
        return item if kind == "velocity" else dataclasses.replace(item, commands=(goals - start).astype(np.float32))

    right = moved_by([1.0, -0.7])
    right[7] = dataclasses.replace(right[7], commands=-right[7].commands)
    strays = straying([meant(item) for item in right], a_robot(kind))
    assert np.flatnonzero(strays.max(1) > 0.01).tolist() == ([] if kind == "position" else [7]), "a goal is no distance"


def test_an_object_in_the_way_of_a_gripper_is_no_fault() -> None:
    right = moved_by([1.0, 1.0])
    right[7] = dataclasses.replace(right[7], commands=-right[7].commands)
    arm, gripper = Joint((-3.0, 3.0), 2.5), Joint((-3.0, 3.0), 2.5, may_be_blocked=True)
    strays = straying(right, a_robot(joint=(arm, gripper)))
    assert strays[7, 0] > 0
    assert strays[7, 1] == 0


def test_what_is_malformed_is_left_for_the_alignment_to_name() -> None:
    right = moved_by([1.0, 1.0])
    right[3] = dataclasses.replace(right[3], commands=-right[3].commands)
    seen, commands = right[0].observation, right[0].commands
    assert straying(right, ROBOT).any()
    for item in (
        dataclasses.replace(right[0], observation=dataclasses.replace(seen, state=np.full(2, np.nan, np.float32))),
        dataclasses.replace(right[0], observation=dataclasses.replace(seen, state=np.zeros(7, np.float32))),
        dataclasses.replace(right[0], commands=commands[:, :1]),
        dataclasses.replace(right[0], commands=commands[:0]),
    ):
        assert not straying([*right, item], ROBOT).any()
    assert straying([], ROBOT).shape == (0, 2)
