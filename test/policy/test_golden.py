"""The network gives openpi's numbers (test/data/golden/README.md says what each tensor is)."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden
import pytest
import torch
from builders import GOLDEN
from torch import Tensor

from vla_align_ros.policy import flow
from vla_align_ros.policy.foreign_names import to_our_names
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.losses import masked_mse
from vla_align_ros.policy.pi0 import Pi0

VARIANTS = ("pi0", "pi05")
Perturb = Callable[[Pi0, dict[str, Tensor]], None]


@pytest.fixture(scope="module", params=VARIANTS)
def folder(request: pytest.FixtureRequest) -> Path:
    return GOLDEN / request.param


@pytest.fixture(scope="module")
def io(folder: Path) -> dict[str, Tensor]:
    return golden.read_io(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Pi0:
    return golden.load(folder)


def test_every_tensor_is_openpis(folder: Path, io: dict[str, Tensor]) -> None:
    found = golden.compare(folder)
    assert found.keys() == {name for name in io if name.startswith("out.")}
    beyond = {name: value for name, value in found.items() if not value <= golden.tolerance(name.removeprefix("out."))}
    assert not beyond


def test_the_tolerances_are_the_readmes() -> None:
    assert (
        golden.tolerance("v_t") == golden.tolerance("prefix_kv.1.key") == golden.tolerance("sample_traj.10.v") == 2e-5
    )
    assert golden.tolerance("loss_per_element") == 5e-5
    assert golden.tolerance("time_emb") == 1e-6
    exact = ("suffix_att_masks", "prefix_pad_masks", "prefix_position_ids", "x_t", "u_t", "sample_traj.3.time")
    assert [golden.tolerance(name) for name in exact] == [0] * len(exact)


def test_only_rows_that_are_defined_are_compared(io: dict[str, Tensor]) -> None:
    pads = io["out.prefix_pad_masks"]
    for name in ("prefix_last_hidden", "joint.prefix_resid.3", "prefix_kv.2.key"):
        changed = io[f"out.{name}"].clone()
        padding = (~pads).nonzero()[0].tolist()
        valid = pads.nonzero()[0].tolist()
        for (row, token), expected in ((padding, 0.0), (valid, 1.0)):
            changed[row, ..., token, :] += 1.0
            assert golden.difference(name, changed, io[f"out.{name}"], pads) == pytest.approx(expected)
    everywhere = io["out.prefix_embs"].clone()
    everywhere[~pads] += 1.0
    assert golden.difference("prefix_embs", everywhere, io["out.prefix_embs"], pads) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["rms_eps", "gelu", "clock", "time_embedding", "mask"])
def test_a_real_mistake_is_seen(folder: Path, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mistake == "rms_eps":
        monkeypatch.setattr("vla_align_ros.policy.experts.RMS_EPS", 1e-5)
    elif mistake == "gelu":
        monkeypatch.setattr(
            "vla_align_ros.policy.experts.GemmaLayer.mlp",
            lambda self, x: self.down_proj(torch.nn.functional.gelu(self.gate_proj(x)) * self.up_proj(x)),
        )
    elif mistake == "clock":
        monkeypatch.setattr(flow, "euler_times", lambda n, *_: [1 - j / n for j in range(n)])
    elif mistake == "time_embedding":
        monkeypatch.setattr(golden, "time_embedding", _float32_time_embedding)
        monkeypatch.setattr("vla_align_ros.policy.flow.time_embedding", _float32_time_embedding)
    else:
        monkeypatch.setattr("vla_align_ros.policy.attention.ATTENTION_MASK_VALUE", -10.0)
    found = golden.compare(folder)
    assert any(not value <= golden.tolerance(name.removeprefix("out.")) for name, value in found.items())


def _float32_time_embedding(time: Tensor, width: int) -> Tensor:
    period = 4e-3 * 1000.0 ** torch.linspace(0.0, 1.0, width // 2)
    angle = time[:, None] * (1.0 / period * 2 * torch.pi)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def test_the_models_loss_is_the_mean_of_openpis(model: Pi0, io: dict[str, Tensor]) -> None:
    inputs = golden.policy_input(io, model.architecture.cameras)
    every = torch.ones(model.architecture.action_dim, dtype=torch.bool)
    loss = model.action_loss(
        model.prefix_cache(inputs), inputs.state, io["in.actions"], io["in.noise"], io["in.time"], every, None
    )
    torch.testing.assert_close(loss, io["out.loss_per_element"].mean((1, 2)), atol=5e-5, rtol=0)
    first = masked_mse(io["out.v_t"], io["out.u_t"], torch.arange(8) < 3)
    torch.testing.assert_close(first, io["out.loss_per_element"][..., :3].mean((1, 2)), atol=5e-5, rtol=0)


def test_the_json_has_every_tensor_of_every_folder(tmp_path: Path) -> None:
    folders = [GOLDEN / name for name in VARIANTS]
    golden.main(folders, tmp_path / "golden.json")
    written = json.loads((tmp_path / "golden.json").read_text())
    assert written == {str(folder): golden.compare(folder) for folder in folders}


# --- sensitivity.json ---


def velocity(model: Pi0, io: dict[str, Tensor]) -> Tensor:
    """v_t at (x_t, time) through the cache; x_t from `x_t` if it is there, else from noise, actions and time."""
    inputs = golden.policy_input(io, model.architecture.cameras)
    x_t = io.get("x_t", flow.interpolate(io["in.actions"], io["in.noise"], io["in.time"]))
    with torch.no_grad():
        return model.denoise(model.prefix_cache(inputs), inputs.state, x_t, io["in.time"], None)


def changes(model: Pi0, io: dict[str, Tensor], perturb: Perturb) -> list[float]:
    """Largest change of v_t in each row."""
    other_model, other = copy.deepcopy(model), {name: tensor.clone() for name, tensor in io.items()}
    with torch.no_grad():
        perturb(other_model, other)
    return (velocity(other_model, other) - velocity(model, io)).abs().amax((1, 2)).tolist()


def add(name: str, value: float) -> Perturb:
    def perturb(model: Pi0, io: dict[str, Tensor]) -> None:
        io[name] += value

    return perturb


def _keep_x_t(model: Pi0, io: dict[str, Tensor]) -> None:
    io["x_t"] = flow.interpolate(io["in.actions"], io["in.noise"], io["in.time"])
    io["in.time"] *= 0.99


def _swap_cameras(model: Pi0, io: dict[str, Tensor]) -> None:
    first, second, *_ = model.architecture.cameras
    for kind in ("images", "image_masks"):
        a, b = f"in.{kind}.{first}", f"in.{kind}.{second}"
        io[a], io[b] = io[b], io[a]


def _drop_camera(model: Pi0, io: dict[str, Tensor]) -> None:
    io["in.image_masks.base_0_rgb"][0] = False


def _swap_tokens(model: Pi0, io: dict[str, Tensor]) -> None:
    io["in.tokenized_prompt"][:, [0, 3]] = io["in.tokenized_prompt"][:, [3, 0]]


REPRODUCIBLE: dict[str, Perturb] = {
    "state + 0.1": add("in.state", 0.1),
    "noise + 0.1": add("in.noise", 0.1),
    "time * 0.99 (x_t kept)": _keep_x_t,
    "camera order: first two swapped (with masks)": _swap_cameras,
    "image mask[base_0_rgb] row 0 True->False": _drop_camera,
    "prompt tokens 0 and 3 swapped (rope)": _swap_tokens,
}


def _reproducible(entry: str) -> Perturb | None:
    if entry in REPRODUCIBLE:
        return REPRODUCIBLE[entry]
    third = re.fullmatch(
        r"(weight final norm|layer0 input_layernorm)\.dense\.bias, (scale|shift|gate) third \+0\.1", entry
    )
    if third is None:
        return None

    def perturb(model: Pi0, io: dict[str, Tensor]) -> None:
        expert = model.action_expert
        norm: Any = expert.norm if "final" in third[1] else expert.layers[0].input_layernorm
        norm.dense.bias.chunk(3)[("scale", "shift", "gate").index(third[2])].add_(0.1)

    return perturb


def _own_draw(entry: str) -> Perturb:
    """The perturbations whose random draws are not stored, with draws of our own."""
    generator = torch.Generator().manual_seed(1)
    image = re.fullmatch(r"image\[(\w+)\] in (present|masked-out) rows \[([\d, ]+)\]", entry)
    weight = re.fullmatch(r"weight (\S+) \+N\(0,0\.02\)", entry)

    def perturb(model: Pi0, io: dict[str, Tensor]) -> None:
        if image:
            pixels = io[f"in.images.{image[1]}"]
            rows = [int(row) for row in image[3].split(", ")]
            pixels[rows] = torch.rand(pixels[rows].shape, generator=generator) * 2 - 1
        elif entry == "prompt token 2 (valid in all rows)":
            io["in.tokenized_prompt"][:, 2] = (io["in.tokenized_prompt"][:, 2] + 17) % model.architecture.vocab_size
        elif entry == "prompt tokens at padding":
            padding = ~io["in.tokenized_prompt_mask"]
            ids = torch.randint(0, model.architecture.vocab_size, (int(padding.sum()),), generator=generator)
            io["in.tokenized_prompt"][padding] = ids
        elif weight:
            _shake(model, weight[1], generator)
        else:
            raise AssertionError(f"no perturbation for the entry {entry!r}")

    return perturb


def _shake(model: Pi0, openpi_name: str, generator: torch.Generator) -> None:
    tied = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    stored = "paligemma_with_expert.paligemma.lm_head.weight" if openpi_name == tied else openpi_name
    ours = to_our_names([stored])
    if openpi_name.endswith("gemma_expert.lm_head.weight"):
        assert not ours, "this weight is dead: it must not be loaded at all"
        return
    (name,) = ours
    parameter = model.get_parameter(name)
    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.slow
def test_v_t_reacts_as_openpis(folder: Path, model: Pi0, io: dict[str, Tensor]) -> None:
    entries = json.loads((folder / "sensitivity.json").read_text())
    matched = 0
    for entry, expected in entries.items():
        exact = _reproducible(entry)
        found = changes(model, io, exact or _own_draw(entry))
        if exact is not None:
            assert found == pytest.approx(expected["per_row"], abs=1e-4), entry
            matched += 1
        for row, (ours, openpis) in enumerate(zip(found, expected["per_row"], strict=True)):
            if openpis == 0:
                assert ours == 0, f"{entry}: row {row} must not change, changed by {ours}"
            else:
                assert ours > 1e-3, f"{entry}: row {row} must change, changed by {ours}"
    assert len(entries) == (47 if folder.name == "pi0" else 54)
    assert matched == (6 if folder.name == "pi0" else 10)


def test_missing_cameras_and_padding_may_be_dropped_altogether(model: Pi0, io: dict[str, Tensor]) -> None:
    inputs = golden.policy_input(io, model.architecture.cameras)
    whole = model.sample_actions(inputs, io["in.noise"], 3)
    for row in range(len(whole)):
        present = [index for index, mask in enumerate(inputs.image_masks) if mask[row]]
        length = int(inputs.token_masks[row].sum())
        alone = PolicyInput(
            tuple(inputs.images[index][row : row + 1] for index in present),
            tuple(inputs.image_masks[index][row : row + 1] for index in present),
            inputs.tokens[row : row + 1, :length],
            inputs.token_masks[row : row + 1, :length],
            inputs.state[row : row + 1],
        )
        torch.testing.assert_close(
            model.sample_actions(alone, io["in.noise"][row : row + 1], 3), whole[row : row + 1], atol=2e-5, rtol=0
        )
