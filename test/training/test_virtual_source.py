"""A source of virtual robots: the same robots for a seed, each sample told as its robot would tell it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import architecture_dict, model_yaml
from lerobot_files import CAMERAS, SIZE, write_dataset
from pydantic import TypeAdapter
from typer.testing import CliRunner

from vla_align_ros.cli.main import app
from vla_align_ros.cli.sources import open_sources
from vla_align_ros.experience.bag_source import BagSource
from vla_align_ros.experience.lerobot import LeRobotDataset
from vla_align_ros.experience.lerobot_source import LeRobotSource
from vla_align_ros.experience.source import Labels, Source
from vla_align_ros.observation.resize import letterbox
from vla_align_ros.observation.scaling import SCALERS, antialiased
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.training.dataset import norm_stats
from vla_align_ros.training.virtual_source import LARGER, VirtualSource
from vla_align_ros.types import Conventions

WRIST = "left_wrist_0_rgb"
BENCH = {"bench": "reach2", "robots": 2, "validation_robots": 1}
SHIFTS = {
    "joint_zeros_rad": 0.5,
    "joint_scales": [0.8, 0.9],
    "joint_flips": 0.5,
    "command_scales": {"elbow": 0.3},
    "delay_ticks": 2,
    "camera_roll_rad": {WRIST: 3.0},
    "camera_mirrors": 0.5,
}
SO101 = Path(__file__).parents[2] / "config" / "robots" / "so101.yaml"


def reach2(**changes: Any) -> ModelConfig:
    raw = model_yaml() | {"views": {WRIST: {"circle": 0.5}}} | changes
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(raw)
    return config


def so101(**changes: Any) -> dict[str, Any]:
    """model.yaml of a small model for the dataset that `lerobot_files` writes."""
    architecture = architecture_dict(action_dim=7, vocab_size=64, action_horizon=4, cameras=list(CAMERAS))
    robot = yaml.safe_load(SO101.read_text()) | {"execute": 2}
    return model_yaml() | {"architecture": architecture, "robot": robot} | changes


def virtual(shifts: dict[str, Any], config: ModelConfig | None = None, **changes: Any) -> VirtualSource:
    source = BENCH | {"virtual": {"robots": 4, "validation_robots": 2, "seed": 3} | shifts} | changes
    opened = open_sources(source, config or reach2(), 0).training
    assert isinstance(opened, VirtualSource)
    return opened


@pytest.fixture(scope="module", params=SCALERS)
def source(request: pytest.FixtureRequest) -> VirtualSource:
    return virtual(SHIFTS, reach2(architecture=architecture_dict(conventions=request.param)))


def test_robots_are_the_real_ones_and_then_virtual_ones_that_keep_their_names(source: VirtualSource) -> None:
    assert source.robots[:2] == source.base.robots
    assert len(set(source.robots)) == 6
    more = virtual(SHIFTS | {"robots": 6})
    assert more.robots[:6] == source.robots
    others = virtual(SHIFTS | {"joint_zeros_rad": 0.4})
    assert not set(others.robots[2:]) & set(source.robots)
    fewer = virtual({"joint_zeros_rad": 0.5})
    for one, other in zip(source.members[2:], fewer.members[2:], strict=True):
        assert one.parameters.joint_zeros_rad == other.parameters.joint_zeros_rad
        assert one.real == other.real
    validation = open_sources(BENCH | {"virtual": {"robots": 4, "seed": 3, **SHIFTS}}, reach2(), 0).validation
    assert len(validation.robots) == 1 + 16
    assert not set(validation.robots) & set(source.robots)


def test_they_say_how_they_are_shifted() -> None:
    source = virtual({"joint_zeros_rad": 0.5, "delay_ticks": [1, 3], "family_share": 0.5, "robots": 24})
    values, families = source.shifts.values, source.shifts.families
    both = ("joint_zeros_rad", "delay_ticks")
    assert families[:2] == ((), ())
    assert set(families[2:]) == {(), both[:1], both[1:], both}
    assert len(values) == 26
    for place, member in enumerate(source.members):
        assert values[place, -3] == member.robot.delay_ticks
        assert values[place, -2:].argmax() == member.real
    same = [place for place, family in enumerate(families) if not family and not source.members[place].real]
    assert len({values[place].tobytes() for place in same}) == 1
    zeros = [place for place, family in enumerate(families) if family == both[:1]]
    assert len({values[place].tobytes() for place in zeros}) == len(zeros)
    shifted, late = families.index(both), families.index(both[1:])
    changed = source.shifts.exchanged(shifted, "delay_ticks", late) != values[shifted]
    assert changed.any() == (values[shifted, -3] != values[late, -3])
    assert not np.delete(changed, len(changed) - 3).any(), "the rest stays"
    without = source.shifts.exchanged(shifted, "joint_zeros_rad", late)
    assert without[-3] == values[shifted, -3]
    np.testing.assert_array_equal(source.shifts.exchanged(shifted, "joint_zeros_rad", shifted), values[shifted])


def test_a_share_of_the_robots_is_shifted_in_a_family() -> None:
    members = virtual({"robots": 40, "family_share": 0.5, "joint_zeros_rad": 0.5, "delay_ticks": [1, 3]}).members[2:]
    shifted = np.array([[bool(m.parameters.joint_zeros_rad), m.parameters.delay_ticks > 0] for m in members])
    assert ((shifted.mean(0) > 0.25) & (shifted.mean(0) < 0.75)).all()
    assert (shifted[:, 0] != shifted[:, 1]).any()


def test_each_sample_is_the_base_s_told_as_its_robot_tells_it(source: VirtualSource) -> None:
    rows, horizon, size = np.array([0, 2, 3, 4, 5, 1, 2]), 5, 16
    found = source.samples(rows, horizon, size, np.random.default_rng(1))
    real = np.array([source.members[row].real for row in rows])
    latest = max(member.robot.delay_ticks for member in source.members)
    assert latest > 0
    base = source.base.samples(real, horizon, LARGER * size, np.random.default_rng(1), latest)
    assert np.array_equal(found.robot, rows)
    for place, row in enumerate(rows):
        made, got, was = source.members[row].robot, found.experiences[place], base.experiences[place]
        late = slice(made.delay_ticks, made.delay_ticks + horizon)
        np.testing.assert_allclose(got.commands, made.commands(was.commands[late]), atol=1e-6)
        np.testing.assert_allclose(found.actions[place], made.commands(base.actions[place, late]), atol=1e-6)
        for one, other in (
            (got.observation, was.observation),
            (got.next_observation, was.next_observation),
        ):
            np.testing.assert_allclose(one.state, made.state(other.state), atol=1e-6)
            assert (one.stamp_ns, one.prompt) == (other.stamp_ns, other.prompt)
            for camera, image in one.images.items():
                mounted = made.cameras[camera]
                whole = letterbox(mounted.picture(other.images[mounted.camera]), size, source.scale)
                shown = source.views[camera].shown(whole) if camera in source.views else whole
                np.testing.assert_array_equal(image, shown)
        for point, was_at, camera_at in zip(found.points[place], base.points[place], (0, 0, 0, 1), strict=True):
            where = made.cameras[list(source.described.cameras)[camera_at]].points(was_at)
            np.testing.assert_allclose(point, np.clip(where, -1, 2), atol=1e-5)


@pytest.mark.parametrize("conventions", SCALERS)
def test_training_on_a_base_sees_what_the_base_is_shown(conventions: Conventions, tmp_path: Path) -> None:
    """Pictures of another size than the camera's, of a model that scales its own way; its features see less of them."""
    raw = so101()
    raw["architecture"] |= {"conventions": conventions}
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(raw)
    folder, size = write_dataset(tmp_path / "arm", (14, 20), striped=True), config.architecture.vision.image_size
    plain = {"lerobot": [str(folder)], "cameras": CAMERAS}
    dataset = LeRobotDataset(folder, config.robot, CAMERAS, SIZE)  # at the camera's own size
    live = {item.observation.stamp_ns: item.observation.images for item in dataset.experiences(4, 1)}
    assert len({image.tobytes() for images in live.values() for image in images.values()}) > 4
    for given, smaller in ((plain, size), (plain | {"virtual": {"robots": 2, "joint_zeros_rad": 0.1}}, size // 2)):
        source = open_sources(given, config, 0).training
        for item in source.samples(np.zeros(3, np.int64), 4, smaller, np.random.default_rng(0)).experiences:
            for camera, image in item.observation.images.items():
                shown = letterbox(live[item.observation.stamp_ns][camera], size, SCALERS[conventions])
                np.testing.assert_array_equal(image, letterbox(shown, smaller, antialiased))


def test_without_pictures_the_same_samples(source: VirtualSource) -> None:
    rows = np.arange(6)
    with_them, without = (source.samples(rows, 5, size, np.random.default_rng(2)) for size in (8, None))
    np.testing.assert_array_equal(with_them.actions, without.actions)
    assert not any(item.observation.images for item in without.experiences)
    one_more = source.samples(rows, 5, None, np.random.default_rng(2), beyond=1)
    assert one_more.actions.shape == (6, 6, 2)


def test_statistics_are_of_all_robots_as_the_policy_will_meet_them() -> None:
    real = virtual({"joint_zeros_rad": [0.0, 0.0]})
    moved = virtual({"joint_zeros_rad": [3.0, 3.0]})
    before, after = (norm_stats(source, reach2(), 0)["state"].mean for source in (real, moved))
    np.testing.assert_allclose(after - before, 3.0 * 4 / 6, atol=0.1)


def test_labels_are_seen_by_virtual_cameras() -> None:
    source = virtual({"camera_mirrors": 1.0, "joint_flips": 1.0})
    labels, base = source.labels, source.base.labels
    assert isinstance(labels, Labels)
    assert base is not None
    assert labels.num_points == base.num_points
    frames, real = labels.frames(40, 16, 1), base.frames(40, 16, 1)
    mirrored = np.array([(frames.images[row] == real.images[row][:, ::-1]).all() for row in range(40)])
    assert 10 < mirrored.sum() < 40  # the real robots are among them
    seen = np.abs(real.points).max(axis=2) < 4
    np.testing.assert_allclose(
        frames.points[mirrored][seen[mirrored], 0], 1 - real.points[mirrored][seen[mirrored], 0], atol=1e-5
    )
    pairs, real_pairs = labels.pairs(20, 16, 1), base.pairs(20, 16, 1)
    turned = np.array([(pairs.before[row, 0] == real_pairs.before[row, 0][:, ::-1]).all() for row in range(20)])
    assert 3 < turned.sum() < 20
    np.testing.assert_allclose(pairs.motion[turned], -real_pairs.motion[turned])
    np.testing.assert_allclose(pairs.motion[~turned], real_pairs.motion[~turned])


class Works:
    """What `experiences` needs of a policy."""

    def __init__(self, horizon: int, size: int) -> None:
        vision = type("Vision", (), {"image_size": size})
        self.model = type("Model", (), {"architecture": type("A", (), {"action_horizon": horizon, "vision": vision})})


def test_experience_is_the_real_robots_told_with_the_delay(source: VirtualSource) -> None:
    base = source.base.samples(np.zeros(4, np.int64), 5, 16, np.random.default_rng(0)).experiences
    period_ns, commands = source.described.period_ns, np.arange(40, dtype=np.float32).reshape(20, 2)
    chain = [
        replace(
            item,
            observation=replace(item.observation, stamp_ns=place * 4 * period_ns),
            commands=commands[place * 4 : place * 4 + 5] if place < 3 else commands[12:17],
            episode=0,
        )
        for place, item in enumerate(base)
    ]
    row = next(row for row, member in enumerate(source.members) if member.robot.delay_ticks == 2)

    class Recorded:
        def experiences(self, *arguments: object) -> list[Any]:
            return [chain]

    made = source.members[row].robot
    (found,) = replace(source, base=Recorded()).experiences([row], Works(5, 16), torch.empty(1), 0, 4)  # type: ignore
    assert len(found) == 3
    for place, item in enumerate(found):
        np.testing.assert_allclose(item.commands, made.commands(commands[place * 4 + 2 : place * 4 + 7]), atol=1e-5)
        assert item.observation.images[WRIST].shape == (16, 16, 3)
        assert not item.observation.images[WRIST][0, 0].any()


def test_a_dataset_gives_what_was_sent_later(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "arm", (14, 20))
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(so101())
    named = {"lerobot": [str(folder)], "cameras": CAMERAS, "virtual": {"robots": 2, "delay_ticks": [3, 3]}}
    source: Source = open_sources(named, config, 0).training
    assert isinstance(source, VirtualSource)
    assert isinstance(source.base, LeRobotSource)
    found = source.samples(np.array([0, 1, 2] * 10), 4, None, np.random.default_rng(0))
    for row, item in zip([0, 1, 2] * 10, found.experiences, strict=True):
        ahead = np.rad2deg(item.commands[0, 0] - item.observation.state[0])  # 1 degree, and .1 a frame
        assert ahead == pytest.approx(1.0 + (0.3 if row else 0.0), abs=1e-3)


def test_bags_tell_of_no_delay() -> None:
    source = BagSource(lambda paths: None, 4, {"arm": []}, ())  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="bags tell no commands beyond an experience"):
        source.samples(np.zeros(1, np.int64), 4, None, np.random.default_rng(0), beyond=1)


@pytest.mark.parametrize(
    ("shifts", "sentence"),
    [
        ({"joint_zero": 0.1}, r"virtual: no family \['joint_zero'\], there are joint_zeros_rad, "),
        ({"joint_zeros_rad": [0.2, -0.2]}, "the wrong way round"),
        ({"delay_ticks": [3, 1]}, "the wrong way round"),
        ({"delay_ticks": 1.5}, "whole control ticks"),
        ({"delay_ticks": -1}, "whole control ticks"),
        ({"joint_zeros_rad": {"knee": 0.1}}, r"no joint that turns \['knee'\], it has \['shoulder', 'elbow'\]"),
        ({"joint_zeros_rad": "much"}, "expected a number or"),
        ({"joint_zeros_rad": [0.0, float("nan")]}, "finite numbers"),
        ({"joint_scales": 1.5}, "above 0"),
        ({"joint_flips": 2}, "from 0 to 1"),
        ({"gripper_range": 0.1}, "no gripper, a joint that may_be_blocked"),
        ({"camera_roll_rad": {"nose": 1.0}}, r"no camera \['nose'\]"),
        ({"camera_shifts": 0.7}, "below 0.5"),
        ({"camera_tilt_rad": {WRIST: 0.1}}, "field_of_view_rad of"),
        ({"camera_tilt_rad": {WRIST: 0.1}, "field_of_view_rad": {"nose": 1.0}}, r"no camera \['nose'\]"),
        ({"joint_orders": [["shoulder", "shoulder"]]}, r"each of \['shoulder', 'elbow'\] once"),
        ({"joint_orders": [["shoulder"]]}, "once"),
        ({"camera_swaps": [[WRIST, WRIST]]}, "two of the cameras"),
        ({"robots": 0}, "greater than or equal to 1"),
        ({"family_share": 0}, "greater than 0"),
        (
            {"camera_roll_rad": {"base_0_rgb": 3.0}},
            r"views: {base_0_rgb: {circle: 0.5}} or {base_0_rgb: {square: 0.35}}, or less, got None",
        ),
        ({"camera_zoom": {WRIST: [0.5, 1.0]}}, r"{circle: 0.25}} or {left_wrist_0_rgb: {square: 0.25}}, or less"),
        ({"camera_shifts": {WRIST: 0.1}}, r"{circle: 0.4}"),
    ],
)
def test_virtual_robots_that_cannot_be_are_refused(shifts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        virtual(shifts)


def test_a_mapping_is_needed_and_joints_of_another_kind_cannot_take_a_place() -> None:
    with pytest.raises(ValueError, match="virtual: expected a mapping"):
        open_sources(BENCH | {"virtual": 64}, reach2(), 0)
    robot = model_yaml()["robot"]
    robot["action"][1]["kind"] = "position"
    with pytest.raises(ValueError, match="they differ in unit, kind of command"):
        virtual({"joint_orders": [["elbow", "shoulder"]]}, reach2(robot=robot))


def test_the_bars_of_a_letterbox_are_no_part_of_a_picture(tmp_path: Path) -> None:
    config: ModelConfig = TypeAdapter(ModelConfig).validate_python(so101(views={"wrist": {"circle": 0.5}}))
    folder = write_dataset(tmp_path / "arm", (14, 20), height=32)
    named = {"lerobot": [str(folder)], "cameras": CAMERAS, "virtual": {"robots": 2, "camera_roll_rad": {"wrist": 3}}}
    with pytest.raises(ValueError, match=r"{wrist: {circle: 0.25}}.*got View\(circle=0.5"):
        open_sources(named, config, 0)


@pytest.mark.slow
def test_a_model_trains_on_them_and_is_shown_its_view_when_it_acts(tmp_path: Path) -> None:
    from vla_align_ros.policy.load import find_device
    from vla_align_ros.training.recipe import load_recipe
    from vla_align_ros.training.train import train

    described = so101(views={"wrist": {"circle": 0.5}})
    (tmp_path / "so101.model.yaml").write_text(yaml.safe_dump(described))
    folder = write_dataset(tmp_path / "arm", (14, 20, 30))
    shifts = {"robots": 3, "joint_zeros_rad": 0.1, "gripper_range": 0.1, "camera_roll_rad": {"wrist": 3.14}}
    recipe = {
        "model": "so101.model.yaml",
        "source": {"lerobot": [str(folder)], "cameras": CAMERAS, "virtual": shifts},
        "vision": {"steps": 2, "batch_size": 8, "frames": 32},
        "samples": 16,
        "batch_size": 4,
        "shard_samples": 8,
    }
    path, run = tmp_path / "so101.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(app, ["train", "--config", str(path), "--run", str(run)])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert next(line["robots"] for line in lines if line["stage"] == "source") == 4
    sources = open_sources(recipe["source"], TypeAdapter(ModelConfig).validate_python(described), 0)
    trainee = train(path, load_recipe(path), sources, run, lambda line: None, find_device("cpu"))
    seen = sources.training.samples(np.zeros(1, np.int64), 4, 16, np.random.default_rng(0)).experiences[0].observation
    bare = replace(seen, images={camera: np.full((64, 64, 3), 200, np.uint8) for camera in CAMERAS})
    front, wrist = trainee.robot.prepare([bare], trainee.device).images
    assert (front == front[0, 0, 8, 8]).all()
    assert (wrist[..., 0, 0] == -1).all()
    assert (wrist[..., 8, 8] == front[0, 0, 8, 8]).all()
