"""The E-Token: one parameter for both experts, trained by every loss, alone or with the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from builders import LOSSES, make_experience, make_inputs, make_model
from torch import Tensor

from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0


def losses_of(model: Pi0, weights: LossWeights | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Total and parts on a fixed batch with fixed t and noise."""
    inputs = make_inputs(model.architecture, batch=8)
    experience = make_experience(model.architecture, inputs)
    generator = torch.Generator().manual_seed(6)
    return model(inputs, experience.actions, experience, weights, generator=generator)  # type: ignore[no-any-return]


def test_both_experts_are_given_the_same_parameter() -> None:
    model = make_model()
    named = [name for name, _ in model.named_parameters() if "peft" in name or "e_token" in name]
    assert named == ["peft_prefix_token", "e_token_attention_bias"]
    token = model.make_peft_token(3)
    assert token is not None
    assert model.peft_prefix_token is not None
    assert token.data_ptr() == model.peft_prefix_token.data_ptr()
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    suffix = model.embed_alignment_suffix(inputs.state, experience, {"perception": inputs.state}, token)
    embs, _, _ = model.embed_suffix(inputs.state, experience.actions, torch.rand(3), token)
    assert torch.equal(suffix.embs[:, :2], embs[:, :2])
    for embedded in (suffix.embs, embs):
        (gradient,) = torch.autograd.grad(embedded[:, :2].sum(), model.peft_prefix_token)
        assert torch.equal(gradient, torch.full((2, 32), 3.0))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("init", ["zeros", "normal"])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_each_loss_alone_moves_e_in_training(loss: str, init: str, variant: str) -> None:
    torch.manual_seed(0)
    fresh = Pi0(make_model(variant=variant, peft_init=init, peft_num_tokens=4).architecture)  # as training starts
    for model in (fresh, make_model(variant=variant, peft_init=init, peft_num_tokens=4)):
        _, parts = losses_of(model)
        (gradient,) = torch.autograd.grad(parts[loss], model.peft_prefix_token)
        assert torch.isfinite(gradient).all()
        assert (gradient.norm(dim=1) > 1e-7).all(), "every row of E must learn"


@pytest.mark.parametrize("width", [16, 32, 48])
def test_an_alignment_expert_of_another_width_sees_e_through_its_projection(width: int) -> None:
    model = make_model(alignment__expert__width=width)
    assert model.alignment is not None
    projection = model.alignment.e_token_proj
    assert (projection is not None) == (width != 32)
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    token = model.make_peft_token(3)
    suffix = model.embed_alignment_suffix(inputs.state, experience, {"perception": inputs.state}, token)
    assert torch.equal(suffix.embs[:, :2], token if projection is None else projection(token))
    _, parts = losses_of(model)
    for loss in LOSSES[1:]:
        wanted = [model.peft_prefix_token, *([] if projection is None else projection.parameters())]
        gradients = torch.autograd.grad(parts[loss], wanted, retain_graph=True)
        assert all(float(gradient.norm()) > 1e-7 for gradient in gradients)


def train(model: Pi0, trained: list[str], steps: int) -> None:
    """Adam on the parameters whose names start with one of `trained`; the others are frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(trained)))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        losses_of(model)[0].backward()
        optimizer.step()


def changed(model: Pi0, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_with_everything_else_frozen_only_e_changes() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    losses = {name: float(loss.detach()) for name, loss in losses_of(model)[1].items()}
    train(model, ["peft_prefix_token"], 20)
    assert changed(model, before) == {"peft_prefix_token"}
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if name != "peft_prefix_token")
    after = {name: float(loss.detach()) for name, loss in losses_of(model)[1].items()}
    assert sum(after.values()) < sum(losses.values())


def test_with_e_frozen_the_losses_still_fall_and_e_stays_to_the_bit() -> None:
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    losses = losses_of(model)[1]
    everything = [name for name, _ in model.named_parameters() if name != "peft_prefix_token"]
    train(model, everything, 20)
    assert torch.equal(model.state_dict()["peft_prefix_token"], before["peft_prefix_token"])
    assert len(changed(model, before)) > len(everything) // 2
    after = losses_of(model)[1]
    for name, loss in losses.items():
        assert float(after[name].detach()) < 0.95 * float(loss.detach()), name


def test_a_given_token_takes_the_place_of_the_models_own() -> None:
    model = make_model()
    inputs = make_inputs(model.architecture)
    noise = torch.randn(3, 5, 3)
    own = model.make_peft_token(3)
    assert own is not None
    assert torch.equal(model.sample_actions(inputs, noise, 2), model.sample_actions(inputs, noise, 2, own))
    other = model.sample_actions(inputs, noise, 2, own + 1.0)
    assert float((other - model.sample_actions(inputs, noise, 2)).abs().max()) > 1e-3


@pytest.mark.slow
def test_a_hundred_steps_bring_down_all_four_losses() -> None:
    torch.manual_seed(0)
    model = Pi0(make_model(depth=2).architecture)
    before = {name: float(loss.detach()) for name, loss in losses_of(model)[1].items()}
    train(model, [""], 100)
    after = {name: float(loss.detach()) for name, loss in losses_of(model)[1].items()}
    assert set(before) == set(LOSSES)
    for name in LOSSES:
        assert after[name] < 0.6 * before[name], f"{name}: {before[name]:.3f} -> {after[name]:.3f}"
