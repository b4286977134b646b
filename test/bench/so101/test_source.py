"""The arm as a source: samples of arms at work, and labels that lie where things are in the pictures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_align_ros.bench.so101 import tasks
from vla_align_ros.bench.so101.bench import BENCH
from vla_align_ros.bench.so101.collect import record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import GRIPPER, HOME_RAD
from vla_align_ros.bench.so101.labels import ABSENT, draw_frames, draw_pairs, in_sight, keypoints, prefix_cameras
from vla_align_ros.bench.so101.pictures import draw_geoms
from vla_align_ros.bench.so101.rules import AT_CUBE_RAD
from vla_align_ros.bench.so101.scene import CAMERAS, CUBES, PADS, PAN_AXIS_M
from vla_align_ros.bench.so101.shapes import geom_names
from vla_align_ros.bench.so101.shifts import Family, Split
from vla_align_ros.bench.so101.skeleton import skeletons
from vla_align_ros.bench.so101.source import So101Source, draw_arms, open_sources
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.cli.sources import open_sources as open_named
from vla_align_ros.experience.source import RawSamples
from vla_align_ros.policy.config import load_model_description
from vla_align_ros.training.recipe import load_recipe

HORIZON, TRAIN = 16, Path(__file__).parents[3] / "config" / "train"
FAMILIES = list(Family)


@pytest.fixture(scope="module")
def source() -> So101Source:
    return open_sources(0, 3, 1, {Task.REACH: 2.0, Task.PICK: 1.0}, FAMILIES).training


@pytest.fixture(scope="module")
def samples(source: So101Source) -> RawSamples:
    return source.samples(np.arange(60) % 3, HORIZON, 32, np.random.default_rng(1))


def test_arms_keep_their_names_and_are_in_one_split_only() -> None:
    first, more = (open_sources(0, count, 2, {Task.REACH: 1.0}, FAMILIES) for count in (3, 5))
    assert first.training.robots == more.training.robots[:3]
    assert first.training.robots[0] == "so101/nominal"
    assert not set(more.training.robots) & set(more.validation.robots)
    names = draw_arms(Split.TRAINING, 2, 0, FAMILIES)
    for name, arm in names.items():
        np.testing.assert_array_equal(more.training.arms[name].vector(), arm.vector())


def test_the_shipped_recipe_fits_the_bench() -> None:
    recipe = load_recipe(TRAIN / "so101.yaml")
    config = load_model_description(TRAIN / recipe.model)
    assert config.robot == replace(BENCH.robot, cameras={"wrist": BENCH.robot.cameras["wrist"]})
    assert config.architecture.action_horizon <= 2 * config.robot.execute
    prompts = open_named(recipe.source | {"robots": 2}, config, 0).training.prompts
    assert max(len(prompt.split()) for prompt in prompts) + 2 <= config.architecture.max_token_len


def test_an_arm_is_shifted_in_some_of_the_families_asked_for() -> None:
    arms = draw_arms(Split.TRAINING, 40, 3, [Family.ZEROS, Family.WRIST_ROLL]).values()
    turned = np.array([[arm.wrist_roll_rad != 0, arm.zero_rad.any()] for arm in arms])
    assert (turned.mean(0) > 0.2).all()
    assert (turned.mean(0) < 0.8).all()
    assert all((arm.sign == 1).all() for arm in arms)


def test_samples_are_of_the_robots_and_tasks_asked_for(source: So101Source, samples: RawSamples) -> None:
    assert samples.actions.shape == (60, HORIZON, 6)
    assert samples.points.shape == (60, len(prefix_cameras(CAMERAS)), 2)
    prompts = [item.observation.prompt for item in samples.experiences]
    assert set(prompts) <= set(source.prompts)
    reach = [any(word in prompt for word in ("reach", "move over", "go to")) for prompt in prompts]
    assert 25 < sum(reach) < 55
    assert not any("push" in prompt or "slide" in prompt for prompt in source.prompts)
    for row, item in enumerate(samples.experiences):
        assert item.commands.shape == (HORIZON, 6)
        assert item.next_observation.stamp_ns == pytest.approx(HORIZON / 15 * 1e9, abs=16)
        assert {image.shape for image in item.observation.images.values()} == {(32, 32, 3)}
        arm = list(source.arms.values())[row % 3]
        assert (np.abs(arm.angle_of_reading(item.observation.state.astype(float))) < 3.2).all()


def test_many_samples_of_one_robot_are_of_many_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may have one robot alone: a few episodes would be learned by heart."""
    recorded = list[int]()

    def counted(arms: list[Embodiment], *rest: Any, **named: Any) -> Any:
        recorded.append(len(arms))
        return record(arms, *rest, **named)

    monkeypatch.setattr("vla_align_ros.bench.so101.source.record", counted)
    alone = open_sources(0, 1, 1, {Task.REACH: 1.0}, []).training
    alone.samples(np.zeros(600, np.int64), HORIZON, None, np.random.default_rng(1))
    assert recorded == [40]


def test_some_do_what_they_should_and_some_what_another_arm_should(samples: RawSamples) -> None:
    sent = np.stack([item.commands for item in samples.experiences])
    off = np.abs(sent - samples.actions).max(axis=(1, 2))
    assert (off < 0.01).any()
    assert (off > 0.3).any()


def test_most_moments_of_picking_are_about_a_grasp() -> None:
    """The jaws close, or are closed. Misfits and babble hardly ever come that far."""
    picking = open_sources(0, 64, 1, {Task.PICK: 1.0}, FAMILIES).training
    raw = picking.samples(np.arange(512) % 64, HORIZON, None, np.random.default_rng(1))
    assert (raw.actions[..., GRIPPER].min(axis=1) < AT_CUBE_RAD).mean() > 0.65


def test_the_same_seed_gives_the_same_samples_with_pictures_or_without(
    source: So101Source, samples: RawSamples
) -> None:
    again = source.samples(np.arange(60) % 3, HORIZON, None, np.random.default_rng(1))
    for one, other in zip(samples.experiences, again.experiences, strict=True):
        assert one.commands.tobytes() == other.commands.tobytes()
        assert one.next_observation.state.tobytes() == other.next_observation.state.tobytes()
        assert not other.observation.images
    np.testing.assert_array_equal(samples.actions, again.actions)
    np.testing.assert_array_equal(samples.points, again.points)


def test_keypoints_lie_on_what_they_name_mirrored_pictures_too() -> None:
    size, arms = 96, [Embodiment(wrist_mirrored=True, wrist_roll_rad=1.0), Embodiment()] * 6
    asked = tasks.assign([Task.PICK] * 12, range(12))
    state, bodies = tasks.start(arms, asked, range(12)), skeletons(arms)
    geoms, points = draw_geoms(bodies, state, size), keypoints(bodies, state)
    names = np.array([*geom_names(), "nothing"])  # which is -1
    things = [*(f"cube_{name}" for name in CUBES), *(f"pad_{name}" for name in PADS)]
    off_px: list[list[float]] = [[], []]
    for row, camera, place in np.ndindex(12, 2, len(things)):
        shown = np.argwhere(names[geoms[row, camera]] == things[place])
        point = points[row, camera, 4 + place] * size
        if len(shown) > 8 and (point > 12).all() and (point < size - 12).all():
            off_px[camera].append(np.abs(shown.mean(0)[::-1] + 0.5 - point).max())
    assert min(map(len, off_px)) > 10
    assert np.quantile(off_px[0], 0.9) < 1.0
    assert np.quantile(off_px[1], 0.9) < 3.0  # near things are cut off and tilted
    on_arm = points[:, :, :4]
    assert (on_arm[:, 0] > -1.0).all()
    assert (on_arm[:, 1] == ABSENT).all()  # its camera shows none of it


def test_what_is_needed_next_is_in_sight_or_not() -> None:
    """Cube and pad lie before the camera, or 2 m aside."""
    bodies = skeletons([Embodiment()] * 8)
    task = np.array([Task.REACH, Task.PICK, Task.PICK, Task.PICK, Task.PICK, Task.PUSH, Task.PUSH, Task.PICK])
    asked = replace(tasks.assign([Task.PICK] * 8, range(8)), task=task)
    seeds, rows = [3] * 8, np.arange(8)
    state = tasks.start([Embodiment()] * 8, asked, seeds)
    state = replace(state, angle_rad=np.tile(HOME_RAD, (8, 1)))
    before = np.array([PAN_AXIS_M + 0.2, 0.0])
    state.cube_m[rows, asked.cube, :2] = state.pad_m[rows, asked.pad] = before
    state.pad_m[[0, 2, 4, 6], asked.pad[[0, 2, 4, 6]]] += 2.0
    state.cube_m[[3, 4], asked.cube[[3, 4]], 2] += 0.05
    state.cube_m[7, asked.cube[7]] += 2.0
    seen = in_sight(bodies, state, asked, "wrist")
    assert seen.tolist() == [True, True, True, True, False, True, False, False]


def test_frames_and_pairs_show_arms_at_work() -> None:
    arms = list(draw_arms(Split.TRAINING, 4, 0, FAMILIES).values())
    frames = draw_frames(arms, 41, 32, 5)
    assert (frames.images.shape, frames.points.shape, frames.pose.shape) == ((41, 32, 32, 3), (41, 10, 2), (41, 12))
    assert ((frames.points >= 0) & (frames.points < 1)).all(2).mean() > 0.3
    pairs = draw_pairs(arms, 20, 32, 5)
    assert pairs.before.shape == pairs.after.shape == (20, 2, 32, 32, 3)
    moved = np.abs(pairs.motion).max(1) > 0.2
    assert moved.mean() > 0.5
    assert (pairs.before != pairs.after).reshape(20, -1).any(1)[moved].all()
