"""What is minimised, as modules: the joint training's, and the last stage's. Each call draws its own times and noise
from a seed, so that a step is the same however often, and in how many processes, it is computed."""

from __future__ import annotations

from dataclasses import astuple

import torch
from torch import Tensor, nn

from vla_align_ros.policy import flow
from vla_align_ros.policy.losses import LossWeights, total
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.training.aids import Aids
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.dataset import Batch
from vla_align_ros.training.recipe import Recipe

Losses = tuple[Tensor, dict[str, Tensor]]
"""What to minimise, and each loss by name, for the log."""


def weights_of(recipe: Recipe) -> LossWeights:
    """lambda of each alignment task."""
    return LossWeights(recipe.lambda_perc, recipe.lambda_dyn, recipe.lambda_inv)


def _kept(batch: Batch, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """(B,) 0.0 where a sample gets E_0 alone."""
    device = batch.actions.device
    return (torch.rand(len(batch.actions), generator=generator, device=device) >= recipe.token_drop).float()


class JointObjective(nn.Module):
    """L_total of the policy with its token bank, and the aids."""

    def __init__(self, model: Pi0, bank: TokenBank, aids: Aids, recipe: Recipe) -> None:
        super().__init__()
        self.model, self.bank, self.aids, self.recipe = model, bank, aids, recipe

    def forward(self, batch: Batch, seed: int) -> Losses:
        recipe, generator = self.recipe, torch.Generator(batch.actions.device).manual_seed(seed)
        keep, e_0 = _kept(batch, recipe, generator), self.model.peft_prefix_token
        assert e_0 is not None
        self.aids.begin()
        loss, parts = self.model(
            batch.inputs,
            batch.actions,
            batch.experience,
            weights_of(recipe),
            action_draws=recipe.action_draws,
            peft_token=self.bank.tokens(e_0, batch.row, keep),
            alignment_inputs=batch.alignment_inputs,
            generator=generator,
        )
        action_mask = batch.experience.action_mask
        helped = self.aids(batch.actions, action_mask, batch.points, batch.inputs.token_masks, recipe.action_draws)
        losses = {"total_loss": loss, **parts, **helped}
        loss = loss + recipe.regression_weight * helped["regression_loss"]
        if "keypoint_loss" in helped:
            loss = loss + recipe.keypoint_weight * helped["keypoint_loss"]
        return loss, {name: value.detach() for name, value in losses.items()}


class AlignmentObjective(nn.Module):
    """The alignment expert's losses alone, with the tokens of the bank or, as in the joint training, E_0. Most flow
    times are near 1. The tasks that have a lambda count alike: it weighs them against the action loss, which is not
    asked here."""

    def __init__(self, model: Pi0, bank: TokenBank, recipe: Recipe) -> None:
        super().__init__()
        self.alignment, self.recipe = model.alignment_expert(), recipe
        self._frozen = [(model, bank)]  # in a list: they are no parts of it

    def forward(self, batch: Batch, seed: int) -> Losses:
        (model, bank), recipe, device = self._frozen[0], self.recipe, batch.actions.device
        rows, generator = len(batch.actions), torch.Generator(device).manual_seed(seed)
        keep = _kept(batch, recipe, generator)
        late = torch.rand(rows, generator=generator, device=device) < recipe.late_time_share
        times = flow.sample_time(rows, generator, device)
        times = torch.where(late, flow.late_time(rows, generator, device), times)
        joint, inputs = weights_of(recipe), batch.alignment_inputs or batch.inputs
        weights = LossWeights(*(float(weight > 0) for weight in astuple(joint)))
        e_0 = model.peft_prefix_token
        assert e_0 is not None
        with torch.no_grad():
            cache, token = model.prefix_cache(inputs), bank.tokens(e_0, batch.row, keep)
            noise = model.draw_noise(inputs.state, batch.experience, weights, generator)
        found = model.alignment_losses(cache, inputs.state, batch.experience, noise, times, token)
        losses = {f"{task}_loss": loss.mean() for task, loss in found.items()}
        return total(losses, weights), {name: value.detach() for name, value in losses.items()}
