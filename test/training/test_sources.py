"""The same training from a bench, from a LeRobotDataset and from bags, by naming another source."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from builders import architecture_dict, model_yaml
from lerobot_files import CAMERAS, SIZE, write_dataset
from recordings import record, run_of
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from vla_align_ros.cli.main import app
from vla_align_ros.cli.sources import open_sources
from vla_align_ros.experience.lerobot import LeRobotDataset
from vla_align_ros.experience.source import Source, Sources, held_out
from vla_align_ros.policy import load_policy
from vla_align_ros.policy.config import ModelConfig, load_model_description
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.training.dataset import make_samples
from vla_align_ros.training.export import write_model
from vla_align_ros.training.recipe import load_recipe
from vla_align_ros.training.train import train as run_training

pytestmark = pytest.mark.slow

ROBOTS = Path(__file__).parents[2] / "config" / "robots"
RECIPE = {
    "model": "model.yaml",
    "vision": {"steps": 2, "batch_size": 8, "frames": 32},
    "samples": 24,
    "batch_size": 4,
    "shard_samples": 8,
}
BENCH = {"bench": "reach2", "robots": 3, "validation_robots": 1}


def so101_yaml() -> dict[str, Any]:
    """A small model for the dataset that `lerobot_files` writes."""
    robot = yaml.safe_load((ROBOTS / "so101.yaml").read_text()) | {"execute": 2}
    architecture = architecture_dict(action_dim=7, vocab_size=64, action_horizon=4, cameras=list(CAMERAS))
    return model_yaml() | {"architecture": architecture, "robot": robot}


def bench_so101_yaml() -> dict[str, Any]:
    """A small model for the robot of the shipped one."""
    shipped = yaml.safe_load((ROBOTS.parent / "train" / "so101.model.yaml").read_text())
    sizes = {"action_dim": 6, "vocab_size": 64, "max_token_len": 16, "action_horizon": 16}
    return shipped | {"architecture": architecture_dict(cameras=["wrist"], **sizes)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for each model; bag1 and bag2; dataset."""
    folder = tmp_path_factory.mktemp("data")
    models = {"reach2": model_yaml(), "so101": so101_yaml(), "bench_so101": bench_so101_yaml()}
    for name, described in models.items():
        (folder / f"{name}.model.yaml").write_text(yaml.safe_dump(described))
        recipe = RECIPE | {"model": f"{name}.model.yaml", "source": BENCH}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    write_dataset(folder / "dataset", (14, 20, 30, 40))
    for number in (1, 2):
        record(folder / f"bag{number}", run_of(seconds=13.0))
    return folder


def source_of(data: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    """The recipe and the source of one kind."""
    return {
        "bench": (data / "reach2.yaml", BENCH),
        "so101": (data / "bench_so101.yaml", {**BENCH, "bench": "so101", "tasks": {"reach": 1.0}}),
        "lerobot": (data / "so101.yaml", {"lerobot": [str(data / "dataset")], "cameras": CAMERAS}),
        "bags": (data / "reach2.yaml", {"bags": {f"arm{number}": [str(data / f"bag{number}")] for number in (1, 2)}}),
    }[kind]


def opened(data: Path, kind: str, **changes: Any) -> Sources:
    recipe, source = source_of(data, kind)
    return open_sources(source | changes, config_of(recipe), 0)


def config_of(recipe: Path) -> ModelConfig:
    return load_model_description(recipe.with_suffix(".model.yaml"))


def trained(data: Path, kind: str, run: Path, *options: str, **changes: Any) -> Result:
    recipe, source = source_of(data, kind)
    arguments = ["--config", recipe, "--run", run, "--source", yaml.safe_dump(source | changes), *options]
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.mark.parametrize(("kind", "robots"), [("bench", 3), ("so101", 3), ("lerobot", 1), ("bags", 2)])
def test_the_same_command_trains_from_each_source(data: Path, tmp_path: Path, kind: str, robots: int) -> None:
    result = trained(data, kind, tmp_path / "run")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    steps = [line for line in lines if line["stage"] == "policy"]
    assert [line["step"] for line in steps] == list(range(6))
    assert all(np.isfinite(value) for line in steps for name, value in line.items() if name.endswith("_loss"))
    first, second = (line for line in lines if line["stage"] == "samples")
    assert first["made_per_s"] > 0
    assert second["trained_per_s"] > 0
    (about,) = (line for line in lines if line["stage"] == "source")
    assert about["robots"] == robots
    assert ("left_out" in about) == (kind not in ("bench", "so101"))
    assert ("keypoint_loss" in steps[0]) == (kind in ("bench", "so101"))
    kept = load_file(tmp_path / "run" / "policy.safetensors")
    if kind == "so101":  # how its arms differ is known: a network makes their tokens
        assert "bank.network.0.weight" in kept
    else:
        assert len(kept["bank.each"]) == robots


def test_a_run_on_a_recording_goes_on_to_the_same_bits(data: Path, tmp_path: Path) -> None:
    recipe_path, _ = source_of(data, "lerobot")
    sources, recipe, cpu = opened(data, "lerobot"), load_recipe(recipe_path), torch.device("cpu")
    run_training(recipe_path, recipe, sources, tmp_path / "whole", lambda line: None, cpu)

    def cut(line: dict[str, object]) -> None:
        if line.get("stage") == "policy" and line.get("step") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:  # with all that the frames of its traceback hold
        run_training(recipe_path, recipe, sources, tmp_path / "cut", cut, cpu, save_every_s=0.0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")], kept
    run_training(recipe_path, recipe, sources, tmp_path / "cut", lambda line: None, cpu)
    whole, cut_off = (load_file(tmp_path / name / "policy.safetensors") for name in ("whole", "cut"))
    assert [key for key in whole if not torch.equal(whole[key], cut_off[key])] == []


def test_a_run_does_not_go_on_with_another_source(data: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((data / "reach2.yaml").read_text())
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = trained(data, "bags", tmp_path)
    assert result.exit_code == 2, result.output
    assert "begun with another source:" in result.output


def test_a_sample_is_prepared_as_the_policy_prepares_what_it_sees(data: Path, tmp_path: Path) -> None:
    recipe_path, _ = source_of(data, "lerobot")
    recipe = dataclasses.replace(load_recipe(recipe_path), samples=4)
    sources = opened(data, "lerobot")
    run = tmp_path / "run"
    trainee = run_training(recipe_path, recipe, sources, run, lambda line: None, torch.device("cpu"))
    write_model(trainee, recipe, run, tmp_path / "zoo")
    policy = load_policy(tmp_path / "zoo", "cpu")
    size, horizon = (config_of(recipe_path).architecture.vision.image_size, 4)
    raw = sources.training.samples(np.zeros(5, np.int64), horizon, size, np.random.default_rng(1))
    samples = make_samples(raw, trainee.robot, trainee.features)
    dataset = LeRobotDataset(data / "dataset", policy.config.robot, CAMERAS, SIZE)  # at the camera's own size
    live = {item.observation.stamp_ns: item for item in dataset.experiences(horizon, 1)}
    seen = [live[item.observation.stamp_ns] for item in raw.experiences]
    assert seen[0].observation.images["front"].shape == (SIZE, SIZE, 3)
    inputs, outcome = policy.prepare_experiences(seen)
    _same(samples.policy_input(torch.arange(5)), policy.prepare([item.observation for item in seen]))
    _same(samples.policy_input(torch.arange(5)), inputs)  # pi0's prompt has no state
    _same(samples.experience, outcome)
    assert torch.equal(samples.actions, outcome.actions), "a demonstration's own commands are to be imitated"


def _same(first: PolicyInput | ExperienceInput, second: PolicyInput | ExperienceInput) -> None:
    for part in dataclasses.fields(first):
        one, other = (getattr(item, part.name) for item in (first, second))
        for a, b in zip(*((item if isinstance(item, tuple) else (item,)) for item in (one, other)), strict=True):
            assert torch.equal(a, b), part.name


@pytest.mark.parametrize("kind", ["bench", "lerobot", "bags"])
def test_samples_and_experience_are_one_robots_and_repeat_for_a_seed(data: Path, kind: str) -> None:
    source: Source = opened(data, kind).training
    horizon = config_of(source_of(data, kind)[0]).architecture.action_horizon
    robot = np.arange(8) % len(source.robots)
    first, second = (source.samples(robot, horizon, 16, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first.robot, robot)
    assert len({item.observation.state.tobytes() for item in first.experiences}) > 4
    for one, other in zip(first.experiences, second.experiences, strict=True):
        assert one.commands.shape == first.actions.shape[1:]
        assert one.commands.tobytes() == other.commands.tobytes()
        assert one.observation.prompt in source.prompts
        assert all(image.shape == (16, 16, 3) for image in one.observation.images.values())
    assert not any(
        item.observation.images for item in source.samples(robot, horizon, None, np.random.default_rng(3)).experiences
    )


def test_what_is_held_out_is_other_robots_or_later_episodes() -> None:
    assert held_out({name: [1, 2] for name in "abcdef"}) == (
        {name: [1, 2] for name in "abcd"},
        {name: [1, 2] for name in "ef"},
    )
    assert held_out({"a": [1, 2, 3], "b": [4, 5]}) == ({"a": [1, 2], "b": [4]}, {"a": [3], "b": [5]})
    with pytest.raises(ValueError, match="robot 'a' has one episode"):
        held_out({"a": [1]})


def test_a_second_dataset_validates(data: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "another_arm", (14,))
    sources = opened(data, "lerobot", validation=[str(other)])
    assert sources.training.robots == ("dataset",)
    assert sources.validation.robots == ("another_arm",)


def break_info(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "meta" / "info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def longer_state(folder: Path) -> None:
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"]["observation.state"] = {"dtype": "float32", "shape": [9], "names": None}
    break_info(features=info["features"])(folder)


def truncate(folder: Path) -> None:
    path = next(folder.rglob("data/**/*.parquet"))
    path.write_bytes(path.read_bytes()[:-40])


BROKEN: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "fps": (break_info(fps=15), "recorded at 15 fps, the robot's control_rate_hz is 30"),
    "missing video": (lambda f: next(f.rglob("*.mp4")).unlink(), "the video is missing"),
    "truncated parquet": (truncate, "is it whole"),
    "another length": (longer_state, "9 numbers without names, the robot needs"),
    "no task text": (lambda f: (f / "meta" / "tasks.parquet").unlink(), "no task text"),
    "too short": (lambda f: None, "no episode is longer than the model's action_horizon"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_dataset_that_does_not_fit_ends_with_a_sentence(data: Path, tmp_path: Path, fault: str) -> None:
    break_it, sentence = BROKEN[fault]
    folder = write_dataset(tmp_path / "broken", (4, 4) if fault == "too short" else (14, 20))
    break_it(folder)
    result = trained(data, "lerobot", tmp_path / "run", lerobot=[str(folder)])
    assert result.exit_code == 2, result.output
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_another_robots_bag_ends_with_a_sentence(data: Path, tmp_path: Path) -> None:
    described = yaml.safe_load((data / "reach2.model.yaml").read_text())
    text = yaml.safe_dump(described).replace("elbow", "wrist_flex")
    (tmp_path / "other.model.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(RECIPE | {"model": "other.model.yaml", "source": BENCH}))
    source = yaml.safe_dump({"bags": [str(data / "bag1")]})
    arguments = ["--config", tmp_path / "other.yaml", "--run", tmp_path / "run", "--source", source]
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "another robot's bag?" in result.output
    assert "wrist_flex" in result.output


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("{lerobot: [a], bags: [b]}", "expected one of bench, lerobot, bags"),
        ("{bench: moon}", "source: bench"),
        ("{bench: so101, families: [legs]}", "families: expected some of front_camera"),
        ("{bench: so101, tasks: {dance: 1.0}}", "'reach', 'push' or 'pick' (got 'dance')"),
        ("[reach2]", "source"),
        ("{lerobot: [a], camera: {}}", "camera"),
        ("{lerobot: [a], cameras: {nose: x}}", "the model has no camera ['nose']"),
        ("{lerobot: [", "source"),
        ("{bags: [nowhere]}", "nowhere: no such bag"),
    ],
)
def test_a_source_that_says_nothing_useful_is_refused(data: Path, tmp_path: Path, source: str, sentence: str) -> None:
    arguments = ["--config", data / "so101.yaml", "--run", tmp_path, "--source", source]
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert sentence in result.output
