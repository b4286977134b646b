"""The fast path gives the numbers of `Pi0.sample_actions`, whatever the model, the cameras, the prompt and token."""

from __future__ import annotations

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from builders import GOLDEN, make_inputs, make_losses, make_model, make_observation, write_model
from torch import Tensor

from vla_align_ros.policy import PolicyError, load_policy
from vla_align_ros.policy.fast import MAX_PLANS, FastSampler
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.load import to_bfloat16
from vla_align_ros.policy.pi0 import Pi0

RELATIVE = 1e-5  # of the largest number, in float32


def given(model: Pi0, row: int, seed: int = 0) -> tuple[PolicyInput, Tensor]:
    """Row 0 has all cameras and a full prompt, row 1 neither."""
    a = model.architecture
    noise = torch.randn(1, a.action_horizon, a.action_dim, generator=torch.Generator().manual_seed(seed))
    return make_inputs(a, seed=seed)[row : row + 1], noise


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=RELATIVE * float(expected.abs().max()))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_it_is_openpis_and_the_readable_models(variant: str, padded: bool) -> None:
    model = golden.load(GOLDEN / variant)
    io = golden.read_io(GOLDEN / variant)
    inputs, noise = golden.policy_input(io, model.architecture.cameras), io["in.noise"]
    sampler = FastSampler(model, padded)
    for num_steps in (int(name.rsplit(".", 1)[1]) for name in io if name.startswith("out.sample_actions.")):
        found = torch.cat([sampler(inputs[i : i + 1], noise[i : i + 1], num_steps) for i in range(len(noise))])
        torch.testing.assert_close(found, io[f"out.sample_actions.{num_steps}"], atol=2e-5, rtol=0)
        assert_equal(found, model.sample_actions(inputs, noise, num_steps))


MODELS: dict[str, dict[str, Any]] = {
    "E with the bias of training": {},
    "E without bias": {"e_token_attention_bias": 0.0},
    "no E": {"use_peft_prefix_token": False},
    "keys for each head": {f"{name}__num_kv_heads": 2 for name in ("vlm", "action_expert", "alignment__expert")},
    "keys for two heads of four": {
        f"{name}__{key}": value
        for name in ("vlm", "action_expert", "alignment__expert")
        for key, value in {"num_heads": 4, "num_kv_heads": 2}.items()
    },
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_every_kind_of_model_gives_the_readable_ones_numbers(
    changes: dict[str, Any], variant: str, padded: bool
) -> None:
    model = make_model(variant=variant, depth=3, **changes).requires_grad_(False)
    sampler = FastSampler(model, padded)
    for row in (0, 1):
        for num_steps in (1, 4):
            inputs, noise = given(model, row)
            assert_equal(sampler(inputs, noise, num_steps), model.sample_actions(inputs, noise, num_steps))
    first_missing = dataclasses.replace(inputs, image_masks=inputs.image_masks[::-1])
    assert_equal(sampler(first_missing, noise, 2), model.sample_actions(first_missing, noise, 2))
    blind = dataclasses.replace(inputs, image_masks=(torch.zeros(1, dtype=torch.bool),) * 2)
    assert_equal(sampler(blind, noise, 2), model.sample_actions(blind, noise, 2))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_nothing_is_left_over_from_the_call_before(variant: str, padded: bool) -> None:
    model = make_model(variant=variant).requires_grad_(False)
    sampler = FastSampler(model, padded)
    calls = [(row, steps, seed) for row in (0, 1) for steps in (1, 2, 3) for seed in (0, 1)]
    assert len({call[:2] for call in calls}) > MAX_PLANS
    first = [sampler(*given(model, row, seed), steps) for row, steps, seed in calls]
    again = [sampler(*given(model, row, seed), steps) for row, steps, seed in reversed(calls)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True)), "the same bits"
    assert len(sampler._plans) <= MAX_PLANS
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda call: sampler(*given(model, call[0], call[2]), call[1]), calls))
    assert all(torch.equal(a, b) for a, b in zip(first, together, strict=True))


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_new_token_needs_no_new_plan_and_nothing_of_the_time_is_computed_again(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(variant=variant).requires_grad_(False)
    sampler = FastSampler(model)
    inputs, noise = given(model, 0)
    own = sampler(inputs, noise, 3)
    plans = dict(sampler._plans)
    other = model.make_peft_token(1) + 1.0  # type: ignore[operator]
    expected = model.sample_actions(inputs, noise, 3, other)
    for part in (model, model.action_expert):
        for name in ("modulations", "action_condition", "scales", "fused"):
            if hasattr(part, name):
                monkeypatch.setattr(part, name, None)
    assert_equal(sampler(inputs, noise, 3, other), expected)
    assert float((own - expected).abs().max()) > 1e-3
    assert torch.equal(sampler(inputs, noise, 3), own)
    assert sampler._plans == plans


def test_a_missing_camera_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().requires_grad_(False)
    sampler = FastSampler(model)
    seen: list[Tensor] = []
    vision = sampler.vision
    monkeypatch.setattr(sampler, "vision", lambda images: (seen.append(images.clone()), vision(images))[1])
    inputs, noise = given(model, 1)
    garbage = dataclasses.replace(inputs, images=(inputs.images[0], torch.full_like(inputs.images[1], torch.nan)))
    assert torch.equal(sampler(garbage, noise, 2), sampler(inputs, noise, 2))
    assert all(torch.equal(images, inputs.images[0]) for images in seen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_cameras_that_changed_are_encoded_again(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().requires_grad_(False)
    if dtype == "bfloat16":
        to_bfloat16(model)
    sampler, fresh = FastSampler(model), FastSampler(model)
    encoded: list[int] = []
    vision = sampler.vision
    monkeypatch.setattr(sampler, "vision", lambda images: (encoded.append(len(images)), vision(images))[1])
    first, noise = given(model, 0)
    black = dataclasses.replace(first, images=tuple(torch.full_like(image, -1.0) for image in first.images))
    one_moved = dataclasses.replace(first, images=(first.images[0], first.images[1] + 0.1))
    other_prompt = dataclasses.replace(one_moved, tokens=one_moved.tokens.flip(1))
    for inputs, expected in ((black, 2), (first, 2), (first, 0), (one_moved, 1), (other_prompt, 0), (first, 1)):
        encoded.clear()
        fresh._plans.clear()
        assert torch.equal(sampler(inputs, noise, 2), fresh(inputs, noise, 2)), "what was seen before does not matter"
        assert sum(encoded) == expected
    broken = dataclasses.replace(first, images=(torch.full_like(first.images[0], torch.nan), first.images[1]))
    assert sampler(broken, noise, 2).isnan().any()
    assert sampler(broken, noise, 2).isnan().any()
    assert torch.equal(sampler(first, noise, 2), fresh(first, noise, 2))


def test_a_picture_whose_encoding_failed_is_encoded_when_it_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().requires_grad_(False)
    sampler, (first, noise) = FastSampler(model), given(model, 0)
    moved = dataclasses.replace(first, images=tuple(image + 0.1 for image in first.images))
    sampler(first, noise, 2)

    def no_memory(images: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(sampler, "vision", no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            sampler(moved, noise, 2)
    assert torch.equal(sampler(moved, noise, 2), FastSampler(model)(moved, noise, 2))


def test_the_readable_models_weights_are_views_of_the_fused_ones() -> None:
    model = make_model().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    inputs, noise = given(model, 0)
    expected = model.sample_actions(inputs, noise, 2)
    sampler = FastSampler(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert_equal(model.sample_actions(inputs, noise, 2), expected)
    for (_, layers), expert in ((sampler.vlm, model.vlm), (sampler.expert, model.action_expert)):
        for (qkv, o, gate_up, down), layer in zip(layers, expert.layers, strict=True):
            for fused, names in ((qkv, "qkv"), (o, "o"), (gate_up, ("gate", "up")), (down, ("down",))):
                storages = {getattr(layer, f"{name}_proj").weight.untyped_storage().data_ptr() for name in names}
                assert storages == {fused.untyped_storage().data_ptr()}
    token = model.peft_prefix_token
    assert token is not None
    token.requires_grad_(True)
    loss = model.denoise(model.prefix_cache(inputs), inputs.state, noise, torch.tensor([0.5]), token[None]).sum()
    assert torch.autograd.grad(loss, token)[0].abs().max() > 0, "alignment still differentiates through the weights"


def test_one_observation_is_sampled_fast_and_several_as_the_model_says(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path / "model"), "cpu")
    inputs = policy.prepare([make_observation(seed=seed) for seed in range(2)])
    noise = torch.randn(2, 5, 3)
    both = policy.sample(inputs, noise)
    alone = policy.sample(inputs[1:], noise[1:])
    assert_equal(torch.from_numpy(alone), torch.from_numpy(both[1:]))
    assert policy._sample_one._plans, "the fast path made it"
    other = make_model(seed=1, vocab_size=64).eval().requires_grad_(False)
    policy.model = other
    assert_equal(policy.sample_actions(inputs[:1], noise[:1], 2), other.sample_actions(inputs[:1], noise[:1], 2))


def test_what_it_cannot_do_is_refused() -> None:
    model = make_model().requires_grad_(False)
    inputs, noise = given(model, 0)
    with pytest.raises(ValueError, match="one observation and at least one step are needed, got 1 and 0"):
        FastSampler(model)(inputs, noise, 0)
    with pytest.raises(ValueError, match="got 2 and 1"):
        FastSampler(model)(make_inputs(model.architecture)[:2], torch.randn(2, 5, 3), 1)


# --- bfloat16 ---


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_bfloat16_is_as_close_to_float32_as_the_readable_model_in_bfloat16(variant: str) -> None:
    model = golden.load(GOLDEN / variant)
    io = golden.read_io(GOLDEN / variant)
    inputs, noise = golden.policy_input(io, model.architecture.cameras), io["in.noise"]
    exact = io["out.sample_actions.10"]
    to_bfloat16(model)
    sampler = FastSampler(model)
    fast = torch.cat([sampler(inputs[i : i + 1], noise[i : i + 1]) for i in range(len(noise))])
    errors = [float((x - exact).norm() / exact.norm()) for x in (fast, model.sample_actions(inputs, noise))]
    assert 1e-5 < errors[0] < 0.02
    assert errors[0] < 1.5 * errors[1]


def test_bfloat16_keeps_what_openpi_keeps_in_float32(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path / "model"), "cpu")
    model = policy.model
    to_bfloat16(model)
    for name, value in model.named_parameters():
        large = name.startswith(("vision_tower.", "multi_modal_projector.", "embed_tokens."))
        large |= name.startswith(("vlm.", "action_expert.")) and "_proj." in name
        large &= not name.startswith("vision_tower.embeddings.")
        assert value.dtype == (torch.bfloat16 if large else torch.float32), name
    policy.model = model
    chunk = policy.infer(make_observation(), torch.Generator().manual_seed(0))
    assert chunk.actions.dtype == np.float32
    losses = make_losses(policy)(policy.e_0.requires_grad_(True), torch.arange(4), 1, 0)
    assert all(torch.isfinite(loss).all() and loss.requires_grad for loss in losses.values()), "and it can align"


def test_bfloat16_is_offered_where_it_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = write_model(tmp_path / "small"), write_model(tmp_path / "large", vlm__width=512)
    with pytest.raises(PolicyError, match="dtype must be float32 or bfloat16, got 'float16'"):
        load_policy(small, "cpu", "float16")  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(PolicyError, match="which has no AMX: use float32"):
        load_policy(large, "cpu", "bfloat16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with pytest.raises(PolicyError, match=r"its VLM is 40 wide, 512 are needed\): use float32"):
        load_policy(small, "cpu", "bfloat16")
    assert load_policy(large, "cpu", "bfloat16").model.embed_tokens.weight.dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_the_cuda_graphs_give_the_same_numbers(variant: str) -> None:
    model = make_model(variant=variant).requires_grad_(False).cuda()
    sampler = FastSampler(model)
    assert sampler.padded
    token = model.make_peft_token(1)
    for row, seed, shift in ((0, 0, 0.0), (1, 1, 0.0), (0, 2, 1.0)):
        inputs, noise = given(model, row, seed)
        cuda = PolicyInput(
            *(tuple(x.cuda() for x in part) for part in (inputs.images, inputs.image_masks)),
            *(x.cuda() for x in (inputs.tokens, inputs.token_masks, inputs.state)),
        )
        expected = model.sample_actions(cuda, noise.cuda(), 3, token + shift)  # type: ignore[operator]
        found = sampler(cuda, noise.cuda(), 3, token + shift)  # type: ignore[operator]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))  # TF32 may be on
