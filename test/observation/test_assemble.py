from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
LIMITS = AssemblerLimits(image_stale_s=0.5, joint_stale_s=0.2, frozen_s=1.0, history_s=3.0)
MS = 1_000_000
T0 = 1_700_000_000_000 * MS


def at_most_20(prompt: str) -> None:
    if len(prompt) > 20:
        raise ValueError(f"the prompt has {len(prompt)} tokens")


def assembler(cameras: tuple[str, ...] = ("base",), **changes: Any) -> ObservationAssembler:
    limits = AssemblerLimits(**{**vars(LIMITS), **changes})
    return ObservationAssembler(NAMES, cameras, image_size=8, limits=limits, check_prompt=at_most_20)


def image(value: int, t_ms: int) -> bytes:
    return encode_image(np.full((6, 8, 3), value, np.uint8), T0 + t_ms * MS)


def joints(value: float, t_ms: int) -> bytes:
    return encode_joint_state(NAMES, np.array([value, -value]), T0 + t_ms * MS)


def see(seen: ObservationAssembler, value: int, t_ms: int, camera: str = "base") -> None:
    seen.push_image(camera, image(value, t_ms), IMAGE)


def ready() -> ObservationAssembler:
    """An assembler with everything for a tick at 0 ms."""
    seen = assembler()
    seen.push_prompt("red", T0 - 10 * MS)
    seen.push_joints(joints(1.0, 0))
    see(seen, 7, 0)
    return seen


def reason_at(seen: ObservationAssembler, t_ms: int) -> ObservationReason:
    with pytest.raises(ObservationRefused) as caught:
        seen.observe(T0 + t_ms * MS)
    return caught.value.reason


def test_a_tick_sees_the_newest_messages_that_are_not_from_its_future() -> None:
    seen = ready()
    for t_ms in (40, 80):
        seen.push_joints(joints(t_ms, t_ms))
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
            seen.push_joints(joints(stamp_ms, stamp_ms))
        else:
            see(seen, stamp_ms, stamp_ms)
    observation = seen.observe(T0 + t_ms * MS)
    assert observation.state[0] == t_ms // 20 * 20
    assert observation.images["base"].max() == t_ms // 20 * 20


def test_nothing_is_seen_before_everything_has_come() -> None:
    seen = assembler(cameras=("base", "wrist"))
    assert reason_at(seen, 0) is ObservationReason.NO_PROMPT
    seen.push_prompt("red", T0)
    assert reason_at(seen, 0) is ObservationReason.NO_JOINTS
    seen.push_joints(joints(1.0, 0))
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
    seen.push_joints(joints(1.0, 500))
    assert seen.observe(T0 + 500 * MS).images["base"].max() == 7
    assert reason_at(seen, 501) is ObservationReason.STALE_IMAGE
    see(seen, 8, 502)
    assert seen.observe(T0 + 503 * MS).images["base"].max() == 8


def test_silent_joints_are_stale_after_their_limit() -> None:
    seen = ready()
    assert seen.observe(T0 + 200 * MS).state[0] == 1
    assert reason_at(seen, 201) is ObservationReason.STALE_JOINTS


def test_a_frozen_camera_is_noticed_and_forgiven_when_it_moves() -> None:
    seen = ready()
    for t_ms in range(100, 1200, 100):
        see(seen, 7, t_ms)
        seen.push_joints(joints(1.0, t_ms))
    assert seen.observe(T0 + 1000 * MS).images["base"].max() == 7
    assert reason_at(seen, 1100) is ObservationReason.FROZEN_IMAGE
    see(seen, 8, 1150)
    assert seen.observe(T0 + 1150 * MS).images["base"].max() == 8


def test_a_camera_without_noise_may_stand_still_when_frozen_s_is_inf() -> None:
    seen = assembler(frozen_s=math.inf)
    seen.push_prompt("red", T0)
    for t_ms in range(0, 5000, 100):
        see(seen, 7, t_ms)
        seen.push_joints(joints(1.0, t_ms))
    assert seen.observe(T0 + 4900 * MS).images["base"].max() == 7


@given(st.lists(st.integers(0, 1), min_size=30, max_size=30), st.randoms(use_true_random=False))
def test_frozen_is_judged_by_stamps_not_by_arrival(values: list[int], random: Any) -> None:
    in_order, shuffled = assembler(frozen_s=0.25), assembler(frozen_s=0.25)
    stamps = [index * 100 for index in range(30)]
    for seen, order in ((in_order, stamps), (shuffled, random.sample(stamps, 30))):
        seen.push_prompt("red", T0)
        for t_ms in order:
            see(seen, values[t_ms // 100], t_ms)
            seen.push_joints(joints(1.0, t_ms))
    for t_ms in stamps:
        run = next((back for back in range(t_ms, -1, -100) if values[back // 100] != values[t_ms // 100]), -100)
        frozen = t_ms - (run + 100) > 250
        for seen in (in_order, shuffled):
            if frozen:
                assert reason_at(seen, t_ms) is ObservationReason.FROZEN_IMAGE
            else:
                assert seen.observe(T0 + t_ms * MS).images["base"].max() == values[t_ms // 100]


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


def test_a_prompt_stays_valid_however_old_it_is() -> None:
    seen = ready()
    hour_ms = 3_600_000
    seen.push_joints(joints(2.0, hour_ms))
    see(seen, 9, hour_ms)
    assert seen.observe(T0 + hour_ms * MS).prompt == "red"


def test_a_refused_message_changes_nothing_and_is_counted() -> None:
    seen = ready()
    with pytest.raises(MessageRefused):
        seen.push_joints(encode_joint_state(NAMES, np.array([np.nan, 1]), T0))
    with pytest.raises(MessageRefused):
        seen.push_image("base", image(1, 10)[:-1], IMAGE)
    with pytest.raises(ObservationRefused):
        see(seen, 99, 0)
    expected = {MessageReason.NON_FINITE: 1, MessageReason.MALFORMED: 1, ObservationReason.DUPLICATE_STAMP: 1}
    assert seen.refused == expected
    assert seen.observe(T0).state[0] == 1
    assert seen.observe(T0).images["base"].max() == 7


def test_a_clock_that_jumps_back_starts_the_streams_again_and_keeps_the_prompt() -> None:
    seen = ready()
    seen.push_prompt("blue", T0 + 5 * MS)
    seen.push_joints(joints(5.0, -10_000))
    see(seen, 50, -10_000)
    observation = seen.observe(T0 - 10_000 * MS)
    assert (observation.state[0], observation.images["base"].max(), observation.prompt) == (5, 50, "blue")
    assert seen.refused == {ObservationReason.CLOCK_JUMP: 2}
    assert reason_at(seen, 0) is ObservationReason.STALE_JOINTS


def test_one_stamp_from_the_far_future_is_overcome_by_the_next_message() -> None:
    seen = ready()
    see(seen, 99, 3_600_000)
    see(seen, 8, 30)
    assert seen.observe(T0 + 40 * MS).images["base"].max() == 8


def test_what_is_forgotten_is_never_replaced_by_something_else() -> None:
    seen = ready()
    seen.push_joints(joints(2.0, 100))
    for t_ms in range(50, 3200, 50):
        see(seen, t_ms % 250, t_ms)
    assert reason_at(seen, 40) is ObservationReason.NO_IMAGE


def test_the_history_is_bounded() -> None:
    seen = ready()
    for index in range(2000):
        seen.push_joints(joints(1.0, 4 * index + 1))
        seen.push_prompt("red", T0 + 4 * index * MS)
    assert len(seen._joints._samples) <= 3000 / 4 + 1
    assert len(seen._prompts) <= 3000 / 4 + 2


def test_an_unknown_camera_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="unknown camera 'left'"):
        see(ready(), 1, 1, "left")


@pytest.mark.parametrize(
    "change", [{"image_stale_s": 0.0}, {"frozen_s": math.nan}, {"history_s": 0.4}, {"history_s": math.inf}]
)
def test_senseless_limits_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        assembler(**change)


def test_threads_may_push_while_others_observe() -> None:
    seen, failures = ready(), []

    def push() -> None:
        for t_ms in range(1, 400):
            seen.push_joints(joints(t_ms, t_ms))
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
