"""Which experience is left out, and how the rest is split in time: what is learned from and what judges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import make_experiences
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.alignment.experience_check import check_request
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.alignment.split import LEAST_TO_JUDGE, Split, parts_of, split, split_by_episode, straying
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.robot.description import ActionKind
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
    assert len(judged) >= min(quarter, LEAST_TO_JUDGE)
    assert len(judged) >= quarter / 2
    borders = [i for i in range(count // 2, count) if i and episodes[i] != episodes[i - 1]]
    assert cut == count - quarter or cut in borders
    assert cut in borders or all(count - border < max(quarter / 2, LEAST_TO_JUDGE) for border in borders)


def test_without_a_border_the_last_quarter_judges() -> None:
    learn, judged = split_by_episode(make_experiences(40, episodes=1))
    assert (len(learn), len(judged)) == (30, 10)
    learn, judged = split_by_episode(make_experiences(40, episodes=5))
    assert (len(learn), len(judged)) == (32, 8)


@pytest.mark.parametrize(("count", "after_border", "judging"), [(40, 3, 10), (24, 3, 6), (24, 4, 4), (40, 5, 5)])
def test_a_border_that_leaves_too_little_to_judge_by_is_none(count: int, after_border: int, judging: int) -> None:
    experiences = make_experiences(count, episodes=1)
    experiences[-after_border:] = [dataclasses.replace(item, episode=1) for item in experiences[-after_border:]]
    learn, judged = split_by_episode(experiences)
    assert (len(learn), len(judged)) == (count - judging, judging)


def of_episodes(*counts: int, stride_s: float = 0.4) -> list[Experience]:
    """`counts` experiences of one episode after the other."""
    one, found = make_experiences(1)[0], list[Experience]()
    for episode, count in enumerate(counts):
        for _ in range(count):
            seen = dataclasses.replace(one.observation, stamp_ns=round(len(found) * stride_s * 1e9))
            found.append(dataclasses.replace(one, observation=seen, episode=episode))
    return found


def test_parts_are_of_one_episode_and_not_too_long() -> None:
    assert parts_of(of_episodes(14, 3, 10)) == [list(range(14)), list(range(17, 27))], "three tell nothing"
    assert parts_of(of_episodes(40)) == [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert parts_of([]) == []


@settings(max_examples=10)
@given(
    st.lists(st.sampled_from([-1.4, -0.6, 0.6, 1.0, 1.4]), min_size=2, max_size=2), st.integers(0, 1000), st.booleans()
)
def test_joints_follow_whatever_their_gain_and_what_meets_a_stop_is_not_asked(
    gain: list[float], seed: int, stop: bool
) -> None:
    assert not straying(moved_by(gain, seed=seed, stop_rad=0.9 if stop else 9.0), ROBOT).any()


@pytest.mark.parametrize(("gain", "allowed_rad"), [(1.4, 0.21), (-1.4, 0.21), (1.0, 0.15), (0.5, 0.15)])
@pytest.mark.parametrize("past", [False, True])
def test_a_larger_gain_may_miss_by_more(gain: float, allowed_rad: float, past: bool) -> None:
    moved = moved_by([gain, 1.0])
    index = next(i for i, item in enumerate(moved) if abs(item.next_observation.state[0]) < 0.5)
    item, asked = moved[index], 0.1 * float(moved[index].commands[:, 0].sum())
    miss = np.array([allowed_rad + 0.2 * abs(gain * asked) + (0.01 if past else -0.01), 0.0], np.float32)
    ended = dataclasses.replace(item.next_observation, state=item.next_observation.state + miss)
    moved[index] = dataclasses.replace(item, next_observation=ended)
    assert np.argwhere(straying(moved, ROBOT)).tolist() == ([[index, 0]] if past else [])


def in_parts(gain: float, seed: int) -> list[Experience]:
    """Four parts of 16, of one episode."""
    return [
        dataclasses.replace(item, observation=dataclasses.replace(item.observation, stamp_ns=i * 400_000_000))
        for i, item in enumerate(moved_by([gain, 1.0], 64, seed))
    ]


def clear_in_third_part(experiences: list[Experience]) -> list[int]:
    """Those of rows 32 to 47 in which the first joint was asked to go far and met no stop."""
    ends = np.array([[item.observation.state[0], item.next_observation.state[0]] for item in experiences])
    low, high = np.quantile(ends, (0.02, 0.98))
    inside = ((low + 0.02 < ends) & (ends < high - 0.02)).all(1)
    return [i for i in range(32, 48) if inside[i] and abs(0.1 * experiences[i].commands[:, 0].sum()) > 0.2]


@settings(max_examples=30)
@given(st.sampled_from([0.6, -0.8, 1.3]), st.sampled_from([0.5, 0.9, 1.1, 1.5]), st.integers(0, 1000))
def test_a_joint_strays_in_all_of_a_part_in_most_of_which_it_goes_another_distance(
    gain: float, factor: float, seed: int
) -> None:
    mine, theirs = in_parts(gain, seed), in_parts(gain * factor, seed)
    mixed = [*mine[:32], *theirs[32:48], *mine[48:]]
    assume(len(clear_in_third_part(mixed)) >= 4)
    strays = straying(mixed, ROBOT)
    assert strays[32:48, 0].all() == (factor in {0.5, 1.5}), "whatever was asked"
    assert not strays[:32].any()
    assert not strays[48:].any()
    assert not strays[:, 1].any()


@settings(max_examples=30)
@given(st.sampled_from([0.6, -0.8, 1.3]), st.sampled_from([0.5, 1.5]), st.integers(0, 1000))
def test_less_than_three_quarters_of_a_part_say_nothing_about_the_rest(gain: float, factor: float, seed: int) -> None:
    mine, theirs = in_parts(gain, seed), in_parts(gain * factor, seed)
    mixed = list(mine)
    part = clear_in_third_part(mine)
    for i in part[: len(part) // 2]:
        mixed[i] = theirs[i]
    strays = straying(mixed, ROBOT)
    assert not strays[[i for i in range(64) if mixed[i] is mine[i]]].any()


@pytest.mark.parametrize(("clear", "of", "tells"), [(3, 16, False), (4, 16, True), (7, 32, False), (8, 32, True)])
def test_a_part_needs_four_experiences_that_tell_and_a_quarter(clear: int, of: int, tells: bool) -> None:
    others = in_parts(1.0, 0)

    def moved(item: Experience, command: float, to_rad: float, stamp_ns: int) -> Experience:
        start, end = np.zeros(2, np.float32), np.full(2, to_rad, np.float32)
        return dataclasses.replace(
            item,
            commands=np.full_like(item.commands, command),
            observation=dataclasses.replace(item.observation, state=start, stamp_ns=stamp_ns),
            next_observation=dataclasses.replace(item.next_observation, state=end),
            episode=1,
        )

    asked = [(0.6, 0.15)] * clear + [(0.0, 0.0)] * (of - clear)
    part = [moved(others[0], *went, i * 6_400_000_000 // of) for i, went in enumerate(asked)]
    strays = straying([*others, *part], ROBOT)
    assert strays.any(1).tolist() == [False] * 64 + [tells] * of


def test_what_was_held_and_what_strayed_is_neither_learned_from_nor_judges(policy: Policy) -> None:
    right = in_parts(1.0, 0)
    mixed = with_others_commands(right, 3)
    strayed = [i for i, item in enumerate(mixed) if item is not right[i]]
    held = [i for i in range(20, 64) if abs(0.1 * right[i].commands[:, 1].sum()) > 0.3][:5]
    for i in held:
        stuck = right[i].next_observation.state.copy()
        stuck[1] = right[i].observation.state[1]
        mixed[i] = dataclasses.replace(
            right[i], next_observation=dataclasses.replace(right[i].next_observation, state=stuck)
        )
    found = split(mixed, policy.config.robot)
    used = [*found.learn, *found.judged]
    assert not any(item is mixed[i] for item in used for i in (*held, *strayed))
    assert found.left_out == len(held) + len(strayed) == 8
    assert found.strays.shape == (64 - len(held), 2)
    assert found.enough


def with_others_commands(experiences: list[Experience], count: int, last_first: bool = False) -> list[Experience]:
    """`count` of them with commands that would have led the first joint elsewhere, from the start on or the end."""
    found, changed = list(experiences), 0
    for index in reversed(range(len(found))) if last_first else range(len(found)):
        item, near = found[index], abs(found[index].next_observation.state[0]) < 1.0  # not at its farthest
        if near and changed < count:
            far = 1.6 * np.sign(item.commands[:, 0].sum() + 1e-6)
            commands = item.commands + np.array([far, 0.0], np.float32)
            found[index] = dataclasses.replace(item, commands=commands)
            changed += 1
    assert changed == count
    return found


@pytest.mark.parametrize(
    ("of", "count", "last_first", "detail"),
    [
        (40, 6, False, None),
        (40, 7, False, "joint 'shoulder', in 7 of 40 experiences; 15% may"),
        (40, 3, True, None),
        (40, 4, True, "joint 'shoulder', in 4 of the newest 10 experiences; 20% may"),
        (80, 4, True, None),
        (80, 5, True, "joint 'shoulder', in 5 of the newest 20 experiences; 20% may"),
    ],
)
def test_commands_of_another_time_are_left_out_and_many_of_them_refused(
    policy: Policy, of: int, count: int, last_first: bool, detail: str | None
) -> None:
    right = moved_by([1.0, -0.7], of)
    mixed = with_others_commands(right, count, last_first)
    strays = straying(mixed, ROBOT)
    assert [bool(row.any()) for row in strays] == [a is not b for a, b in zip(mixed, right, strict=True)]
    verdict = check_request(policy, mixed, Split(mixed[:20], mixed[20:], strays, 0), AlignParams())
    if detail is None:
        assert verdict is None
    else:
        assert verdict is not None
        assert verdict.reason is Reason.JOINTS_DO_NOT_FOLLOW
        assert verdict.detail == detail


def test_another_robots_joint_strays_from_what_the_first_ones_do() -> None:
    theirs = moved_by([1.0, -1.0], 12, seed=1)
    strays = straying([*moved_by([1.0, 1.0], 28), *theirs], ROBOT)
    assert not strays[:28].any()
    assert not strays[:, 0].any()
    far = np.array([abs(0.1 * float(item.commands[:, 1].sum())) > 0.2 for item in theirs])
    assert far.sum() >= 6
    assert (far & strays[28:, 1]).sum() >= far.sum() - 2, "all but what ends farthest, where a stop could be"


@pytest.mark.parametrize("kind", ["velocity", "delta_position", "position"])
def test_what_the_commands_mean_is_the_models(kind: ActionKind) -> None:
    def meant(item: Experience) -> Experience:
        goals = positions_of(item.commands, item.observation.state, ROBOT.kinds, 0.1)
        start = 0.0 if kind == "position" else item.observation.state
        return item if kind == "velocity" else dataclasses.replace(item, commands=(goals - start).astype(np.float32))

    wrong = [meant(item) for item in with_others_commands(moved_by([1.0, -0.7]), 5)]
    strays = straying(wrong, a_robot(kind))
    if kind == "position":
        assert not strays.any(), "a goal is no distance"
    else:
        assert strays.any(1).sum() == 5


def test_what_is_malformed_is_left_for_the_alignment_to_name() -> None:
    right = with_others_commands(moved_by([1.0, 1.0]), 5)
    seen, commands = right[0].observation, right[0].commands
    assert straying(right, ROBOT).any()
    for item in (
        dataclasses.replace(right[0], observation=dataclasses.replace(seen, state=np.full(2, np.nan, np.float32))),
        dataclasses.replace(right[0], observation=dataclasses.replace(seen, state=np.zeros(7, np.float32))),
        dataclasses.replace(right[0], commands=commands[:, :1]),
        dataclasses.replace(right[0], commands=commands[:0]),
    ):
        assert not straying([*right, item], ROBOT).any()
    flat = [dataclasses.replace(item, commands=item.commands[:, None]) for item in right]
    assert not straying(flat, ROBOT).any()
    assert straying([], ROBOT).shape == (0, 2)
