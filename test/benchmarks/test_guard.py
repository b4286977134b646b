"""The corruptions of the SO-101's experience, one unit from end to end, and what is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guard
import numpy as np
import pytest
from builders import replace_parts, stats_of, write_model_for
from guard import KINDS, Corrupt, summary

from vla_align_ros.bench.so101.bench import BENCH, So101
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import GRIPPER
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.policy import load_policy
from vla_align_ros.types import Experience, Observation


def made_up(seed: int) -> list[Experience]:
    """Four episodes of four, with the SO-101's joints and cameras; no two numbers or pictures are alike."""
    rng = np.random.default_rng(seed)

    def seen() -> Observation:
        images = {camera: rng.integers(0, 256, (8, 8, 3), np.uint8) for camera in BENCH.robot.cameras}
        return Observation(images, rng.normal(size=6).astype(np.float32), "go", 0)

    return [
        Experience(seen(), rng.normal(size=(16, 6)).astype(np.float32), seen(), episode)
        for episode in np.repeat(range(4), 4).tolist()
    ]


@pytest.mark.parametrize("corrupt", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_spoils_the_so101s_experience_and_leaves_its_shapes(corrupt: Corrupt) -> None:
    mine, theirs = made_up(0), made_up(1)
    spoilt = corrupt(mine, theirs, np.random.default_rng(3))
    changed = [not same(before, after) for before, after in zip(mine, spoilt, strict=True)]
    assert sum(changed) >= (1 if corrupt is guard.one_in_ten_wrong else len(mine) // 3)
    for before, after in zip(mine, spoilt, strict=True):
        assert after.commands.shape == before.commands.shape
        for was, now in ((seen.images for seen in (e.observation, e.next_observation)) for e in (before, after)):
            assert {name: image.shape for name, image in was.items()} == {n: i.shape for n, i in now.items()}


def same(one: Experience, other: Experience) -> bool:
    seen = [(mine.images, theirs.images) for mine, theirs in zip(images(one), images(other), strict=True)]
    pictures = all(np.array_equal(mine[name], theirs[name]) for mine, theirs in seen for name in mine)
    return pictures and np.array_equal(one.commands, other.commands)


def images(item: Experience) -> tuple[Observation, Observation]:
    return item.observation, item.next_observation


def test_with_swapped_joints_no_joint_of_the_arm_keeps_its_own_commands() -> None:
    (item, *_) = made_up(0)
    (swapped,) = guard.swapped_joints([item], [], np.random.default_rng(0))
    assert sorted(swapped.commands[0]) == sorted(item.commands[0])
    same = swapped.commands == item.commands
    assert not same[:, :GRIPPER].any()
    assert same[:, GRIPPER].all()


@pytest.mark.slow
def test_a_unit_of_the_so101_is_aligned_on_clean_and_on_corrupted_experience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "KINDS", (guard.swapped_joints, guard.second_robot))
    monkeypatch.setattr(guard, "buffer_size", lambda policy: 32)
    monkeypatch.setattr(guard, "HELD_OUT", 4)
    policy = load_policy(write_model_for(BENCH, tmp_path), "cpu")
    replace_parts(policy, stats=stats_of(joints_do_not_follow=0.5))
    other = Embodiment(wrist_roll_rad=2.0)
    found = guard.one_unit(policy, So101((Task.REACH,)), Embodiment(), other, seed=1)["attempts"]
    assert [(item["kind"], item["start"]) for item in found] == [
        ("clean", "fresh"),
        ("swapped_joints", "aligned"),
        ("second_robot", "fresh"),
    ]
    assert [item["reason"] for item in found[:2]] == ["kept", "joints_do_not_follow"]
    assert [item["kept"] for item in found[:2]] == [True, False]
    assert np.isfinite([item["change"] for item in found]).all(), "of what was refused, too"
    assert "joints_do_not_follow" in found[1]["refused_by"]
    assert all("perception_high" in item["statistics"] for item in found), "of what ended early, too"


def test_what_harmed_and_was_kept_is_counted_and_what_was_of_use_and_refused() -> None:
    def attempt(kind: str, kept: bool, change: float, *by: str) -> dict[str, Any]:
        by = by or ("frames_late",)
        refused_by, reason = ([], "kept") if kept else (list(by), by[0])
        asked = dict.fromkeys(("frames_late", "images_do_not_fit"), 1.0)
        item = {"kind": kind, "kept": kept, "change": change, "reason": reason}
        return {**item, "refused_by": refused_by, "statistics": asked}

    found = [
        attempt("clean", True, -0.5),
        attempt("clean", False, -0.5),
        attempt("clean", False, -0.5, "already_aligned"),
        attempt("clean", True, 0.5),
        attempt("late_actions", True, 0.2),
        attempt("late_actions", False, 0.2),
        attempt("late_actions", True, 0.04),
        attempt("late_actions", False, 0.2, "frames_late", "images_do_not_fit"),
    ]
    counts = summary(found)
    assert (counts["buffers"], counts["would_harm"], counts["harmful_kept"]) == (4, 3, 1)
    assert counts["useful_refused_fraction"] == 0.5
    assert counts["useful_clean_skipped_as_already_aligned"] == 1
    assert counts["by_kind"]["clean"]["harmful_kept"] == 1
    assert counts["without_check"]["frames_late"] == {
        "harmful_kept": 2,
        "harmful_refused_by_it_alone": 1,
        "useful_refused_by_it_alone": 1,
    }
    assert counts["without_check"]["images_do_not_fit"]["harmful_refused_by_it_alone"] == 0
    assert set(counts["without_check"]) == {"frames_late", "images_do_not_fit"}, "the others were not asked"
