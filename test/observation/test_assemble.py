from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import a_robot

from vla_align_ros.observation.assemble import (
    AssemblerLimits,
    ObservationAssembler,
    ObservationReason,
    ObservationRefused,
)
from vla_align_ros.observation.codecs import (
    IMAGE,
    MessageReason,
    MessageRefused,
    encode_image,
    encode_joint_state,
    encode_string,
)

NAMES = ("shoulder", "elbow")
LIMITS = AssemblerLimits(0.5, 0.2, frozen_s=1.0, history_s=3.0, stamp_ahead_max_s=0.2)
MS = 1_000_000
T0 = 1_700_000_000_000 * MS


def at_most_20(prompt: str) -> None:
    if len(prompt) > 20:
        raise ValueError(f"the prompt has {len(prompt)} tokens")


def assembler(cameras: tuple[str, ...] = ("base",), **changes: Any) -> ObservationAssembler:
    limits = AssemblerLimits(**{**vars(LIMITS), **changes})
    return ObservationAssembler(a_robot(names=NAMES), cameras, image_size=8, limits=limits, check_prompt=at_most_20)


def image(value: int, t_ms: int) -> bytes:
    return encode_image(np.full((6, 8, 3), value, np.uint8), T0 + t_ms * MS)


def joints(value: float, t_ms: int) -> bytes:
    return encode_joint_state(NAMES, np.array([value, -value]), T0 + t_ms * MS)


def see(seen: ObservationAssembler, value: int, t_ms: int, camera: str = "base", *, at_ms: int | None = None) -> None:
    """An image stamped `t_ms` that comes at `at_ms`, by default at once."""
    seen.push_image(camera, image(value, t_ms), IMAGE, T0 + (t_ms if at_ms is None else at_ms) * MS)


def feel(seen: ObservationAssembler, value: float, t_ms: int, *, at_ms: int | None = None) -> None:
    """A joint state stamped `t_ms` that comes at `at_ms`, by default at once."""
    seen.push_joints(joints(value, t_ms), T0 + (t_ms if at_ms is None else at_ms) * MS)


def ready() -> ObservationAssembler:
    """An assembler with everything for a tick at 0 ms."""
    seen = assembler()
    seen.push_prompt("red", T0 - 10 * MS)
    feel(seen, 1.0, 0)
    see(seen, 7, 0)
    return seen


def reason_at(seen: ObservationAssembler, t_ms: int) -> ObservationReason:
    with pytest.raises(ObservationRefused) as caught:
        seen.observe(T0 + t_ms * MS)
    return caught.value.reason


def test_a_tick_sees_the_newest_messages_that_are_not_from_its_future() -> None:
    seen = ready()
    for t_ms in (40, 80):
        feel(seen, t_ms, t_ms)
        see(seen, t_ms, t_ms)
    seen.push_prompt(encode_string("blue"), T0 + 60 * MS)
    early, middle = seen.observe(T0 + 39 * MS), seen.observe(T0 + 40 * MS)
    late = seen.observe(T0 + 100 * MS)
    assert [item.state.tolist() for item in (early, middle, late)] == [[1, -1], [40, -40], [80, -80]]
    assert [item.images["base"].max() for item in (early, middle, late)] == [7, 40, 80]
    assert [item.prompt for item in (early, middle, late)] == ["red", "red", "blue"]
    assert late.stamp_ns == T0 + 100 * MS


def test_images_are_letterboxed_and_what_is_seen_cannot_be_changed() -> None:
    observation = ready().observe(T0)
    assert observation.images["base"].shape == (8, 8, 3)
    assert not observation.images["base"].flags.writeable
    assert not observation.state.flags.writeable


@given(
    st.permutations([(topic, t_ms) for topic in ("joints", "image") for t_ms in range(0, 200, 20)]), st.integers(0, 190)
)
def test_the_order_of_arrival_does_not_matter(messages: list[tuple[str, int]], t_ms: int) -> None:
    seen = assembler()
    seen.push_prompt("red", T0)
    for topic, stamp_ms in messages:
        if topic == "joints":
            feel(seen, stamp_ms, stamp_ms, at_ms=200)
        else:
            see(seen, stamp_ms, stamp_ms, at_ms=200)
    observation = seen.observe(T0 + t_ms * MS)
    assert observation.state[0] == t_ms // 20 * 20
    assert observation.images["base"].max() == t_ms // 20 * 20


def test_nothing_is_seen_before_everything_has_come() -> None:
    seen = assembler(cameras=("base", "wrist"))
    assert reason_at(seen, 0) is ObservationReason.NO_PROMPT
    seen.push_prompt("red", T0)
    assert reason_at(seen, 0) is ObservationReason.NO_JOINTS
    feel(seen, 1.0, 0)
    assert reason_at(seen, 0) is ObservationReason.NO_IMAGE
    see(seen, 1, 0)
    assert reason_at(seen, 0) is ObservationReason.NO_IMAGE
    see(seen, 1, 0, "wrist")
    assert set(seen.observe(T0).images) == {"base", "wrist"}
    assert seen.refused == {
        ObservationReason.NO_PROMPT: 1,
        ObservationReason.NO_JOINTS: 1,
        ObservationReason.NO_IMAGE: 2,
    }


def test_a_silent_camera_is_stale_after_its_limit() -> None:
    seen = ready()
    feel(seen, 1.0, 500)
    assert seen.observe(T0 + 500 * MS).images["base"].max() == 7
    assert reason_at(seen, 501) is ObservationReason.STALE_IMAGE
    see(seen, 8, 502)
    assert seen.observe(T0 + 503 * MS).images["base"].max() == 8


def test_silent_joints_are_stale_after_their_limit() -> None:
    seen = ready()
    assert seen.observe(T0 + 200 * MS).state[0] == 1
    assert reason_at(seen, 201) is ObservationReason.STALE_JOINTS


def watch(seen: ObservationAssembler, milliseconds: range, moves_ms: tuple[int, ...], pixels: int = 7) -> None:
    """The same picture all the time; the joints go 0.2 rad at each of `moves_ms`."""
    for t_ms in milliseconds:
        feel(seen, 1.0 + 0.2 * sum(t_ms >= moved_ms for moved_ms in moves_ms), t_ms)
        see(seen, pixels, t_ms)


def test_a_camera_is_frozen_when_its_picture_stays_after_a_joint_moved_and_forgiven_when_it_changes() -> None:
    seen = ready()
    watch(seen, range(100, 5000, 100), moves_ms=(2000,))
    assert seen.observe(T0 + 2900 * MS).images["base"].max() == 7, "until frozen_s after the motion it may be late"
    for t_ms in (3000, 4900):
        assert reason_at(seen, t_ms) is ObservationReason.FROZEN_IMAGE, "also long after the arm has stopped"
    see(seen, 8, 4950)
    assert seen.observe(T0 + 4950 * MS).images["base"].max() == 8


@pytest.mark.parametrize("jitter_rad", [0.0, 0.02])
def test_the_picture_of_a_robot_that_stands_may_stay_the_same_for_ever(jitter_rad: float) -> None:
    seen = ready()
    for t_ms in range(100, 20_000, 100):
        feel(seen, 1.0 + jitter_rad * (t_ms // 100 % 2), t_ms)
        see(seen, 7, t_ms)
        assert seen.observe(T0 + t_ms * MS).images["base"].max() == 7


@pytest.mark.parametrize(("joints_ahead_ms", "camera_behind_ms"), [(0, 200), (0, 400), (180, 0), (180, 400)])
def test_clocks_that_differ_make_no_camera_without_noise_frozen(joints_ahead_ms: int, camera_behind_ms: int) -> None:
    """The arm stops, and so does the picture: by the stamps, the picture did first."""
    seen = assembler()
    seen.push_prompt("red", T0 - 10 * MS)
    for t_ms in range(20, 6000, 20):
        feel(seen, min(t_ms, 2000) * 0.002, t_ms + joints_ahead_ms, at_ms=t_ms)
        see(seen, min(t_ms, 2000) // 20, t_ms - camera_behind_ms, at_ms=t_ms)
        if t_ms > 1000:
            seen.observe(T0 + t_ms * MS)


def test_frozen_s_0_switches_the_check_off() -> None:
    seen = assembler(frozen_s=0.0)
    seen.push_prompt("red", T0)
    watch(seen, range(0, 5000, 100), moves_ms=tuple(range(0, 5000, 500)))
    assert seen.observe(T0 + 4900 * MS).images["base"].max() == 7


@given(
    st.lists(st.integers(0, 1), min_size=30, max_size=30),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_frozen_is_judged_by_stamps_not_by_arrival(values: list[int], moves: list[bool], random: Any) -> None:
    in_order, shuffled = (
        assembler(frozen_s=0.25, history_s=4.0, image_stale_s=0.2, stamp_ahead_max_s=0.1) for _ in range(2)
    )
    stamps = [index * 100 for index in range(30)]
    for seen, order in ((in_order, stamps), (shuffled, random.sample(stamps, 30))):
        seen.push_prompt("red", T0)
        for t_ms in order:
            see(seen, values[t_ms // 100], t_ms, at_ms=2900)
            feel(seen, 0.2 * sum(moves[1 : t_ms // 100 + 1]), t_ms, at_ms=2900)
    for index, t_ms in enumerate(stamps):
        began = next((n + 1 for n in range(index, -1, -1) if values[n] != values[index]), 0)
        frozen = any(moves[n] and 100 * n <= t_ms - 250 for n in range(began + 4, index + 1))
        for seen in (in_order, shuffled):
            if frozen:
                assert reason_at(seen, t_ms) is ObservationReason.FROZEN_IMAGE
            else:
                assert seen.observe(T0 + t_ms * MS).images["base"].max() == values[index]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", ObservationReason.PROMPT_EMPTY),
        (" \n", ObservationReason.PROMPT_EMPTY),
        (encode_string(""), ObservationReason.PROMPT_EMPTY),
        ("x" * 21, ObservationReason.PROMPT_TOO_LONG),
        (encode_string("x" * 100_000), ObservationReason.PROMPT_TOO_LONG),
        (b"\x00", MessageReason.MALFORMED),
    ],
)
def test_a_bad_prompt_is_refused_and_the_old_one_stays(prompt: Any, reason: Any) -> None:
    seen = ready()
    with pytest.raises((ObservationRefused, MessageRefused)) as caught:
        seen.push_prompt(prompt, T0)
    assert caught.value.reason is reason
    assert seen.refused == {reason: 1}
    assert seen.observe(T0).prompt == "red"


def test_two_prompts_soon_after_each_other_do_not_make_the_one_before_forgotten() -> None:
    seen = assembler()
    feel(seen, 1.0, 0)
    see(seen, 7, 0)
    for prompt, t_ms in (("red", -3_600_000), ("home", 400), ("blue", 800)):
        seen.push_prompt(prompt, T0 + t_ms * MS)
    assert seen.observe(T0).prompt == "red"


def test_a_prompt_that_is_heard_after_a_later_one_does_not_replace_it() -> None:
    seen = ready()
    seen.push_prompt("blue", T0 - 2 * MS)
    seen.push_prompt("late", T0 - 4 * MS)
    assert seen.observe(T0).prompt == "blue"
    assert seen.newest_prompt() == "blue"
    seen.push_prompt("now", T0 - 3_600_000 * MS)
    assert seen.newest_prompt() == "now", "the clock was set back, and this is the only one since"


def test_a_prompt_stays_valid_however_old_it_is() -> None:
    seen = ready()
    hour_ms = 3_600_000
    feel(seen, 2.0, hour_ms)
    see(seen, 9, hour_ms)
    assert seen.observe(T0 + hour_ms * MS).prompt == "red"


def test_a_refused_message_changes_nothing_and_is_counted() -> None:
    seen = ready()
    with pytest.raises(MessageRefused):
        seen.push_joints(encode_joint_state(NAMES, np.array([np.nan, 1]), T0), T0)
    with pytest.raises(MessageRefused):
        seen.push_image("base", image(1, 10)[:-1], IMAGE, T0)
    with pytest.raises(ObservationRefused):
        see(seen, 99, 0)
    expected = {MessageReason.NON_FINITE: 1, MessageReason.MALFORMED: 1, ObservationReason.DUPLICATE_STAMP: 1}
    assert seen.refused == expected
    assert seen.observe(T0).state[0] == 1
    assert seen.observe(T0).images["base"].max() == 7


def test_what_is_forgotten_is_never_replaced_by_something_else() -> None:
    seen = ready()
    feel(seen, 2.0, 100)
    for t_ms in range(50, 3200, 50):
        see(seen, t_ms % 250, t_ms)
    assert reason_at(seen, 40) is ObservationReason.NO_IMAGE


def test_the_history_is_bounded() -> None:
    seen = ready()
    for index in range(2000):
        feel(seen, 1.0, 4 * index + 1)
        see(seen, 1, 4 * index + 1)
        seen.push_prompt("red", T0 + 4 * index * MS)
    assert len(seen._joints._groups[0, 1]) <= 4000 / 4 + 2, "frozen_s is looked back too"
    assert len(seen._images["base"]) <= 3000 / 4 + 2
    assert len(seen._prompts) <= 3000 / 4 + 2


def test_an_unknown_camera_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="unknown camera 'left'"):
        see(ready(), 1, 1, "left")


@pytest.mark.parametrize(
    "change",
    [
        {"image_stale_s": 0.0},
        {"frozen_s": math.nan},
        {"frozen_s": math.inf},
        {"stamp_ahead_max_s": -0.1},
        {"history_s": 0.4},
        {"history_s": math.inf},
    ],
)
def test_senseless_limits_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        assembler(**change)


def test_threads_may_push_while_others_observe() -> None:
    seen, failures = ready(), []

    def push() -> None:
        for t_ms in range(1, 400):
            feel(seen, t_ms, t_ms)
            see(seen, t_ms % 200, t_ms)

    def observe() -> None:
        for t_ms in range(400):
            try:
                seen.observe(T0 + t_ms * MS)
            except ObservationRefused as refused:
                if refused.reason not in (ObservationReason.STALE_JOINTS, ObservationReason.STALE_IMAGE):
                    failures.append(refused)

    def count() -> None:
        for _ in range(400):
            failures.extend(reason for reason, times in seen.refused.items() if times < 1)

    threads = [threading.Thread(target=work) for work in (push, observe, observe, count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seen.observe(T0 + 399 * MS).state[0] == 399
