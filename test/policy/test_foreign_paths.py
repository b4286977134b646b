"""Raw robot numbers in, robot numbers out: equal to openpi's and lerobot's own (test/data/foreign/README.md)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_folders import DATA, OPENPI, Made, lerobots, openpis
from safetensors.numpy import load_file

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.observation.codecs import IMAGE, encode_image, encode_joint_state
from vla_align_ros.observation.normalise import Normaliser, NormStats, NormStatsError
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.config import ModelConfigError
from vla_align_ros.policy.tokenizer import PromptError
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.runtime import make_assembler
from vla_align_ros.types import Observation

GIVEN, PROMPTS = load_file(DATA / "inputs.safetensors"), json.loads((DATA / "prompts.json").read_text())
ROWS, TOLERANCE = range(3), 2e-5


def load(made: Made) -> Policy:
    return load_policy(made[0], "cpu", settings=made[1])


def observation(robot: RobotDescription, row: int) -> Observation:
    state = GIVEN[f"{row}.state"][: len(robot.state)]
    cameras = ("high", "left", "right") if "high" in robot.cameras else ("front", "wrist")
    images = {name: GIVEN[f"{row}.image.{i}"] for i, name in enumerate(cameras) if f"{row}.image.{i}" in GIVEN}
    return Observation(images, state, PROMPTS[row], 0)


def goals(policy: Policy, row: int) -> np.ndarray:
    """The absolute actions in the model's units, from a given noise."""
    seen, robot = observation(policy.config.robot, row), policy.config.robot
    actions = policy.sample(policy.prepare([seen]), torch.from_numpy(GIVEN[f"{row}.noise"])[None])[0]
    absolute = positions_of(actions, robot.measured(seen.state), robot.kinds, 0.1)
    return robot.goal_scale.to_model(absolute)


def check(policy: Policy, answers: dict[str, np.ndarray], case: str) -> None:
    for row in ROWS:
        inputs = policy.prepare([observation(policy.config.robot, row)])
        assert inputs.tokens[inputs.token_masks].tolist() == answers[f"{case}.{row}.tokens"].tolist()
        expected = answers[f"{case}.{row}.actions"]
        scale = np.maximum(policy.robot.actions.stats.std, 1.0)  # the tolerance is one of normalised actions
        np.testing.assert_allclose(goals(policy, row) / scale, expected / scale, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", OPENPI)
def test_openpis_actions(case: str, tmp_path: Path) -> None:
    policy, answers = load(openpis(tmp_path / "folder", case)), load_file(DATA / "openpi.safetensors")
    assert policy.config.architecture.variant == case[:4].rstrip("_")
    assert policy.config.normalisation == ("zscore" if case == "pi0" else "quantiles")
    check(policy, answers, case)
    for row in ROWS:
        inputs = policy.prepare([observation(policy.config.robot, row)])
        np.testing.assert_allclose(inputs.state[0].numpy(), answers[f"{case}.{row}.state"], rtol=1e-6, atol=1e-6)
        for camera, image in enumerate(inputs.images):
            if f"image.{row}.{camera}" in answers:
                found = (image[0].permute(1, 2, 0) + 1) * 127.5
                np.testing.assert_array_equal(found.round().numpy(), answers[f"image.{row}.{camera}"])


def test_infer_is_that_path(tmp_path: Path) -> None:
    policy = load(openpis(tmp_path / "folder"))
    seen = observation(policy.config.robot, 0)
    noise = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(1))
    expected = policy.sample(policy.prepare([seen]), noise)[0]
    found = policy.infer(seen, torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(found.actions, expected)


@pytest.mark.parametrize("case", ["pi0", "pi05"])
def test_lerobots_actions(case: str, tmp_path: Path) -> None:
    policy, answers = load(lerobots(tmp_path / "folder", case)), load_file(DATA / "lerobot.safetensors")
    relative = ["delta_position"] * 5 + ["position"] if case == "pi0" else ["position"] * 6
    assert policy.config.robot.kinds.tolist() == relative
    assert policy.config.architecture.cameras == (("wrist", "front") if case == "pi0" else ("front", "wrist"))
    assert policy.config.recommended.num_steps == 10
    check(policy, answers, case)
    inputs = policy.prepare([observation(policy.config.robot, 0)])
    np.testing.assert_allclose(inputs.images[0][0].numpy(), answers[f"{case}.picture"], rtol=0, atol=1e-6)
    assert any("wrist_roll" in remark for remark in policy.remarks)  # it never moved in the data


@pytest.mark.parametrize("make", [openpis, lerobots])
def test_messages_reach_the_network_as_raw_frames_do(make: Callable[[Path], Made], tmp_path: Path) -> None:
    """Scaled once, the model's way: nothing on a robot's way is rounded that the source does not round."""
    policy = load(make(tmp_path / "folder"))
    robot, stamp_ns = policy.config.robot, 10**9
    raw = dataclasses.replace(
        observation(robot, 0), prompt="pick up the cube", stamp_ns=stamp_ns, state=policy.middle_state()
    )
    assembler = make_assembler(policy, PolicyParams())
    for camera, image in raw.images.items():
        assembler.push_image(camera, encode_image(np.asarray(image, np.uint8), stamp_ns), IMAGE, stamp_ns)
    assembler.push_joints(encode_joint_state(robot.state_joints, raw.state.astype(float), stamp_ns), stamp_ns)
    assembler.push_prompt(raw.prompt, stamp_ns)
    live = assembler.observe(stamp_ns)
    for seen, expected in zip(policy.prepare([live]).images, policy.prepare([raw]).images, strict=True):
        assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [("MEAN_STD", "q01", "q99"), ("MIN_MAX", "min", "max"), ("QUANTILES", "q01", "q99"), ("QUANTILE10", "q10", "q90")],
)
def test_lerobots_normalisation(mode: str, low: str, high: str) -> None:
    table = load_file(DATA / "lerobot_normalisation.safetensors")
    stats = NormStats(*(table[f"stats.{name}"] for name in ("mean", "std", low, high)))
    normaliser = Normaliser(stats, "zscore" if mode == "MEAN_STD" else "quantiles", "lerobot")
    np.testing.assert_array_equal(normaliser.normalise(table["x"]), table[f"{mode}.there"])
    np.testing.assert_allclose(normaliser.denormalise(table["x"] / 50), table[f"{mode}.back"], rtol=1e-6)


def test_openpis_prompts_by_sentencepiece(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    answers = load_file(DATA / "openpi.safetensors")
    for variant in ("pi0", "pi05"):
        policy = load(openpis(tmp_path / variant, variant, "tokenizer.model"))
        robot = policy.robot
        state = robot.state.normalise(GIVEN["1.state"]) if variant == "pi05" else None
        for index, prompt in enumerate(PROMPTS):
            if prompt.strip("_ \n"):
                raw = GIVEN["1.state"] if variant == "pi05" else None
                found = robot.tokenizer(prompt, raw)
                assert found == answers[f"prompt.{index}.{variant}"].tolist(), (prompt, state)


def edited(name: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = next(iter(sorted(folder.glob(f"**/{name}"))))
        raw = json.loads(path.read_text())
        change(raw)
        path.write_text(json.dumps(raw))

    return edit


def _names(raw: dict[str, Any], names: list[str]) -> None:
    raw["steps"][5]["config"]["action_names"] = names


BAD_OPENPI: dict[str, tuple[Callable[[Path], Any], type[ValueError], str]] = {
    "another length": (
        edited("norm_stats.json", lambda raw: [part.pop() for part in raw["norm_stats"]["state"].values()]),
        NormStatsError,
        "state has 6 numbers, the robot has 7 fields",
    ),
    "NaN": (
        edited("norm_stats.json", lambda raw: raw["norm_stats"]["state"]["mean"].__setitem__(0, float("nan"))),
        NormStatsError,
        "finite numbers are needed",
    ),
    "no statistics": (lambda folder: shutil.rmtree(folder / "assets"), NormStatsError, "no assets/<robot>/norm_stats"),
    "two robots": (
        lambda folder: shutil.copytree(folder / "assets" / "lab", folder / "assets" / "two"),
        NormStatsError,
        "statistics of 2 robots",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), ModelConfigError, "google/paligemma-3b"),
    "damaged tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        ModelConfigError,
        "not a tokenizers file",
    ),
    "another vocabulary": (
        lambda folder: shutil.copy(
            Path(__file__).parents[2] / "models" / "tiny" / "tokenizer.json", folder / "tokenizer.json"
        ),
        ModelConfigError,
        "another model's tokenizer",
    ),
    "another policy": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "openvla"}'),
        ModelConfigError,
        "neither openpi's nor lerobot's",
    ),
    "another size": (
        lambda folder: (folder / "config.json").write_text('{"paligemma_variant": "gemma_2b", "action_dim": 32}'),
        ModelConfigError,
        "action_dim is 32, the weights have 8",
    ),
}
BAD_LEROBOT: dict[str, tuple[Callable[[Path], Any], type[ValueError], str]] = {
    "joints that are not there": (
        edited("policy_preprocessor.json", lambda raw: _names(raw, ["j1", "j2", "j3", "j4", "j5", "gripper"])),
        ModelConfigError,
        "give the fields of `robot.action` these names",
    ),
    "another policy": (
        edited("config.json", lambda raw: raw.update(type="smolvla")),
        ModelConfigError,
        "a lerobot policy of type 'smolvla'",
    ),
    "the other variant": (
        edited("config.json", lambda raw: raw.update(type="pi05")),
        ModelConfigError,
        "type is pi05, the weights are a pi0's",
    ),
    "an unknown step": (
        edited("policy_preprocessor.json", lambda raw: raw["steps"].append({"registry_name": "mine", "config": {}})),
        ModelConfigError,
        "the steps ['mine'] are not known here",
    ),
    "no processors": (
        lambda folder: (folder / "policy_preprocessor.json").unlink(),
        ModelConfigError,
        "migrate_policy_normalization",
    ),
    "no state file": (
        lambda folder: next(folder.glob("*_normalizer_processor.safetensors")).unlink(),
        NormStatsError,
        "no such file",
    ),
    "other cameras": (
        edited("config.json", lambda raw: raw["input_features"].pop("observation.images.wrist")),
        ModelConfigError,
        "the policy sees the cameras ['front']",
    ),
    "two modes": (
        edited("policy_preprocessor.json", lambda raw: raw["steps"][6]["config"]["norm_map"].update(STATE="QUANTILES")),
        ModelConfigError,
        "state is normalised by QUANTILES and action by MEAN_STD",
    ),
    "pictures that are normalised": (
        edited("policy_preprocessor.json", lambda raw: raw["steps"][6]["config"]["norm_map"].update(VISUAL="MEAN_STD")),
        ModelConfigError,
        "normalises pictures by MEAN_STD, IDENTITY is supported",
    ),
    "relative nobody says how": (
        edited("policy_preprocessor.json", lambda raw: raw["steps"].pop(5)),
        ModelConfigError,
        "is enabled without relative_actions_processor",
    ),
}


@pytest.mark.parametrize("kind", BAD_OPENPI)
def test_a_bad_openpi_folder_is_refused(kind: str, tmp_path: Path) -> None:
    made, (spoil, error, said) = openpis(tmp_path / "folder"), BAD_OPENPI[kind]
    spoil(made[0])
    with pytest.raises(error) as caught:
        load(made)
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", BAD_LEROBOT)
def test_a_bad_lerobot_folder_is_refused(kind: str, tmp_path: Path) -> None:
    made, (spoil, error, said) = lerobots(tmp_path / "folder"), BAD_LEROBOT[kind]
    spoil(made[0])
    with pytest.raises(error) as caught:
        load(made)
    assert said in str(caught.value)


def test_an_old_lerobot_is_remarked_on(tmp_path: Path) -> None:
    made = lerobots(tmp_path / "folder", "pi05")
    assert not any("old lerobot" in remark for remark in load(made).remarks)
    edited("config.json", lambda raw: raw.pop("use_relative_actions"))(made[0])
    assert any("old lerobot" in remark for remark in load(made).remarks)


def test_what_only_the_user_knows_is_asked_for(tmp_path: Path) -> None:
    folder, settings = openpis(tmp_path / "folder")
    with pytest.raises(ModelConfigError, match="give action_horizon"):
        load((folder, dataclasses.replace(settings, action_horizon=None)))


def test_padding_behind_the_statistics_is_cut(tmp_path: Path) -> None:
    folder, settings = openpis(tmp_path / "folder")
    pad = {"mean": 0.0, "std": 1.0, "q01": 0.0, "q99": 0.0}
    edited(
        "norm_stats.json",
        lambda raw: [part[name].append(pad[name]) for part in raw["norm_stats"].values() for name in part],
    )(folder)
    policy = load((folder, settings))
    assert any("the last 1 are padding" in remark for remark in policy.remarks)


def test_a_special_token_beyond_the_vocabulary_is_no_text(tmp_path: Path) -> None:
    policy = load(openpis(tmp_path / "folder"))
    with pytest.raises(PromptError, match="no text for this model"):
        policy.robot.tokenizer("pick <image>")
