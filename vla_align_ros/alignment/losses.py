"""What a token is worth on experience: the three flow-matching losses, and what the policy would do with it. The prefix
is computed once an alignment."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Self

import torch
from torch import Tensor

from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, flow
from vla_align_ros.policy.experts import PrefixCache
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.types import Experience

PREFIX_BATCH = 32  # at most
PREFIX_BYTES = 2**28  # of the largest activation of the prefix's rows that are computed together
MOST_AT_ONCE = 128  # rows in one pass: more are hardly faster
COPIED_BYTES = 2**28  # of the prefix's keys and values, of which each row of a pass has a copy


class ExperienceLosses:
    """N experiences with their prefix keys and values. The losses of any token on them cost expert passes only."""

    def __init__(self, policy: Policy, experiences: Sequence[Experience], weights: LossWeights) -> None:
        batch = prefix_batch(policy.model)
        parts = (experiences[start : start + batch] for start in range(0, len(experiences), batch))
        prepared = (policy.prepare_experiences(part) for part in parts)
        self._take(policy.model, ((inputs.with_less_padding(), outcome) for inputs, outcome in prepared), weights)

    @classmethod
    def of_inputs(cls, model: Pi0, inputs: PolicyInput, outcome: ExperienceInput, weights: LossWeights) -> Self:
        """Of experiences that are already what a network is given."""
        losses = cls.__new__(cls)
        rows = torch.arange(len(inputs.state)).split(prefix_batch(model))
        losses._take(model, ((inputs[part], outcome[part]) for part in rows), weights)
        return losses

    @torch.no_grad()
    def _take(self, model: Pi0, batches: Iterable[tuple[PolicyInput, ExperienceInput]], weights: LossWeights) -> None:
        self._model, self.weights = model, weights
        caches, states, parts = [], [], []
        for inputs, part in batches:
            caches.append(model.prefix_cache(inputs))
            states.append(inputs.state)
            parts.append(part)
        longest = max(cache.pad_masks.shape[1] for cache in caches)
        caches = [cache.padded(longest) for cache in caches]
        layers = zip(*[cache.key_values for cache in caches], strict=True)
        key_values = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
        self._cache = PrefixCache(key_values, torch.cat([cache.pad_masks for cache in caches]))
        self._state = torch.cat(states)
        self._experience = ExperienceInput.joined(parts)

    @property
    def bytes_per_experience(self) -> int:
        """Of the prefix's keys and values."""
        return sum(k[0].nbytes + v[0].nbytes for k, v in self._cache.key_values)

    def __len__(self) -> int:
        return len(self._state)

    @property
    def device(self) -> torch.device:
        return self._state.device

    def __call__(
        self,
        tokens: Tensor,
        rows: Tensor,
        draws: int,
        seed: int,
        other_actions: Tensor | None = None,
        other_states: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of each task with weight, (len(rows),), mean over `draws` of (t, noise).

        tokens: (n, W), or (K, n, W) for losses (K, len(rows)) of K tokens at once. The same seed and rows draw the
        same t and noise for every token. other_actions, other_states: rows whose commands or states take the place of
        the true ones.
        """
        many = tokens if tokens.dim() == 3 else tokens[None]
        generator = torch.Generator().manual_seed(seed)
        repeated = rows.repeat_interleave(draws)
        time = flow.sample_time(len(repeated), generator).to(self.device)
        state, outcome = torch.empty(len(repeated), *self._state.shape[1:]), _shapes(self._experience, len(repeated))
        noise = self._model.draw_noise(state, outcome, self.weights, generator)
        noise = {task: value.to(self.device) for task, value in noise.items()}
        commands, states = (
            repeated if other is None else other.repeat_interleave(draws) for other in (other_actions, other_states)
        )
        each = self._of_draws(many, repeated, commands, states, noise, time)
        means = {task: loss.unflatten(1, (len(rows), draws)).mean(2) for task, loss in each.items()}
        return means if tokens.dim() == 3 else {task: loss[0] for task, loss in means.items()}

    def _of_draws(
        self, many: Tensor, rows: Tensor, commands: Tensor, states: Tensor, noise: dict[str, Tensor], time: Tensor
    ) -> dict[str, Tensor]:
        """Losses (K, R) of K tokens (K, n, W) on R draws: of a row, the commands and the state of a row, noise and t
        each. As many at once as memory allows; what does not depend on the token is copied once for all that meet the
        same draws."""
        at_once = max(1, min(MOST_AT_ONCE, COPIED_BYTES // self.bytes_per_experience))
        found: dict[str, list[Tensor]] = {task: [] for task in noise}
        for part in torch.arange(len(rows)).split(at_once):
            group = min(len(many), at_once // len(part))
            draw = part.repeat(group)
            row = rows[draw]
            cache, state = self._cache.rows(row), self._state[states[draw]]
            experience = replace(self._experience[row], actions=self._experience.actions[commands[draw]])
            of_part: dict[str, list[Tensor]] = {task: [] for task in noise}
            for some in many.split(group):
                these = slice(len(some) * len(part))
                of_some = self._model.alignment_losses(
                    cache.rows(these),
                    state[these],
                    experience[these],
                    {task: value[draw[these]] for task, value in noise.items()},
                    time[draw[these]],
                    some.repeat_interleave(len(part), 0),
                )
                for task, loss in of_some.items():
                    of_part[task].append(loss.view(len(some), len(part)))
            for task, losses in of_part.items():
                found[task].append(torch.cat(losses))
        return {task: torch.cat(losses, 1) for task, losses in found.items()}

    def without_dynamics(self) -> ExperienceLosses:
        """The same experiences without the dynamics task, where inverse dynamics is asked too, which tells more of the
        token: dynamics is nearly half of the work. Not where perception sees the other tasks: then
        it would miss them."""
        assert self._model.architecture.alignment is not None
        mutual = self._model.architecture.alignment.perception_attention == "mutual"
        if self.weights.lambda_inv == 0 or mutual:
            return self
        return self.with_weights(replace(self.weights, lambda_dyn=0.0))

    def perception_alone(self) -> ExperienceLosses:
        """The same experiences without the other tasks; with them where perception sees them: then it would miss
        them."""
        assert self._model.architecture.alignment is not None
        if self._model.architecture.alignment.perception_attention == "mutual":
            return self
        return self.with_weights(replace(self.weights, lambda_dyn=0.0, lambda_inv=0.0))

    def with_weights(self, weights: LossWeights) -> ExperienceLosses:
        """The same experiences with other lambdas; nothing is computed anew."""
        other = copy.copy(self)
        other.weights = weights
        return other

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The tasks' losses, each times its lambda, added up."""
        return torch.stack([self.weights.of(task) * loss for task, loss in losses.items()]).sum(0)


def prefix_batch(model: Pi0) -> int:
    """Experiences whose prefixes are computed together: fixed for a model, so that live and offline alignment compute
    the same bits; of a large one only as many as memory is meant to hold."""
    a = model.architecture
    tokens = len(a.cameras) * (a.vision.image_size // a.vision.patch_size) ** 2 + a.max_token_len
    each = tokens * a.vlm.mlp_dim * model.embed_tokens.weight.element_size()
    return max(1, min(PREFIX_BATCH, PREFIX_BYTES // each))


def _shapes(experience: ExperienceInput, rows: int) -> ExperienceInput:
    """Of so many rows, on the CPU, where the noise is drawn, so that every device sees the same."""
    whole = (getattr(experience, field.name) for field in fields(experience))
    return ExperienceInput(*(torch.empty(rows, *tensor.shape[1:]) for tensor in whole))


def weights_of(params: AlignParams) -> LossWeights:
    """The lambdas."""
    return LossWeights(params.lambda_perc, params.lambda_dyn, params.lambda_inv)


def means(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean loss of each task."""
    return {task: float(loss.detach().mean()) for task, loss in losses.items()}
