"""Stamps against the node's clock: ahead, behind, and a clock that falls back, stands or never comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.observation.assemble import (
    AssemblerLimits,
    ObservationAssembler,
    ObservationReason,
    ObservationRefused,
)
from vla_align_ros.observation.codecs import IMAGE, encode_image, encode_joint_state
from vla_align_ros.observation.stamps import ClockWatch

NAMES = ("shoulder", "elbow")
MS = 1_000_000
T0 = 1_700_000_000_000 * MS


def assembler() -> ObservationAssembler:
    limits = AssemblerLimits(0.5, 0.2, frozen_s=1.0, history_s=3.0, stamp_ahead_max_s=0.2)
    made = ObservationAssembler(a_robot(names=NAMES), ("base",), 8, limits, str)
    made.push_prompt("go", 0)
    return made


def see(seen: ObservationAssembler, stamp_ms: int, now_ms: int, value: int = 7) -> None:
    raw = encode_image(np.full((8, 8, 3), value, np.uint8), T0 + stamp_ms * MS)
    seen.push_image("base", raw, IMAGE, T0 + now_ms * MS)


def feel(
    seen: ObservationAssembler, stamp_ms: int, now_ms: int, value: float = 1.0, names: tuple[str, ...] = NAMES
) -> None:
    raw = encode_joint_state(names, np.full(len(names), value), T0 + stamp_ms * MS)
    seen.push_joints(raw, T0 + now_ms * MS)


def refusal_at(seen: ObservationAssembler, t_ms: int) -> ObservationRefused:
    with pytest.raises(ObservationRefused) as caught:
        seen.observe(T0 + t_ms * MS)
    return caught.value


# --- ahead and behind ---


def test_a_camera_whose_clock_is_ahead_is_refused_with_the_offset_in_words() -> None:
    seen = assembler()
    feel(seen, 0, 0)
    with pytest.raises(
        ObservationRefused, match=r"camera 'base' is stamped 2\.03 s ahead of this node's clock.*chrony"
    ):
        see(seen, 2030, 0)
    assert seen.refused == {ObservationReason.STAMP_AHEAD: 1}
    feel(seen, 2030, 2030)
    refused = refusal_at(seen, 2030)
    assert refused.reason is ObservationReason.NO_IMAGE
    assert "2.03 s ahead" in str(refused)
    problem, values = seen.diagnose(T0 + 2030 * MS)
    assert "camera 'base' is stamped 2.03 s ahead" in problem
    assert values == {"age_ms.joints": 0.0, "arrival_delay_ms.base": -2030.0, "arrival_delay_ms.joints": 0.0}


@given(st.integers(-5000, 5000))
@example(200)
@example(-3000)
def test_a_stamp_is_taken_from_the_history_to_the_limit_ahead(offset_ms: int) -> None:
    for push in (see, feel):
        seen = assembler()
        try:
            push(seen, 10_000 + offset_ms, 10_000)
            reason = None
        except ObservationRefused as refused:
            reason = refused.reason
        ahead, behind = offset_ms > 200, offset_ms < -3000
        assert reason == (
            ObservationReason.STAMP_AHEAD if ahead else ObservationReason.STAMP_BEHIND if behind else None
        )


def test_a_replay_without_its_clock_is_said_to_need_it() -> None:
    with pytest.raises(ObservationRefused, match=r"86400\.00 s behind.*ros2 bag play --clock.*use_sim_time:=true"):
        see(assembler(), 0, 86_400_000)


def test_a_clock_that_is_a_little_behind_makes_stale_and_the_delay_is_said() -> None:
    seen = assembler()
    feel(seen, 1000, 1000)
    see(seen, 200, 1000)
    refused = refusal_at(seen, 1000)
    assert refused.reason is ObservationReason.STALE_IMAGE
    assert "0.800 s old" in str(refused)
    assert "came 0.800 s after its stamp" in str(refused)


def test_one_joint_group_with_a_wrong_clock_is_named() -> None:
    seen = assembler()
    see(seen, 0, 0)
    feel(seen, 0, 0, names=("shoulder",))
    with pytest.raises(ObservationRefused, match=r"the joint state of \['elbow'\] is stamped 1\.50 s ahead"):
        feel(seen, 1500, 0, names=("elbow",))
    refused = refusal_at(seen, 0)
    assert refused.reason is ObservationReason.NO_JOINTS
    assert "no joint state of ['elbow']" in str(refused)
    assert "1.50 s ahead" in str(refused)
    assert "slow way" not in str(refused), "the shoulder's message was all right"
    assert seen.diagnose(T0)[1]["arrival_delay_ms.joints.elbow"] == -1500.0


def test_a_message_that_came_long_ago_is_no_problem_of_now() -> None:
    seen = assembler()
    with pytest.raises(ObservationRefused):
        feel(seen, 5000, 0, names=("elbow",))
    assert "5.00 s ahead" in seen.diagnose(T0 + 1000 * MS)[0]
    for t_ms in range(0, 6000, 50):
        feel(seen, t_ms, t_ms)
    assert seen.diagnose(T0 + 6000 * MS)[0] == ""


def test_the_problem_is_over_with_the_next_good_message() -> None:
    seen = assembler()
    with pytest.raises(ObservationRefused):
        see(seen, 2000, 0)
    see(seen, 10, 10)
    assert seen.diagnose(T0 + 20 * MS) == ("", {"age_ms.base": 10.0, "arrival_delay_ms.base": 0.0})


# --- the newest joint state ---


def test_measured_is_the_newest_of_every_joint_and_must_be_fresh() -> None:
    seen = assembler()
    feel(seen, 0, 0, 1.0)
    feel(seen, 100, 100, 2.0, names=("elbow",))
    assert seen.measured(T0 + 150 * MS).tolist() == [1.0, 2.0]
    with pytest.raises(
        ObservationRefused, match=r"stale_joints: the newest joint state of \['shoulder'\] is 0\.250 s old"
    ):
        seen.measured(T0 + 250 * MS)
    assert seen.joints_at(T0 + 50 * MS).tolist() == [1.0, 1.0]


# --- the node's clock ---


def test_without_a_clock_nothing_can_be_judged_and_the_reason_is_said() -> None:
    seen = assembler()
    raw = encode_joint_state(NAMES, np.zeros(2), T0)
    with pytest.raises(ObservationRefused, match=r"no_clock: .*waiting for /clock"):
        seen.push_joints(raw, 0)
    feel(seen, 0, 0)
    assert seen.joints_at(T0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("back_ms", [101, 150, 900, 60_000])
def test_what_was_sensed_before_the_clock_fell_back_is_forgotten_and_new_messages_count_at_once(back_ms: int) -> None:
    seen = assembler()
    for t_ms in range(0, 1000, 50):
        feel(seen, t_ms, t_ms)
        see(seen, t_ms, t_ms)
    seen.push_prompt("later", T0 + 940 * MS)
    now_ms = 950 - back_ms
    feel(seen, now_ms, now_ms, 5.0)
    assert refusal_at(seen, now_ms).reason is ObservationReason.NO_IMAGE, "no picture of the other time"
    see(seen, now_ms, now_ms, 50)
    observation = seen.observe(T0 + now_ms * MS)
    assert (observation.state[0], observation.images["base"].max(), observation.prompt) == (5, 50, "later")
    assert seen.refused[ObservationReason.CLOCK_JUMP] == 1


def test_old_messages_do_not_come_to_life_when_the_clock_has_caught_up_without_new_ones() -> None:
    seen = assembler()
    seen.follow(T0 + 1000 * MS)
    feel(seen, 1000, 1000)
    see(seen, 1000, 1000)
    for now_ms in range(0, 1001, 10):
        seen.follow(T0 + now_ms * MS)
    assert refusal_at(seen, 1000).reason is ObservationReason.NO_JOINTS
    assert seen.refused[ObservationReason.CLOCK_JUMP] == 1


def test_two_readers_of_one_clock_may_be_late_against_each_other() -> None:
    seen = assembler()
    for now_ms in range(0, 2000, 50):
        seen.follow(T0 + (now_ms + 400) * MS)
        feel(seen, now_ms, now_ms)
    assert seen.refused == {}
    feel(seen, -60_000, -60_000, 5.0)
    seen.follow(T0 - 59_990 * MS)  # hears of the fall-back later: what came after it stays
    assert seen.joints_at(T0 - 59_990 * MS)[0] == 5.0
    assert seen.refused == {ObservationReason.CLOCK_JUMP: 1}


def test_a_correction_of_the_clock_costs_nothing() -> None:
    seen = assembler()
    feel(seen, 500, 500)
    see(seen, 500, 500)
    feel(seen, 450, 450)
    assert seen.observe(T0 + 500 * MS).state[0] == 1.0
    assert seen.refused == {}


def test_a_clock_that_never_comes_stands_or_goes_on_is_told_apart() -> None:
    watch = ClockWatch()
    assert "waiting for /clock" in watch.problem(0, 10.0)
    assert "waiting for /clock" in watch.problem(0, 11.0)
    assert watch.problem(T0, 12.0) == ""
    assert watch.problem(T0 + 1, 13.5) == ""
    assert watch.problem(T0 + 1, 14.4) == ""
    assert "/clock stands at 1700000000.000 s since 5 s" in watch.problem(T0 + 1, 18.5)
    assert watch.problem(T0 - 10**9, 19.0) == "", "it fell back, and goes on"
