"""A model folder that is missing, damaged or wrong is refused with a sentence, by the error type of what is wrong."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
import yaml
from builders import GOLDEN, make_observation, save_tensors, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from vla_align_ros.observation.normalise import NormStatsError
from vla_align_ros.policy import PolicyError, load_policy
from vla_align_ros.policy.config import ModelConfigError, load_model_config
from vla_align_ros.policy.load import find_device
from vla_align_ros.policy.made_tokens import to_tensors
from vla_align_ros.policy.statistics import AlignmentStatsError
from vla_align_ros.policy.weights import WeightsError, read_tensors
from vla_align_ros.training.bank import TokenBank

pytestmark = pytest.mark.slow  # hundreds of folders, each damaged in another way

FILES = {
    "model.yaml": ModelConfigError,
    "tokenizer.json": ModelConfigError,
    "norm_stats.json": NormStatsError,
    "alignment_stats.json": AlignmentStatsError,
    "model.safetensors": WeightsError,
    "features.safetensors": WeightsError,
    "token_bank.safetensors": WeightsError,
}
"""Every file of a zoo folder, and the error of its reader."""

KNOWN = tuple(set(FILES.values()) | {PolicyError})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that is right; never changed."""
    return write_model(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit_yaml(folder: Path, path: str, value: Any) -> None:
    """Set a dotted key of model.yaml; the value `...` removes it."""
    raw = yaml.safe_load((folder / "model.yaml").read_text())
    target = raw
    *parents, key = (int(part) if part.isdigit() else part for part in path.split("."))
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[key]
    else:
        target[key] = value
    (folder / "model.yaml").write_text(yaml.safe_dump(raw))


def edit_weights(folder: Path, name: str, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_tensors(tensors, folder / name)


def refusal(folder: Path, error: type[Exception]) -> str:
    """The sentence that loading is refused with. It names a file or folder and is one that a person can read."""
    with pytest.raises(error) as caught:
        load_policy(folder, "cpu")
    assert caught.type is error
    sentence = str(caught.value)
    assert str(folder) in sentence
    return sentence


def test_the_whole_folder_loads_and_acts(whole: Path) -> None:
    policy = load_policy(whole, "cpu")
    chunk = policy.infer(make_observation())
    assert chunk.actions.shape == (5, 2)
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())
    assert not policy.model.training


# --- files ---


def test_a_missing_folder(tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "nowhere", ModelConfigError)
    (tmp_path / "file").write_text("format: 1")
    assert "this is a file: give the folder that it is in" in refusal(tmp_path / "file", ModelConfigError)
    (tmp_path / "empty").mkdir()
    assert "model.yaml" in refusal(tmp_path / "empty", ModelConfigError)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert name in refusal(folder, FILES[name])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["empty", "half", "garbage", "folder"])
def test_a_damaged_file(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"\xff\x00\x80" * 500}[damage])
    assert name in refusal(folder, FILES[name])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
        (b"<!doctype html>\n<html lang='en'>not found</html>", "a web page under the file's name"),
        (bytes(4096), "begins with zeros"),
    ],
)
def test_a_file_that_was_never_fetched(folder: Path, name: str, content: bytes, named: str) -> None:
    (folder / name).write_bytes(content)
    assert named in refusal(folder, FILES[name])


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "model.ckpt", "model.pkl", "model.pth"])
def test_a_pickle_is_never_opened(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(_Bomb()))
    sentence = refusal(folder, WeightsError)
    assert f"{name} is a pickle" in sentence
    assert "convert it to safetensors" in sentence


def test_a_pickle_under_the_name_of_safetensors_is_never_opened(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(_Bomb()))
    assert "not a whole safetensors file" in refusal(folder, WeightsError)
    edit_yaml(folder, "weights", {"file": "model.pkl"})
    (folder / "model.pkl").write_bytes(pickle.dumps(_Bomb()))
    assert "not a whole safetensors file" in refusal(folder, WeightsError)


class _Bomb:
    """Fails the test when something unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


@given(st.data())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_no_damage_to_a_safetensors_file_raises_anything_else(whole: Path, data: st.DataObject) -> None:
    path = whole.parent / "damaged.safetensors"
    content = bytearray((whole / "token_bank.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 120)))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(WeightsError):
        read_tensors(path)


# --- weights ---


@pytest.mark.parametrize("name", ["model.safetensors", "features.safetensors"])
def test_a_missing_extra_or_misshapen_tensor(folder: Path, name: str) -> None:
    key = sorted(load_file(folder / name))[0]

    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[key]
        tensors["stray.weight"] = torch.ones(2)
        other = sorted(tensors)[1]
        tensors[other] = torch.ones(7, 7, 7)

    edit_weights(folder, name, change)
    sentence = refusal(folder, WeightsError)
    assert f"missing: {key}" in sentence
    assert "unexpected: stray.weight" in sentence
    assert "is [7, 7, 7], expected [" in sentence


def test_many_wrong_tensors_stay_readable(folder: Path) -> None:
    edit_weights(folder, "model.safetensors", lambda tensors: [tensors.pop(key) for key in sorted(tensors)[:20]])
    sentence = refusal(folder, WeightsError)
    assert "and 15 more" in sentence
    assert len(sentence) < 800


def test_weights_that_are_no_finite_numbers(folder: Path) -> None:
    edit_weights(folder, "model.safetensors", lambda tensors: tensors["embed_tokens.weight"].fill_(torch.nan))
    assert "not finite: embed_tokens.weight" in refusal(folder, WeightsError)
    for dtype in (torch.int64, torch.complex64, torch.float8_e4m3fn):
        blank = torch.zeros(64, 40).to(dtype)
        edit_weights(
            folder, "model.safetensors", lambda tensors, new=blank: tensors.update({"embed_tokens.weight": new})
        )
        assert "not floating-point numbers: embed_tokens.weight" in refusal(folder, WeightsError)


def test_weights_in_bfloat16_load_as_float32(folder: Path) -> None:
    edit_weights(
        folder, "model.safetensors", lambda tensors: tensors.update({k: t.bfloat16() for k, t in tensors.items()})
    )
    model = load_policy(folder, "cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_are_not_the_ones_described(folder: Path) -> None:
    edit_yaml(folder, "weights", {"sha256": "0" * 64})
    assert "not the weights that were described" in refusal(folder, WeightsError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"offsets": torch.zeros(4, 2, 31)},
        {"offsets": torch.zeros(2, 32)},
        {"offsets": torch.zeros(0, 2, 32)},
        {"offsets": torch.full((4, 2, 32), torch.inf)},
    ],
)
def test_a_bank_that_does_not_fit(folder: Path, wrong: dict[str, Tensor]) -> None:
    edit_weights(folder, "token_bank.safetensors", lambda tensors: tensors.update(wrong))
    said = refusal(folder, WeightsError)
    assert "`offsets` of shape (robots, 2, 32)" in said


def test_a_bank_that_is_made_of_what_does_not_fit(folder: Path) -> None:
    made = to_tensors(TokenBank(5, 2, 32, np.arange(10, dtype=np.float32).reshape(5, 2)).made, slice(3))
    edit_weights(folder, "token_bank.safetensors", lambda tensors: tensors.update(made))
    assert "4 `offsets`, but 3 `shifts`" in refusal(folder, WeightsError)
    edit_weights(folder, "token_bank.safetensors", lambda tensors: tensors.pop("network.0.bias"))
    assert "`network` does not make (2, 32) of 2 numbers" in refusal(folder, WeightsError)


def test_a_bank_without_tokens(folder: Path) -> None:
    edit_weights(folder, "token_bank.safetensors", lambda tensors: tensors.update(other=tensors.pop("offsets")))
    assert "`offsets` of shape" in refusal(folder, WeightsError)


def test_openpis_weights_with_a_stray_tensor(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN / "pi0", tmp_path / "pi0"))
    name = "paligemma_with_expert.gemma_expert.model.layers.7.self_attn.q_proj.weight"
    edit_weights(folder, "model.safetensors", lambda tensors: tensors.update({name: torch.ones(1)}))
    edit_weights(folder, "model.safetensors", lambda tensors: tensors.pop(name.replace("7", "2")))
    with pytest.raises(WeightsError) as caught:
        golden.load(folder)
    assert f"missing: {name.replace('7', '2')}; unexpected: {name}" in str(caught.value)


# --- model.yaml ---

WRONG = [
    ("extra", 1, "extra"),
    ("architecture.colour", "red", "architecture.colour"),
    ("architecture.vlm.width", ..., "architecture.vlm.width"),
    ("architecture.vlm.width", "wide", "architecture.vlm.width"),
    ("architecture.vlm.width", "40", "architecture.vlm.width"),
    ("architecture.vlm.width", 40.5, "architecture.vlm.width"),
    ("architecture.vlm.width", True, "architecture.vlm.width"),
    ("architecture.vlm.width", 0, "architecture.vlm.width"),
    ("architecture.vlm.width", 2**70, "architecture.vlm.width"),
    ("architecture.vlm.depth", 3, "its depth must be 3"),
    ("architecture.vlm.head_dim", 7, "must be even"),
    ("architecture.vlm.num_kv_heads", 4, "must divide num_heads"),
    ("architecture.action_expert.width", 31, "must be even"),
    ("architecture.action_horizon", -1, "architecture.action_horizon"),
    ("architecture.max_token_len", 0, "architecture.max_token_len"),
    ("architecture.vision.num_heads", 3, "must divide width"),
    ("architecture.vision.patch_size", 5, "must divide image_size"),
    ("architecture.vision.patch_size", 0, "architecture.vision.patch_size"),
    ("architecture.alignment.features.grid", 3, "must divide grid"),
    ("architecture.alignment.features.grid", 0, "architecture.alignment.features.grid"),
    ("architecture.alignment.features.components", 17, "components (17)"),
    ("architecture.alignment.features.dino.mlp_dim", 17, "multiple of its width"),
    ("architecture.alignment.perception_attention", "both", "'one_way' or 'mutual'"),
    ("architecture.cameras", [], "cameras: at least one is needed"),
    ("architecture.cameras", None, "architecture.cameras"),
    ("architecture.cameras", "base_0_rgb", "architecture.cameras"),
    ("architecture.cameras", ["base_0_rgb", "base_0_rgb"], "every name once"),
    ("architecture.peft_num_tokens", 0, "architecture.peft_num_tokens"),
    ("architecture.peft_init", "ones", "'zeros' or 'normal'"),
    ("architecture.e_token_attention_bias", float("nan"), "e_token_attention_bias"),
    ("architecture.variant", "pi1", "'pi0' or 'pi05'"),
    ("format", 2, "format"),
    ("name", "../elsewhere", "name"),
    ("robot.state", [], "robot.state"),
    ("robot.state.1.joint", "shoulder", "the field 'shoulder' is there twice"),
    ("robot.joints.shoulder.position", [3.0, -3.0], "the wrong way round?"),
    ("robot.joints.shoulder.velocity_max", float("nan"), "robot.joints.shoulder.velocity_max"),
    ("robot.cameras", {"base_0_rgb": "image"}, "must name exactly architecture.cameras"),
    ("robot.control_rate_hz", 0, "control_rate_hz"),
    ("robot.control_rate_hz", float("inf"), "control_rate_hz"),
    ("robot.execute", 6, "robot.execute must be 1..5"),
    ("robot.action.0.kind", "torque", "kind must be one of position, delta_position, velocity"),
    ("architecture.action_dim", 1, "robot.state: 2 fields do not fit action_dim 1"),
    ("recommended.num_steps", 0, "recommended.num_steps"),
    ("recommended.lambda_perc", -1, "recommended.lambda_perc"),
    ("normalisation", "none", "normalisation"),
    ("initial_token", -1, "initial_token"),
    ("initial_token", 4, "the bank has 4 tokens"),
]


@pytest.mark.parametrize(("key", "value", "named"), WRONG)
def test_a_wrong_model_yaml_names_the_key(folder: Path, key: str, value: Any, named: str) -> None:
    edit_yaml(folder, key, value)
    assert named in refusal(folder, ModelConfigError)


def test_every_problem_is_in_one_message(folder: Path) -> None:
    edit_yaml(folder, "extra", 1)
    edit_yaml(folder, "robot.execute", "two")
    edit_yaml(folder, "normalisation", ...)
    sentence = refusal(folder, ModelConfigError)
    assert all(key in sentence for key in ("extra", "robot.execute", "normalisation"))


@pytest.mark.parametrize("key", ["architecture.vlm.width", "architecture.vocab_size", "architecture.vision.mlp_dim"])
def test_sizes_beyond_the_weights_and_the_memory(folder: Path, key: str) -> None:
    edit_yaml(folder, key, 2**20)
    assert "wrong shape" in refusal(folder, WeightsError)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        "a: !!int x",
        "x: 2001-99-99",
        "[" * 2000,
        "&a [*a]",
        "- &x {a: *x}",
        "? [1]\n: 2",
        "1: 2",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!timestamp foo",
        "a: !!bool foo",
        "a: " + "9" * 5000,
        "<<: 3",
        "!!binary x",
        "\0",
    ],
)
def test_yaml_that_is_no_description(folder: Path, text: str) -> None:
    (folder / "model.yaml").write_text(text)
    assert "model.yaml" in refusal(folder, ModelConfigError)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from([[], {}, [1], {"a": 1}, ["a", "a"], "pi0", "zeros"]),
)


def leaves(raw: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything in a description, branches included."""
    below = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return [path] * bool(path) + [found for key, value in below for found in leaves(value, (*path, key))]


@pytest.mark.slow
@given(st.data())
@settings(max_examples=80, suppress_health_check=list(HealthCheck))
def test_no_change_of_a_model_yaml_raises_anything_else(whole: Path, data: st.DataObject) -> None:
    original = (whole / "model.yaml").read_text()
    raw = yaml.safe_load(original)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, key = data.draw(st.sampled_from(leaves(raw)))
        target = raw
        for parent in parents:
            target = target[parent]
        if data.draw(st.integers(0, 5)) == 0:
            del target[key]
        else:
            target[key] = data.draw(scalars)
    fuzzed = whole.parent / "fuzzed"
    shutil.copytree(whole, fuzzed, dirs_exist_ok=True)
    (fuzzed / "model.yaml").write_text(yaml.safe_dump(raw))
    try:
        policy = load_policy(fuzzed, "cpu")
    except KNOWN:
        return
    architecture = policy.model.architecture
    if architecture.action_horizon < 1000 and 4 <= architecture.max_token_len < 1000:  # it acts, and in reasonable time
        observation = make_observation(cameras=policy.model.architecture.cameras)
        chunk = policy.infer(observation, num_steps=1)
        assert chunk.actions.shape == (policy.model.architecture.action_horizon, 2)


@given(st.binary(max_size=60))
def test_no_bytes_as_model_yaml_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "model.yaml").write_bytes(content)
    with pytest.raises(ModelConfigError):
        load_model_config(folder)


# --- the other files ---


def test_a_tokenizer_that_does_not_fit(folder: Path) -> None:
    raw = json.loads((folder / "tokenizer.json").read_text())
    whole = json.dumps(raw)
    raw["model"]["vocab"]["zebra"] = 64
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert "has 65 token ids, the model's vocab_size is 64" in refusal(folder, ModelConfigError)
    raw = json.loads(whole)
    raw["model"]["vocab"]["<start>"] = raw["model"]["vocab"].pop("<bos>")
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    assert "['<bos>'] are missing" in refusal(folder, ModelConfigError)


def edit_stats(folder: Path, name: str, **fields: Any) -> None:
    raw = json.loads((folder / "norm_stats.json").read_text())
    raw["norm_stats"][name].update(fields)
    (folder / "norm_stats.json").write_text(json.dumps(raw))


def test_norm_stats_for_another_robot(folder: Path) -> None:
    for name in ("state", "actions"):
        edit_stats(folder, name, **{key: [0.0, 0.5, 1.0] for key in ("mean", "std", "q01", "q99")})
    said = refusal(folder, NormStatsError)
    assert "state has 3 numbers, the robot has 2 fields ['shoulder', 'elbow']: one each, in order" in said


def test_padded_norm_stats(folder: Path) -> None:
    for padding in (0.0, 1.0):
        padded = {"mean": [0.1, 0.2] + [0.0] * 30, "std": [1.0, 1.0] + [padding] * 30, "q01": None, "q99": None}
        edit_stats(folder, "actions", **padded)
        said = refusal(folder, NormStatsError)
        assert "actions has 32 numbers, the robot has 2 fields" in said
        assert "the last 30 are padding: leave them out" in said


@pytest.mark.parametrize("mode", ["zscore", "quantiles"])
@pytest.mark.parametrize("name", ["state", "actions"])
@pytest.mark.parametrize(
    ("field", "value", "used_by"),
    [("std", [1.0, 0.0], "zscore"), ("std", [1.0, 1e-9], "zscore"), ("q99", [2.0, -2.0], "quantiles")],
)
def test_a_joint_without_spread(
    folder: Path, mode: str, name: str, field: str, value: list[float], used_by: str
) -> None:
    edit_yaml(folder, "normalisation", mode)
    edit_stats(folder, name, **{field: value})
    what = {"std": "std is 0", "q99": "q01 and q99 are equal"}[field]
    if mode == used_by:
        said = refusal(folder, NormStatsError)
        assert "take the statistics from data in which it moves" in said
    else:
        (said,) = load_policy(folder, "cpu").remarks
        assert f"`normalisation: {mode}` does not use" in said
    assert "norm_stats.json" in said
    assert f"{name}: {what}" in said
    assert "for field 'elbow'" in said
    assert "shoulder" not in said


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"std": [1.0, None]}, "state.std: finite numbers are needed, got None for field 'elbow'"),
        ({"mean": [float("nan"), 0.0]}, "state.mean: finite numbers are needed, got nan for field 'shoulder'"),
        ({"std": None}, "state.std"),
        ({"mean": [[0.0, 0.0]] * 5}, "one number per dimension, got 5 x 2 (a step each?)"),
        ({"q01": None, "q99": None}, "state has no q01 and q99, which `normalisation: quantiles` needs"),
    ],
)
def test_norm_stats_that_are_no_numbers(folder: Path, fields: dict[str, Any], named: str) -> None:
    edit_yaml(folder, "normalisation", "quantiles")
    edit_stats(folder, "state", **fields)
    assert named in refusal(folder, NormStatsError)


def test_features_that_would_be_divided_by_zero(folder: Path) -> None:
    edit_weights(folder, "features.safetensors", lambda tensors: tensors["scale"][1:2].zero_())
    assert "`scale` whitens the features and must be above 0" in refusal(folder, WeightsError)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("limits", {}, "limits must have exactly ['joint_strays', "),
        ("limits", {"already_aligned": {"value": float("nan"), "robots": 1}}, "finite"),
        ("limits", {"already_aligned": {"value": "high", "robots": 1}}, "limits.already_aligned.value"),
        ("surprise", 1, "surprise"),
        ("format", 2, "format"),
    ],
)
def test_wrong_alignment_statistics(folder: Path, key: str, value: Any, named: str) -> None:
    raw = json.loads((folder / "alignment_stats.json").read_text())
    (folder / "alignment_stats.json").write_text(json.dumps(raw | {key: value}))
    assert named in refusal(folder, AlignmentStatsError)


def test_a_device_that_is_not_there(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tpu", "cuda:", "cuda:x", "CUDA", "cuda:1:2"):
        with pytest.raises(PolicyError, match=f"device must be auto, cpu, cuda, or cuda:1 .* got '{name}'"):
            load_policy(whole, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(PolicyError, match="torch sees no GPU"):
            load_policy(whole, name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(PolicyError, match="torch sees 2 GPUs, the last one is cuda:1"):
        find_device("cuda:2")
    assert find_device("cuda:1") == torch.device("cuda", 1)
