"""An E-Token for a base that never had one: nothing changes before training, and what is frozen never does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import make_observation, write_model
from lerobot_files import CAMERAS, write_dataset
from recordings import BASE, record, run_of
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from vla_align_ros.bench.reach2.source import open_sources
from vla_align_ros.cli.main import app
from vla_align_ros.observation.normalise import NormStats, save_norm_stats
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.config import ModelConfigError
from vla_align_ros.training.base import model_of, standard_error
from vla_align_ros.training.export import write_model as write_trained
from vla_align_ros.training.make_tokenizer import write_tokenizer
from vla_align_ros.training.recipe import BaseRecipe, Recipe, RecipeError, VisionRecipe
from vla_align_ros.training.train import prepare, train

CPU = torch.device("cpu")
CONFIG = Path(__file__).parents[2] / "config"
RECIPES = CONFIG / "train"
TINY, TINY_MODEL = str(RECIPES / "tiny.yaml"), str(RECIPES / "tiny.model.yaml")
SOURCES = open_sources(0, robots=3, validation_robots=1)
PI05 = {"variant": "pi05", "max_token_len": 24, "vocab_size": 300}
NEW = ("peft_prefix_token", "e_token_attention_bias", "alignment.")


def base_folder(folder: Path, **changes: object) -> Path:
    return write_model(folder, use_peft_prefix_token=False, alignment=None, **changes)


def recipe_of(folder: Path, freeze: str = "base") -> Recipe:
    return Recipe(
        source={},
        base=BaseRecipe(str(folder), freeze),
        vision=VisionRecipe(steps=2, batch_size=8, frames=32),
        samples=16,
        batch_size=4,
        shard_samples=8,
        alignment_samples=8,
        regression_weight=0.0,
        keypoint_weight=0.0,
    )


def silent(line: dict[str, object]) -> None:
    """For a run whose log nobody reads."""


@pytest.mark.parametrize("changes", [{}, PI05], ids=["pi0", "pi05"])
def test_before_training_the_actions_are_the_bases_to_the_bit(tmp_path: Path, changes: dict[str, object]) -> None:
    folder = base_folder(tmp_path / "base", **changes)
    trainee = prepare(recipe_of(folder), tmp_path / "recipe.yaml", SOURCES, tmp_path / "run", silent, CPU)
    base = load_policy(folder, "cpu")
    model = trainee.model.eval()
    token = model.peft_prefix_token.detach() + trainee.bank.offsets()[0].detach()
    fresh = Policy(model, dataclasses.replace(trainee.robot, config=base.config), None, "", CPU)
    fresh.swap_token(token)
    seen = [make_observation(seed=seed) for seed in range(3)]
    for count in (1, 3):  # the fast way, and the model's own
        noise = torch.randn(count, 5, 3)
        inputs = base.prepare(seen[:count])
        wanted = base.sample_actions(inputs, noise, 3)
        assert torch.equal(fresh.sample_actions(inputs, noise, 3, token.expand(count, -1, -1)), wanted)
    model.e_token_is_left_out = False
    assert not torch.equal(model.sample_actions(inputs, noise, 3, token.expand(3, -1, -1)), wanted), "E is heard now"


def test_the_log_says_what_is_odd_about_the_bases_statistics(tmp_path: Path) -> None:
    folder, lines = base_folder(tmp_path / "base"), list[dict[str, object]]()
    still = NormStats(*(np.array(numbers, np.float32) for numbers in ([0, 0], [1, 1], [-2, 0], [2, 0])))
    moving = NormStats(*(np.array(numbers, np.float32) for numbers in ([0, 0], [1, 1], [-2, -2], [2, 2])))
    save_norm_stats(folder / "norm_stats.json", {"state": still, "actions": moving})
    prepare(recipe_of(folder), tmp_path / "recipe.yaml", SOURCES, tmp_path / "run", lines.append, CPU)
    (said,) = [line["remark"] for line in lines if line["stage"] == "statistics"]
    assert "elbow" in str(said)


@pytest.mark.slow
@pytest.mark.parametrize(("freeze", "changes"), [("base", {}), ("vlm", PI05)])
def test_what_is_frozen_stays_and_a_run_goes_on_to_the_same_bits(
    tmp_path: Path, freeze: str, changes: dict[str, object]
) -> None:
    folder, run, path = base_folder(tmp_path / "base", **changes), tmp_path / "run", tmp_path / "recipe.yaml"
    recipe = recipe_of(folder, freeze)
    trainee = train(path, recipe, SOURCES, run, silent, CPU)
    before, after = load_policy(folder, "cpu").model.state_dict(), trainee.model.state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert {key for key in after if key not in before and key.startswith(NEW)} == after.keys() - before.keys()
    if freeze == "base":
        assert not changed
    else:
        assert {key.split(".")[0] for key in changed} == {
            "action_expert",
            "action_in_proj",
            "action_out_proj",
            "time_mlp_in",
            "time_mlp_out",
        }
    stored = load_file(run / "policy.safetensors")
    assert not any(key.startswith("model.vlm") for key in stored), "what is frozen is not saved again and again"

    def cut(line: dict[str, object]) -> None:
        if line.get("step") == 2 and line["stage"] == "policy":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(path, recipe, SOURCES, tmp_path / "cut", cut, CPU, save_every_s=0.0)
    train(path, recipe, SOURCES, tmp_path / "cut", silent, CPU)
    for name in ("policy.safetensors", "alignment.safetensors"):
        whole, cut_off = (load_file(place / name) for place in (run, tmp_path / "cut"))
        assert [key for key in whole if not torch.equal(whole[key], cut_off[key])] == []
    (compared,) = (line for line in map(json.loads, (run / "log.jsonl").open()) if line["stage"] == "against the base")
    assert compared["difference"] == pytest.approx(compared["action_loss"] - compared["base_action_loss"], abs=1e-5)
    write_trained(trainee, recipe, run, tmp_path / "zoo")
    policy = load_policy(tmp_path / "zoo", "cpu")
    assert torch.equal(policy.token, after["peft_prefix_token"] + policy.alignment.bank[0])
    assert policy.align_problem == ""
    assert policy.infer(make_observation()).actions.shape == (5, 2)


def test_a_base_whose_weights_changed_since_is_refused(tmp_path: Path) -> None:
    folder, run = base_folder(tmp_path / "base"), tmp_path / "run"
    recipe, path = recipe_of(folder), tmp_path / "recipe.yaml"
    prepare(recipe, path, SOURCES, run, silent, CPU)
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"state_proj.bias": weights["state_proj.bias"] + 1}, folder / "model.safetensors")
    with pytest.raises(RecipeError, match=r"others than its token was trained on: sha256 .*put the old ones back"):
        prepare(recipe, path, SOURCES, run, silent, CPU)


def test_a_base_that_has_an_e_token_and_one_that_is_not_named_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with pytest.raises(RecipeError, match="has an E-Token already: align it"):
        model_of(recipe_of(write_model(tmp_path / "with")), path)
    with pytest.raises(RecipeError, match="no folder is named: `--base FOLDER`"):
        model_of(dataclasses.replace(recipe_of(tmp_path), base=BaseRecipe()), path)
    with pytest.raises(ModelConfigError, match="the model is one folder further down"):
        model_of(recipe_of(tmp_path), path)


@pytest.mark.slow
def test_the_command_trains_on_a_base_from_bags(tmp_path: Path) -> None:
    folder, bag, run = base_folder(tmp_path / "base"), tmp_path / "bag", tmp_path / "run"
    record(bag, run_of(seconds=13.0))
    recipe = dataclasses.asdict(dataclasses.replace(recipe_of(folder), source={"virtual": {"robots": 2}}))
    recipe |= {"base": {"freeze": "vlm"}, "source": {"virtual": {"robots": 2, "joint_zeros_rad": 0.1}}}
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({key: part for key, part in recipe.items() if part is not None})
    )
    arguments = ["train", "--config", tmp_path / "recipe.yaml", "--base", folder, "--freeze", "base", "--data", bag]
    result = CliRunner().invoke(app, [*map(str, arguments), "--run", str(run), "--tensorboard"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert next(line["robots"] for line in lines if line["stage"] == "source") == 3
    assert yaml.safe_load((run / "recipe.yaml").read_text())["base"]["freeze"] == "base"
    assert list((run / "tensorboard" / "policy").glob("events.*"))


def test_a_run_without_data_or_with_a_bag_whose_topics_are_called_otherwise_says_what_to_write(tmp_path: Path) -> None:
    folder, bag = base_folder(tmp_path / "base"), tmp_path / "bag"
    arguments = ["train", "--base", str(folder), "--freeze", "base", "--run", str(tmp_path / "run")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "no data are named: one of bench, lerobot, bags, or --data" in result.stderr
    record(bag, run_of(seconds=1.0), names={BASE: "/front"})
    result = CliRunner().invoke(app, [*arguments, "--data", str(bag)])
    assert result.exit_code == 2
    assert "give --camera base_0_rgb=/front; " in result.stderr
    assert (
        "These options are keys of `source` here: cameras, joints, prompt_topic, prompt, command_topic" in result.stderr
    )


def test_a_base_is_not_exported_over(tmp_path: Path) -> None:
    folder = base_folder(tmp_path / "base")
    arguments = ["train", "--base", str(folder), "--run", str(tmp_path / "run"), "--export", f"{folder}/../base"]
    result = CliRunner().invoke(app, [*arguments, "--source", "{bench: reach2}"])
    assert result.exit_code == 2
    assert "is the base itself, which the run still needs" in result.stderr


@pytest.mark.slow
def test_the_command_trains_on_a_base_from_a_dataset(tmp_path: Path) -> None:
    sizes = {"action_dim": 7, "action_horizon": 4, "cameras": list(CAMERAS)}
    folder, run = base_folder(tmp_path / "base", **sizes), tmp_path / "run"
    described = yaml.safe_load((folder / "model.yaml").read_text())
    described["robot"] = yaml.safe_load((CONFIG / "robots" / "so101.yaml").read_text()) | {"execute": 2}
    (folder / "model.yaml").write_text(yaml.safe_dump(described))
    stats = NormStats(*(np.full(6, number, np.float32) for number in (0, 1, -2, 2)))
    save_norm_stats(folder / "norm_stats.json", {"state": stats, "actions": stats})
    write_tokenizer(folder / "tokenizer.json", ["pick the red cube", "push the blue cube"], 64)
    dataset = write_dataset(tmp_path / "dataset", (14, 20, 30))
    recipe = dataclasses.asdict(dataclasses.replace(recipe_of(folder), source={}))
    recipe |= {"base": {}, "source": {"cameras": CAMERAS, "virtual": {"robots": 2, "joint_zeros_rad": 0.1}}}
    del recipe["model"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["train", "--config", tmp_path / "recipe.yaml", "--base", folder, "--data", dataset, "--run", run]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert next(line["robots"] for line in lines if line["stage"] == "source") == 3
    (compared,) = (line for line in lines if line["stage"] == "against the base")
    assert compared["episodes"] == 1
    assert compared["standard_error"] is None, "one episode tells nothing of others"


def test_samples_of_one_episode_are_no_more_sure_than_it_is() -> None:
    values = torch.randn(12, generator=torch.Generator().manual_seed(0))
    alone = standard_error(values, range(12))
    assert alone == pytest.approx(float(values.std()) / 12**0.5)
    assert standard_error(values.repeat(5), [*range(12)] * 5) == pytest.approx(alone)
    assert standard_error(values, [3] * 12) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--base", "nowhere"], "nowhere: no such model folder"),
        (["--base", "tiny"], "has an E-Token already"),
        (["--base", "tiny", "--freeze", "eye"], "--freeze must be vlm or base, got 'eye'"),
        (["--base", "tiny", "--data", "nowhere"], "--data: nowhere: no such file or folder"),
        (["--base", "tiny", "--data", ".", "--source", "{}"], "--data and --source say the same"),
        ([], "name a recipe"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["--config", TINY_MODEL], "source: Field required; format: Unexpected keyword argument; name: Unexpected"),
        (["--config", TINY, "--run", TINY], "--run: " + TINY + " is a file"),
        (["--config", TINY, "--export", TINY], "--export: " + TINY + " is a file"),
        (["--config", TINY, "--run", "/proc/nowhere/run"], "/proc/nowhere: No such file or directory"),
    ],
)
def test_a_wrong_option_is_answered_with_a_sentence(tmp_path: Path, options: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["train", "--run", str(tmp_path / "run"), *options])
    assert result.exit_code == 2
    assert said in result.output
    assert not (tmp_path / "run").exists()
