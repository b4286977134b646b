"""Weights are read under other projects' names, from shards, tensor by tensor; every tensor is accounted for."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from builders import GOLDEN, save_tensors
from foreign_folders import HEAD, lerobots_tensors, openpis_tensors
from safetensors.torch import load_file
from torch import Tensor

from vla_align_ros.policy.foreign_names import is_foreign, to_openpis_name, to_our_names, variant_of
from vla_align_ros.policy.load import make_network, to_bfloat16
from vla_align_ros.policy.weights import WeightsError, open_tensors, sha256_of, sha256_of_weights

CPU = torch.device("cpu")


def newer(variant: str) -> dict[str, Tensor]:
    """Under the names that transformers 5.20 and later give SigLIP."""
    return {name.replace(".vision_model.", "."): tensor for name, tensor in lerobots_tensors(variant).items()}


def load(path: Path, variant: str = "pi0") -> dict[str, Tensor]:
    return make_network(golden.architecture_of(GOLDEN / variant), path, CPU, "float32").state_dict()


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("named", [openpis_tensors, lerobots_tensors, newer])
def test_the_same_weights_under_other_names(variant: str, named: Any, tmp_path: Path) -> None:
    tensors = named(variant)
    save_tensors(tensors, tmp_path / "model.safetensors")
    found = load(tmp_path / "model.safetensors", variant)
    expected = golden.load(GOLDEN / variant).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (variant_of(tensors), is_foreign(tensors)) == (variant, True)
    assert (variant_of(["a.weight"]), is_foreign(found)) == (None, False)
    assert {to_openpis_name(name) for name in found} == openpis_tensors(variant).keys() - {HEAD.replace("pali", "")} - {
        "paligemma_with_expert.gemma_expert.lm_head.weight"
    }


def test_every_tensor_is_accounted_for() -> None:
    names = [
        *lerobots_tensors("pi0"),
        "model.proprio_history_proj.weight",
        "model.action_in_proj.bias",
        "action_in_proj.bias",
    ]
    found = to_our_names(names)
    dead = {f"model.{HEAD}", "model.paligemma_with_expert.gemma_expert.lm_head.weight"}
    assert set(found.values()) == set(names) - dead
    assert {"proprio_history_proj.weight", "action_in_proj.bias", "model.action_in_proj.bias"} <= found.keys()


def test_what_does_not_fit_is_listed_by_the_files_own_names(tmp_path: Path) -> None:
    tensors, root = lerobots_tensors("pi0"), "model.paligemma_with_expert.gemma_expert.model.layers"
    del tensors[f"{root}.1.mlp.up_proj.weight"]
    tensors[f"{root}.2.self_attn.k_proj.weight"] = torch.ones(3, 3)
    tensors["model.proprio_history_proj.weight"] = torch.ones(2)
    save_tensors(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        load(tmp_path / "model.safetensors")
    assert str(caught.value).endswith(
        "the weights do not fit the model; "
        "missing: paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight; "
        f"unexpected: model.proprio_history_proj.weight; wrong shape: {root}.2.self_attn.k_proj.weight is [3, 3], "
        "expected [16, 32]"
    )


@pytest.mark.parametrize("stored", [torch.float64, torch.float16, torch.bfloat16])
def test_every_kind_of_number_becomes_the_wanted_one(stored: torch.dtype, tmp_path: Path) -> None:
    tensors = {name: tensor.to(stored) for name, tensor in openpis_tensors("pi0").items()}
    save_tensors(tensors, tmp_path / "model.safetensors")
    found = load(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert torch.equal(found["embed_tokens.weight"], tensors[HEAD].float())


def test_bfloat16_is_assigned_as_it_would_be_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla_align_ros.policy.load.BFLOAT16_CPU_MIN_WIDTH", 1)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    cast = golden.load(GOLDEN / "pi05")
    to_bfloat16(cast)
    found, expected = golden.load(GOLDEN / "pi05", "bfloat16").state_dict(), cast.state_dict()
    assert {name: tensor.dtype for name, tensor in found.items()} == {n: t.dtype for n, t in expected.items()}
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_have_memory_of_their_own(tmp_path: Path) -> None:
    """So that a file that is cut off under a running robot is no bus error, and memory is not taken twice."""
    save_tensors(openpis_tensors("pi0"), tmp_path / "model.safetensors")
    found = load(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert all(bool(tensor.isfinite().all()) for tensor in found.values())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


# --- shards ---


def write_shards(folder: Path, **changes: Any) -> Path:
    """Three files and their index; `changes` go to its weight_map."""
    tensors = openpis_tensors("pi0")
    names = sorted(tensors)
    where = {name: f"model-{index % 3 + 1:05}-of-00003.safetensors" for index, name in enumerate(names)}
    for file in set(where.values()):
        save_tensors({name: tensors[name] for name in names if where[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where | changes}))
    return folder / "model.safetensors"


def test_shards_are_one_model(tmp_path: Path) -> None:
    path = write_shards(tmp_path)
    found, expected = load(path), golden.load(GOLDEN / "pi0").state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    before = sha256_of_weights(path)
    save_tensors(
        load_file(tmp_path / "model-00002-of-00003.safetensors"), tmp_path / "model-00002-of-00003.safetensors"
    )
    assert sha256_of_weights(path) == before
    shard = load_file(tmp_path / "model-00002-of-00003.safetensors")
    save_tensors({name: tensor + 1 for name, tensor in shard.items()}, tmp_path / "model-00002-of-00003.safetensors")
    assert sha256_of_weights(path) != before
    one = GOLDEN / "pi0" / "model.safetensors"
    assert sha256_of_weights(one) == sha256_of(one), "one file has the hash that sha256sum prints"


def test_shards_that_are_not_all_there_or_not_these(tmp_path: Path) -> None:
    path = write_shards(tmp_path, **{HEAD: "model-00009-of-00003.safetensors"})
    with pytest.raises(WeightsError, match="1 of 4 files that it names are not there: model-00009-of-00003"):
        open_tensors(path)
    path = write_shards(tmp_path, surprise="model-00001-of-00003.safetensors")
    with pytest.raises(WeightsError, match="the files are not the ones of this index: surprise"):
        open_tensors(path)
    for name in ("../model-00001-of-00003.safetensors", "/etc/passwd", "", 3):
        with pytest.raises(WeightsError, match="must name a file in this folder for every tensor"):
            open_tensors(write_shards(tmp_path, **{HEAD: name}))
    for content in (b"", b"[]", b"{}", b'{"weight_map": {}}', b'{"weight_map": 3}', b"[" * 100_000):
        (tmp_path / "model.safetensors.index.json").write_bytes(content)
        with pytest.raises(WeightsError, match=r"index\.json"):
            open_tensors(path)


# --- files that were cut off or made up ---


def forged(header: dict[str, Any], numbers: int = 64) -> bytes:
    said = json.dumps(header).encode()
    return struct.pack("<Q", len(said)) + said + bytes(numbers)


def entry(begin: int, end: int, dtype: str = "F32", shape: tuple[int, ...] = (8,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        (GOLDEN / "pi0" / "model.safetensors").read_bytes()[:-1],
        (GOLDEN / "pi0" / "model.safetensors").read_bytes()[:5000],
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**9) + b"{}",
        forged({"a": entry(0, 32), "b": entry(16, 48)}),
        forged({"a": entry(0, 32)}),
        forged({"a": entry(0, 2**40)}),
        forged({"a": entry(32, 0)}),
        forged({"a": entry(0, 64, shape=(2**40, 2**40))}),
        forged({"a": entry(0, 64, "COMPLEX")}),
        forged({"a": {"dtype": "F32"}}),
        forged({"a": entry(0, 64, shape=(-16,))}),
    ],
)
def test_a_forged_or_truncated_file_is_refused_by_its_header(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load(path)
