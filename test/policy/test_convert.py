"""Folders of openpi and lerobot become zoo folders that act the same; a failure leaves nothing behind."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import save_tensors
from foreign_folders import DATA, MAKERS, SO101, lerobots_tensors, openpis, robot_arguments
from safetensors.torch import load_file
from test_weights import write_shards
from typer.testing import CliRunner, Result

from vla_align_ros.cli.main import app
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.config import ModelConfigError, load_model_config, to_yaml
from vla_align_ros.policy.convert import convert
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.weights import WeightsError, sha256_of
from vla_align_ros.types import Observation
from vla_align_ros.zoo import find_model

shell = CliRunner()


def chunk(policy: Policy) -> np.ndarray:
    robot, noise = policy.config.robot, np.random.default_rng(0)
    images = {name: noise.integers(0, 256, (60, 80, 3), np.uint8) for name in robot.cameras}
    seen = Observation(images, np.zeros(len(robot.state), np.float32), "pick up the block", 0)
    return policy.infer(seen, torch.Generator().manual_seed(0), 3).actions


def run(source: str, folder: Path, target: Path, *more: str) -> Result:
    return shell.invoke(app, ["convert", str(folder), str(target), *robot_arguments(source, folder.parent), *more])


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("source", MAKERS)
def test_a_converted_folder_acts_as_its_source(source: str, variant: str, tmp_path: Path) -> None:
    folder, settings = MAKERS[source](tmp_path / "source", variant)
    before = load_policy(folder, "cpu", settings=settings)
    convert(folder, tmp_path / "zoo" / "mine", settings)
    after = load_policy(tmp_path / "zoo" / "mine", "cpu")
    assert np.array_equal(chunk(before), chunk(after))
    assert replace(before.config, name="mine", weights=after.config.weights) == after.config
    assert after.weights_sha256 == before.weights_sha256 == sha256_of(folder / "model.safetensors")
    assert [path.name for path in (tmp_path / "zoo").iterdir()] == ["mine"]
    assert "no E-Token" in after.align_problem


@pytest.mark.parametrize("source", MAKERS)
def test_the_shell_converts_and_says_how_to_go_on(source: str, tmp_path: Path) -> None:
    folder, _ = MAKERS[source](tmp_path / "source", "pi05")
    result = run(source, folder, tmp_path / "mine")
    assert result.exit_code == 0, result.output
    assert f"model:={tmp_path / 'mine'}" in result.stdout
    assert load_model_config(tmp_path / "mine").weights.licence.endswith("Gemma Terms of Use")
    for given, target, said in (
        (folder, "mine", "is there already"),
        (tmp_path / "mine", "other", "is a zoo folder already"),
        (folder, "no name", "is no name for a model"),
    ):
        refused = run(source, given, tmp_path / target)
        assert (refused.exit_code, said in refused.stderr) == (2, True), refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["mine", "source"]


def test_shards_stay_shards(tmp_path: Path) -> None:
    folder, settings = openpis(tmp_path / "source")
    whole = chunk(load_policy(folder, "cpu", settings=settings))
    (folder / "model.safetensors").unlink()
    write_shards(folder)
    convert(folder, tmp_path / "mine", settings)
    assert np.array_equal(chunk(load_policy(tmp_path / "mine", "cpu")), whole)


@pytest.mark.parametrize("limit", [1_000, 100_000])
def test_a_full_disk_leaves_nothing_behind(limit: int, tmp_path: Path) -> None:
    folder, _ = openpis(tmp_path / "source")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # the kernel refuses what is written beyond it
    try:
        result = run("openpi", folder, tmp_path / "zoo" / "mine")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result.exit_code == 2
    assert "cannot convert: [Errno 27] File too large" in result.stderr
    assert list((tmp_path / "zoo").iterdir()) == []


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".mine.new").mkdir()
    (tmp_path / ".mine.new" / "model.safetensors").write_bytes(b"half")
    folder, settings = openpis(tmp_path / "source")
    convert(folder, tmp_path / "mine", settings)
    assert not (tmp_path / ".mine.new").exists()
    load_policy(tmp_path / "mine", "cpu")


def test_a_folder_that_another_process_writes_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, settings = openpis(tmp_path / "source")
    copyfile, refused = shutil.copyfile, []

    def meanwhile(source: Path, target: Path) -> Path:
        with pytest.raises(ModelConfigError, match="mine: another process writes it now") as caught:
            convert(folder, tmp_path / "mine", settings)
        refused.append(caught.value)
        return copyfile(source, target)

    monkeypatch.setattr("vla_align_ros.policy.convert.shutil.copyfile", meanwhile)
    convert(folder, tmp_path / "mine", settings)
    assert len(refused) == 2, "the weights and the tokenizer were copied meanwhile"
    load_policy(tmp_path / "mine", "cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "source"]


def test_weights_that_changed_since_they_were_converted(tmp_path: Path) -> None:
    folder, settings = openpis(tmp_path / "source")
    convert(folder, tmp_path / "mine", settings)
    path = tmp_path / "mine" / "model.safetensors"
    save_tensors({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(WeightsError, match="not the weights that were described"):
        load_policy(tmp_path / "mine", "cpu")


@pytest.mark.parametrize("source", MAKERS)
def test_a_folder_without_a_robot_says_how_to_give_one(source: str, tmp_path: Path) -> None:
    folder, _ = MAKERS[source](tmp_path / "source", "pi05")
    with pytest.raises(ModelConfigError, match="a pi05 of openpi or lerobot, which does not say what robot"):
        load_policy(folder, "cpu")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def forge(path: Path) -> None:
    """A header that promises more numbers than the file has."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name = next(name for name in header if name.endswith("action_in_proj.bias"))
    header[name]["shape"] = [2**40]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def point(path: Path) -> None:
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7000000000\n")


def pickle(path: Path) -> None:
    path.unlink()
    (path.parent / "pytorch_model.bin").write_bytes(b"\x80\x02}q.")


def leave_out(path: Path) -> None:
    tensors = load_file(path)
    del tensors[next(name for name in sorted(tensors) if name.endswith("layers.1.mlp.up_proj.weight"))]
    save_tensors(tensors, path)


def not_a_number(path: Path) -> None:
    tensors = load_file(path)
    next(tensor for name, tensor in tensors.items() if name.endswith("action_in_proj.bias"))[0] = float("nan")
    save_tensors(tensors, path)


DAMAGES = {
    "truncated": (truncate, "only a part of it is there"),
    "forged": (forge, "not a whole safetensors file"),
    "lfs": (point, "a Git LFS pointer"),
    "pickle": (pickle, "pytorch_model.bin: this is a pickle"),
    "other tensors": (lambda path: save_tensors({"w": torch.ones(2)}, path), "expected a folder with model.yaml"),
    "missing tensor": (leave_out, "missing: paligemma_with_expert"),
    "NaN": (not_a_number, "not finite"),
}


@pytest.mark.parametrize("source", MAKERS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_a_sentence(source: str, damage: str, tmp_path: Path) -> None:
    folder, _ = MAKERS[source](tmp_path / "source", "pi0")
    spoil, said = DAMAGES[damage]
    spoil(folder / "model.safetensors")
    result = run(source, folder, tmp_path / "mine")
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert str(folder) in result.stderr
    assert not (tmp_path / "mine").exists()


def test_weights_of_the_other_variant_are_said(tmp_path: Path) -> None:
    folder, settings = MAKERS["lerobot"](tmp_path / "source", "pi0")
    save_tensors(lerobots_tensors("pi05"), folder / "model.safetensors")
    with pytest.raises(ModelConfigError, match=r"type is pi0, the weights are a pi05's"):
        load_policy(folder, "cpu", settings=settings)


@pytest.mark.parametrize("name", ["tiny", "pi0", "pi05"])
def test_every_description_of_the_zoo_can_be_written_again(name: str, tmp_path: Path) -> None:
    config = load_model_config(find_model(name))
    (tmp_path / "model.yaml").write_text(to_yaml(config))
    assert load_model_config(tmp_path) == config


@pytest.mark.parametrize("name", ["pi0", "pi05"])
def test_the_full_size_models_are_described_without_weights(name: str) -> None:
    folder = find_model(name)
    with pytest.raises(WeightsError, match=rf"models/{name}/model.safetensors: no such file.*gs://openpi-assets"):
        load_policy(folder, "cpu")
    architecture = load_model_config(folder).architecture
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Pi0(architecture).state_dict().items()}
    gigabytes = sum(shape.numel() for shape in shapes.values()) * 4e-9
    assert 12.5 < gigabytes < 14.6, "3.3 thousand million numbers"
    assert shapes["vlm.layers.17.down_proj.weight"] == (2048, 16384)
    assert ("time_mlp_in.weight" in shapes) == (name == "pi05")


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "or a pi0 or pi05 of openpi or lerobot"), ("model.yaml", "the folder that it is in")],
)
def test_a_source_that_is_no_folder_is_said(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("format: 1")
    arguments = ["convert", str(tmp_path / source), str(tmp_path / "new"), "--robot", str(SO101)]
    result = shell.invoke(app, arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_chunk_shorter_than_what_the_robot_executes_is_said_in_one_sentence(tmp_path: Path) -> None:
    folder, _ = openpis(tmp_path / "theirs")
    arguments = ["convert", str(folder), str(tmp_path / "new"), "--robot", str(DATA / "robot.yaml")]
    result = shell.invoke(app, [*arguments, "--action-horizon", "3"])
    assert result.exit_code == 2
    assert result.stderr == f"cannot convert: {folder}: robot.execute must be 1..3 (the action horizon)\n"
