"""The four losses: their weights, what is switched off, and that padding and missing cameras weigh nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from builders import LOSSES, TASKS, make_experience, make_inputs, make_model, make_noisy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.losses import LossWeights, masked_mse, total
from vla_align_ros.policy.pi0 import Pi0

LAMBDA = {"perception": "lambda_perc", "dynamics": "lambda_dyn", "inverse_dynamics": "lambda_inv"}


def batch_of(
    model: Pi0, state_dim: int | None = None, action_dim: int | None = None
) -> tuple[PolicyInput, ExperienceInput]:
    inputs = make_inputs(model.architecture, batch=4)
    return inputs, make_experience(model.architecture, inputs, state_dim, action_dim)


def run(
    model: Pi0, inputs: PolicyInput, experience: ExperienceInput, **weights: float
) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    result: tuple[Tensor, dict[str, Tensor]] = model(
        inputs, experience.actions, experience, LossWeights(**weights), generator=generator
    )
    return result


# --- lambdas ---


@given(st.lists(st.floats(0.001, 100), min_size=3, max_size=3), st.lists(st.floats(0, 10), min_size=4, max_size=4))
def test_the_total_is_the_weighted_sum(weights: list[float], losses: list[float]) -> None:
    parts = {name: torch.tensor(loss) for name, loss in zip(LOSSES, losses, strict=True)}
    expected = losses[0] + sum(w * loss for w, loss in zip(weights, losses[1:], strict=True))
    assert float(total(parts, LossWeights(*weights))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_each_lambda_scales_its_own_loss_and_no_other(task: str) -> None:
    model = make_model()
    inputs, experience = batch_of(model)
    plain, parts = run(model, inputs, experience)
    scaled, same = run(model, inputs, experience, **{LAMBDA[task]: 3.5})
    assert all(torch.equal(parts[name], same[name]) for name in LOSSES)
    torch.testing.assert_close(scaled - plain, 2.5 * parts[f"{task}_loss"])
    head = f"alignment.{task}_head.weight"
    gradients = [torch.autograd.grad(loss, model.get_parameter(head))[0] for loss in (plain, scaled)]
    torch.testing.assert_close(gradients[1], 3.5 * gradients[0])


@pytest.mark.parametrize("off", TASKS)
def test_lambda_zero_leaves_the_task_out_uncomputed(off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    assert model.alignment is not None
    embedded: list[set[str]] = []
    embed = model.alignment.embed

    def spy(state: Tensor, experience: Any, noisy: dict[str, Tensor], token: Tensor | None) -> Any:
        embedded.append(set(noisy))
        suffix = embed(state, experience, noisy, token)
        assert set(suffix.task_ranges) == set(noisy)
        return suffix

    monkeypatch.setattr(model.alignment, "embed", spy)
    inputs, experience = batch_of(model)
    loss, parts = run(model, inputs, experience, **{LAMBDA[off]: 0.0})
    assert embedded == [set(TASKS) - {off}]
    assert set(parts) == set(LOSSES) - {f"{off}_loss"}
    loss.backward()
    assert model.get_parameter(f"alignment.{off}_head.weight").grad is None


def test_all_lambdas_zero_leave_the_alignment_expert_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def never(*arguments: Any) -> Any:
        raise AssertionError("the alignment expert ran")

    monkeypatch.setattr(model, "denoise_alignment", never)
    inputs, experience = batch_of(model)
    loss, parts = run(model, inputs, experience, lambda_perc=0.0, lambda_dyn=0.0, lambda_inv=0.0)
    assert set(parts) == {"action_loss"}
    assert torch.equal(loss, parts["action_loss"])
    loss.backward()
    assert all(parameter.grad is None for parameter in model.alignment.parameters())


def test_pi05_judges_by_a_prefix_of_its_own() -> None:
    model = make_model(variant="pi05")
    inputs, experience = batch_of(model)
    without_state = dataclasses.replace(inputs, tokens=(inputs.tokens + 1) % 40)

    def losses(alignment_inputs: PolicyInput | None) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(7)
        parts: dict[str, Tensor] = model(
            inputs, experience.actions, experience, alignment_inputs=alignment_inputs, generator=generator
        )[1]
        return parts

    shared, own = losses(None), losses(without_state)
    assert torch.equal(shared["action_loss"], own["action_loss"])
    assert all(not torch.equal(shared[name], own[name]) for name in LOSSES[1:])


# --- padding ---


@given(st.integers(0, 2**31 - 1))
def test_masked_mse_is_the_mean_of_what_is_unmasked(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    v, u = torch.randn(2, 3, 4, 5, generator=generator)
    mask = torch.rand(3, 4, 1, generator=generator) > 0.4
    expected = [float((v[row] - u[row])[mask[row, :, 0]].pow(2).mean()) if mask[row].any() else 0.0 for row in range(3)]
    assert masked_mse(v, u, mask).tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    poisoned = torch.where(mask, v, torch.full_like(v, torch.nan))
    assert torch.equal(masked_mse(poisoned, u, mask), masked_mse(v, u, mask))


def test_padded_dimensions_of_v_weigh_nothing() -> None:
    model = make_model()
    inputs, experience = batch_of(model, state_dim=1, action_dim=2)
    every = torch.ones(3, dtype=torch.bool)
    whole = run(model, inputs, dataclasses.replace(experience, state_mask=every, action_mask=every))[1]
    loss, parts = run(model, inputs, experience)
    assert all(
        not torch.equal(parts[name], whole[name])
        for name in ("action_loss", "perception_loss", "inverse_dynamics_loss")
    )
    loss.backward()
    heads = {"action_out_proj": 2, "alignment.perception_head": 1, "alignment.inverse_dynamics_head": 2}
    for head, real in heads.items():
        for gradient in (model.get_parameter(f"{head}.weight").grad, model.get_parameter(f"{head}.bias").grad):
            assert gradient[:real].view(real, -1).any(1).all(), f"{head} does not learn all that is real"
            assert not gradient[real:].any(), f"{head} learns from padding"
    with torch.no_grad():
        for head in heads:
            model.get_parameter(f"{head}.bias")[2] += 100.0
    moved = run(model, inputs, experience)[1]
    assert all(torch.equal(parts[name], moved[name]) for name in LOSSES)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("readout", ["tokens", "mean"])
def test_a_missing_camera_weighs_nothing(variant: str, readout: str) -> None:
    model = make_model(variant=variant, alignment__dynamics_readout=readout)
    inputs, experience = batch_of(model)
    missing = ~experience.feature_masks
    assert missing.any()
    parts = run(model, inputs, experience)[1]
    features = experience.features.clone()
    features[missing] = 50.0
    images = [image.clone() for image in inputs.images]
    for image, mask in zip(images, inputs.image_masks, strict=True):
        image[~mask] = -1.0
    other = run(
        model,
        dataclasses.replace(inputs, images=tuple(images)),
        dataclasses.replace(experience, features=features),
    )[1]
    assert all(torch.equal(parts[name], other[name]) for name in LOSSES)
    present = dataclasses.replace(experience, features=experience.features + experience.feature_masks[..., None])
    assert not torch.equal(parts["dynamics_loss"], run(model, inputs, present)[1]["dynamics_loss"])


@pytest.mark.parametrize("readout", ["tokens", "mean"])
def test_no_loss_has_a_gradient_in_a_missing_camera(readout: str) -> None:
    model = make_model(alignment__dynamics_readout=readout)
    inputs, experience = batch_of(model)
    features = experience.features.clone().requires_grad_(True)
    images = tuple(image.clone().requires_grad_(True) for image in inputs.images)
    loss, _ = run(model, dataclasses.replace(inputs, images=images), dataclasses.replace(experience, features=features))
    loss.backward()
    assert features.grad is not None
    assert features.grad[experience.feature_masks].any()
    assert not features.grad[~experience.feature_masks].any()
    for image, mask in zip(images, inputs.image_masks, strict=True):
        assert image.grad is not None
        assert image.grad[mask].any()
        assert not image.grad[~mask].any()


@pytest.mark.parametrize("task", TASKS)
def test_a_rows_loss_is_its_own(task: str) -> None:
    model = make_model()
    inputs, experience = batch_of(model)
    noise, time = make_noisy(inputs.state, experience), torch.rand(4)
    cache, token = model.prefix_cache(inputs), model.make_peft_token(4)
    together = model.alignment_losses(cache, inputs.state, experience, noise, time, token)[task]
    assert together.shape == (4,)
    for row in range(4):
        pick = slice(row, row + 1)
        alone = model.alignment_losses(
            cache.rows(torch.tensor([row])),
            inputs.state[pick],
            experience[pick],
            {name: values[pick] for name, values in noise.items()},
            time[pick],
            model.make_peft_token(1),
        )[task]
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
