"""What a token is worth on experience."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import TASKS, make_experiences, make_losses, write_model
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses, prefix_batch
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.speed.sizes import VARIANTS, architecture, network
from vla_align_ros.types import Experience

ROWS = torch.arange(10)


def test_one_loss_an_experience_and_task(policy: Policy, token: Tensor) -> None:
    found = make_losses(policy)(token, ROWS, 3, seed=0)
    assert {task: tuple(loss.shape) for task, loss in found.items()} == dict.fromkeys(TASKS, (10,))


def test_the_same_seed_draws_the_same_for_every_token(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    first, again, other = (losses(token, ROWS, 2, seed)["dynamics"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    moved = losses(token + 1e-6, ROWS, 2, 0)["dynamics"]
    torch.testing.assert_close(moved, first, atol=1e-3, rtol=1e-3)
    assert float((other - first).abs().max()) > 0.01


def test_the_losses_are_the_models_own(policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    alignment_losses = policy.model.alignment_losses

    def spy(cache: Any, state: Tensor, experience: Any, noise: dict[str, Tensor], time: Tensor, e: Tensor) -> Any:
        seen.update(state=state, experience=experience, noise=noise, time=time, e=e)
        return alignment_losses(cache, state, experience, noise, time, e)

    losses = make_losses(policy)
    monkeypatch.setattr(policy.model, "alignment_losses", spy)
    found = losses(token, ROWS, 3, seed=0)
    inputs, experience = policy.prepare_experiences(make_experiences(10))
    assert torch.equal(seen["state"], inputs.state.repeat_interleave(3, 0))
    assert torch.equal(seen["experience"].actions, experience.actions.repeat_interleave(3, 0))
    assert torch.equal(seen["e"], token.expand(30, -1, -1))
    assert len(seen["time"].unique()) == 30
    assert len(seen["noise"]["dynamics"].flatten(1).unique(dim=0)) == 30
    cache = policy.model.prefix_cache(inputs).repeat(3)
    direct = alignment_losses(cache, seen["state"], seen["experience"], seen["noise"], seen["time"], seen["e"])
    for task in TASKS:
        torch.testing.assert_close(found[task], direct[task].unflatten(0, (10, 3)).mean(1), atol=1e-5, rtol=1e-4)


def test_the_prefix_in_batches_gives_the_same(policy: Policy, token: Tensor) -> None:
    many, few = make_losses(policy, 70), ExperienceLosses(policy, make_experiences(70)[64:], LossWeights())
    assert len(many) == 70
    for task, loss in few(token, torch.arange(6), 2, 0).items():
        torch.testing.assert_close(many(token, torch.arange(64, 70), 2, 0)[task], loss, atol=1e-5, rtol=1e-4)


def test_padding_of_prompts_is_not_carried_and_nobody_sees_what_is(tmp_path: Path) -> None:
    policy = load_policy(write_model(tmp_path / "model", max_token_len=24), "cpu")

    def said(prompt: str, items: list[Experience]) -> list[Experience]:
        return [
            dataclasses.replace(item, observation=dataclasses.replace(item.observation, prompt=prompt))
            for item in items
        ]

    few = make_experiences(40)
    short, long = said("red", few), said("red " * 15, few)
    alone = ExperienceLosses(policy, short, LossWeights())
    beside = ExperienceLosses(policy, [*short[:32], *long[32:]], LossWeights())
    assert alone.bytes_per_experience < beside.bytes_per_experience
    inputs, outcome = policy.prepare_experiences(short)
    whole = ExperienceLosses.of_inputs(policy.model, inputs, outcome, LossWeights())
    assert alone.bytes_per_experience < whole.bytes_per_experience
    rows = torch.arange(32)
    for task, loss in whole(policy.e_0, rows, 2, 0).items():
        for other in (alone, beside):
            torch.testing.assert_close(other(policy.e_0, rows, 2, 0)[task], loss, atol=1e-5, rtol=1e-4)


def test_shuffling_changes_the_actions_alone(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    plain = losses(token, ROWS, 2, 0)
    same = losses(token, ROWS, 2, 0, other_actions=ROWS)
    shuffled = losses(token, ROWS, 2, 0, other_actions=ROWS.roll(5))
    assert all(torch.equal(plain[task], same[task]) for task in TASKS)
    assert torch.equal(plain["perception"], shuffled["perception"])
    assert not torch.equal(plain["inverse_dynamics"], shuffled["inverse_dynamics"])
    assert not torch.equal(plain["dynamics"], shuffled["dynamics"])


@pytest.mark.parametrize("task", TASKS)
def test_each_loss_alone_has_a_gradient_for_the_token(policy: Policy, token: Tensor, task: str) -> None:
    token = token.clone().requires_grad_(True)
    found = make_losses(policy)(token, ROWS, 2, 0)
    (gradient,) = torch.autograd.grad(found[task].mean(), token)
    assert (gradient.norm(dim=1) > 1e-7).all()


def test_a_zero_weight_is_not_computed_and_the_others_scale(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy, lambda_perc=0.0, lambda_dyn=2.0, lambda_inv=0.5)
    found = losses(token, ROWS, 1, 0)
    assert set(found) == {"dynamics", "inverse_dynamics"}
    torch.testing.assert_close(losses.weighted(found), 2.0 * found["dynamics"] + 0.5 * found["inverse_dynamics"])


def test_padding_and_missing_cameras_weigh_nothing(policy: Policy, token: Tensor) -> None:
    experiences = make_experiences(10)
    camera = next(iter(experiences[0].next_observation.images))
    blind = [
        dataclasses.replace(
            item,
            next_observation=dataclasses.replace(
                item.next_observation, images={k: v for k, v in item.next_observation.images.items() if k != camera}
            ),
        )
        for item in experiences
    ]
    losses = ExperienceLosses(policy, blind, LossWeights())
    before = losses(token, ROWS, 2, 0)
    features = losses._experience.features
    assert not losses._experience.feature_masks[:, :4].any()
    features[:, :4] += 7.0
    after = losses(token, ROWS, 2, 0)
    assert all(torch.equal(before[task], after[task]) for task in TASKS)
    features[:, 4:] += 7.0
    assert not torch.equal(losses(token, ROWS, 2, 0)["dynamics"], before["dynamics"])


def test_many_tokens_at_once_have_the_losses_that_each_has_alone(policy: Policy, token: Tensor) -> None:
    losses, tokens = make_losses(policy), torch.stack([token, token + 0.1, 2 * token])
    together = losses(tokens, ROWS, 3, seed=5)
    for row, one in enumerate(tokens):
        alone = losses(one, ROWS, 3, seed=5)
        for task in TASKS:
            torch.testing.assert_close(together[task][row], alone[task], rtol=1e-5, atol=1e-6)


def test_rows_in_parts_give_the_same(policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, tokens, other = make_losses(policy), torch.stack([token, 2 * token, -token]), ROWS.roll(3)
    whole = losses(tokens, ROWS, 3, 5, other_actions=other)
    copied = 7 * losses.bytes_per_experience
    for name, value in (("MOST_AT_ONCE", 7), ("MOST_AT_ONCE", 64), ("COPIED_BYTES", copied), ("COPIED_BYTES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(f"vla_align_ros.alignment.losses.{name}", value)
            parts = losses(tokens, ROWS, 3, 5, other_actions=other)
        for task in TASKS:
            torch.testing.assert_close(parts[task], whole[task], rtol=1e-5, atol=1e-6)


def test_a_gradient_is_the_losses_own_and_the_same_in_parts(
    policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = make_losses(policy)
    leaf = token.clone().requires_grad_(True)
    each = losses(leaf, ROWS, 3, 5)
    (whole,) = torch.autograd.grad(losses.weighted(each).mean(), leaf)
    assert float(whole.norm()) > 0
    few = 7 * losses.bytes_per_backward
    for name, value in (("MOST_AT_ONCE", 64), ("MOST_AT_ONCE", 7), ("BACKWARD_BYTES", few), ("BACKWARD_BYTES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(f"vla_align_ros.alignment.losses.{name}", value)
            slope, means = losses.gradient(token, ROWS, 3, 5)
        torch.testing.assert_close(slope, whole, rtol=1e-4, atol=1e-7)
        assert means == pytest.approx({task: float(loss.detach().mean()) for task, loss in each.items()}, rel=1e-5)


def test_what_a_backward_pass_keeps_is_no_more_than_it_is_taken_for(policy: Policy, token: Tensor) -> None:
    losses, kept = make_losses(policy), dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses(token.clone().requires_grad_(True), ROWS, 1, 0)
    held = sum(kept.values()) / len(ROWS)
    assert held < losses.bytes_per_backward < 4 * held


def test_of_a_networks_inputs_they_are_the_same_bits(policy: Policy, token: Tensor) -> None:
    inputs, outcome = policy.prepare_experiences(make_experiences(10))
    losses = ExperienceLosses.of_inputs(policy.model, inputs.with_less_padding(), outcome, LossWeights())
    for task, loss in make_losses(policy)(token, ROWS, 2, 0).items():
        assert torch.equal(losses(token, ROWS, 2, 0)[task], loss)


def test_dynamics_is_left_out_where_inverse_dynamics_is_asked(policy: Policy, token: Tensor) -> None:
    losses = make_losses(policy)
    less = losses.without_dynamics()
    assert set(less(token, ROWS, 1, 0)) == {"perception", "inverse_dynamics"}
    assert set(losses(token, ROWS, 1, 0)) == {"perception", "dynamics", "inverse_dynamics"}, "the other is as it was"
    blind = make_losses(policy, lambda_inv=0.0)
    assert blind.without_dynamics() is blind
    assert policy.model.architecture.alignment is not None
    mutual = dataclasses.replace(policy.model.architecture.alignment, perception_attention="mutual")
    policy.model.architecture = dataclasses.replace(policy.model.architecture, alignment=mutual)
    assert losses.without_dynamics() is losses, "perception would miss what it has always seen"


def test_prefixes_are_computed_together_as_far_as_memory_is_meant_to_go(
    policy: Policy, token: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prefix_batch(policy.model) == 32
    for variant in VARIANTS:
        assert prefix_batch(network(architecture("full", variant), "meta")) < 4
    whole = make_losses(policy)(token, ROWS, 2, 0)
    monkeypatch.setattr("vla_align_ros.alignment.losses.PREFIX_BYTES", 1)
    assert prefix_batch(policy.model) == 1
    for task, loss in make_losses(policy)(token, ROWS, 2, 0).items():
        torch.testing.assert_close(loss, whole[task], atol=1e-5, rtol=1e-4)
