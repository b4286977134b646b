"""What is given instead of a model is named as what it is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from vla_align_ros.cli.doctor_model import check_model
from vla_align_ros.foreign import what_is_file
from vla_align_ros.policy import load_policy
from vla_align_ros.policy.config import ModelConfigError
from vla_align_ros.policy.weights import WeightsError, read_tensors
from vla_align_ros.zoo import find_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 6500000000\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"
WEIGHTS = save({"w": np.zeros(1000, np.float32)})
LEROBOT = {"input_features": {}, "output_features": {}, "normalization_mapping": {}}

FOLDERS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "the folder is empty"),
    "weights alone": ({"model.safetensors": WEIGHTS}, "no model.yaml is here"),
    "smolvla": ({"config.json": {"type": "smolvla", **LEROBOT}, "model.safetensors": WEIGHTS}, "type smolvla (SmolVLA"),
    "lerobot pi0": (
        {"config.json": {"type": "pi0", **LEROBOT}},
        "this is lerobot's PI0, but weights of one are not in",
    ),
    "lerobot pi05": ({"config.json": {"type": "pi05", **LEROBOT}}, "this is lerobot's PI0.5, but weights"),
    "lerobot groot": ({"config.json": {"type": "groot", **LEROBOT}}, "type groot (GR00T, another network)"),
    "lerobot, new": ({"config.json": {"type": "xvla", **LEROBOT}}, "a lerobot policy of type xvla"),
    "lerobot run": (
        {"checkpoints/000100/pretrained_model/config.json": {"type": "act", **LEROBOT}},
        "a lerobot training run, whose policy is in",
    ),
    "gr00t": ({"config.json": {"model_type": "gr00t_n1_5", "architectures": ["GR00T_N1_5"]}}, "a GR00T model"),
    "gr00t, folders": ({"experiment_cfg/metadata.json": {}, "a.safetensors": WEIGHTS}, "a GR00T checkpoint"),
    "transformers": ({"config.json": {"architectures": ["LlamaForCausalLM"]}}, "a LlamaForCausalLM model"),
    "adapter": ({"adapter_config.json": {"base_model_name_or_path": "lerobot/pi0"}}, "merge it into lerobot/pi0"),
    "openpi": (
        {"config.json": {"paligemma_variant": "gemma_2b"}, "model.safetensors": WEIGHTS},
        "this is openpi's, but weights",
    ),
    "openpi jax": ({"params/_METADATA": b"{}", "assets/x/norm_stats.json": {}}, "openpi's JAX checkpoint"),
    "pickles": ({"pytorch_model.bin": b"\x80\x02}q."}, "pytorch_model.bin: this is a pickle"),
    "zipped pickle": ({"model.pt": b"PK\x03\x04archive/data.pkl"}, "model.pt: this is a pickle"),
    "shards": ({"model.safetensors.index.json": {"weight_map": {}}}, "no model.yaml is here"),
    "lfs": ({"model.safetensors": POINTER, "README.md": b"x"}, "Git LFS pointer, not the file of 6500.0 MB"),
    "page": ({"model.safetensors": PAGE}, "a web page under the file's name"),
    "half": ({"model.safetensors": WEIGHTS[:40]}, "only a part of it is there (40 bytes)"),
    "unfinished": ({"model.safetensors.incomplete": b"x"}, "is an unfinished download"),
    "cache": ({"snapshots/abc/config.json": {}, "refs/main": b"abc"}, "a Hugging Face cache"),
    "one up": ({"tiny/model.yaml": b"format: 1"}, "one folder further down"),
    "dataset": ({"meta/info.json": {}}, "a LeRobotDataset"),
    "bag": ({"metadata.yaml": b"", "a_0.mcap": b"\x89MCAP0"}, "a recording (a bag)"),
    "store": ({"versions/000001/manifest.json": {}}, "a token store"),
    "onnx": ({"policy.onnx": b"\x08\x08"}, "a model for another program"),
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_model_is_named_as_what_it_is(kind: str, tmp_path: Path) -> None:
    files, named = FOLDERS[kind]
    folder = write(tmp_path / "given", files)
    with pytest.raises(ModelConfigError) as caught:
        load_policy(folder, "cpu")
    said = str(caught.value)
    assert said.startswith(f"{folder}: ")
    assert named in said
    assert "expected a folder with model.yaml" in said
    assert len(said) < 600
    (check,) = check_model(str(folder))
    assert (check.status, named in check.found) == ("fail", True)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (POINTER, "Git LFS pointer"),
        (PAGE, "a web page"),
        (b"", "the file is empty"),
        (bytes(2000), "begins with zeros"),
        (pickle.dumps({"w": 1}), "this is a pickle"),
        (b"PK\x03\x04" + bytes(50), "this is a pickle"),
        (b"Entry not found", "this is a text (Entry not found)"),
        (WEIGHTS[:-1], ""),  # the header is whole: safetensors itself says what is missing
        (WEIGHTS[:20], "only a part of it is there (20 bytes)"),
    ],
)
def test_weights_that_are_none_are_named(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert named in what_is_file(path)
    with pytest.raises(WeightsError, match="not a whole safetensors file") as caught:
        read_tensors(path)
    assert named in str(caught.value)


def test_nothing_is_known_against_a_file_that_is_whole_or_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    assert what_is_file(path) == ""
    path.write_bytes(WEIGHTS)
    assert what_is_file(path) == ""


@pytest.mark.parametrize(("content", "named"), [(POINTER, "Git LFS"), (b"\x80\x04K.", "a pickle"), (WEIGHTS, "give")])
def test_a_file_given_as_a_model_is_named(content: bytes, named: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelConfigError, match="is a file, not a model folder") as caught:
        find_model(str(path))
    assert named in str(caught.value)
    with pytest.raises(ModelConfigError, match=named):
        load_policy(path, "cpu")
