"""What a token is worth on experience: the three flow-matching losses, and what the policy would do with it. The prefix
is computed once an alignment."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
PREFIX_BYTES = 2**26  # of the largest activation of the prefix's rows that are computed together
MOST_AT_ONCE = 128  # rows in one pass: more are hardly faster
COPIED_BYTES = 2**28  # of the prefix's keys and values, of which each row of a pass has a copy
BACKWARD_BYTES = 2**28  # of what a pass keeps for its gradient


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
        self._cache = PrefixCache.joined(caches)
        self._state = torch.cat(states)
        self._experience = ExperienceInput.joined(parts)

    @property
    def bytes_per_experience(self) -> int:
        """Of the prefix's keys and values."""
        return sum(k[0].nbytes + v[0].nbytes for k, v in self._cache.key_values)

    @property
    def bytes_per_backward(self) -> int:
        """What a row of a pass keeps for its gradient, about, on a CPU: its copy of the keys and values, the same in
        float32, and of each token of the expert, in each layer, four times the MLP's hidden row and eight times its
        own, in float32, too, even of a network in bfloat16."""
        a = self._model.architecture
        assert a.alignment is not None
        expert, each = a.alignment.expert, self._experience
        of_commands = 1 + each.actions.shape[1] + each.features.shape[1]
        tasks = {"perception": 1, "dynamics": of_commands, "inverse_dynamics": of_commands}
        tokens = a.peft_num_tokens + sum(number for task, number in tasks.items() if self.weights.of(task) > 0)
        numbers = tokens * expert.depth * (4 * expert.mlp_dim + 8 * expert.width)
        numbers += sum(k[0].numel() + v[0].numel() for k, v in self._cache.key_values)
        return self.bytes_per_experience + numbers * torch.float32.itemsize

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
        at_once = max(1, min(MOST_AT_ONCE, COPIED_BYTES // self.bytes_per_experience))
        passes = list(self._passes(many, self._draw(rows, draws, seed, other_actions, other_states), at_once))
        each = {task: torch.cat([found[task] for found in passes], 1) for task in passes[0]}
        means = {task: loss.unflatten(1, (len(rows), draws)).mean(2) for task, loss in each.items()}
        return means if tokens.dim() == 3 else {task: loss[0] for task, loss in means.items()}

    def gradient(self, token: Tensor, rows: Tensor, draws: int, seed: int) -> tuple[Tensor, dict[str, float]]:
        """Gradient (n, W) of the mean weighted loss on `rows` at a token, and the mean loss of each task, of the draws
        that `__call__` makes. A pass at a time, so that memory does not grow with rows or draws."""
        token, slope, found = token.detach().requires_grad_(True), torch.zeros_like(token), []
        at_once = max(1, min(MOST_AT_ONCE, BACKWARD_BYTES // self.bytes_per_backward))
        for losses in self._passes(token[None], self._draw(rows, draws, seed), at_once):
            share = self.weighted(losses).sum() / (len(rows) * draws)
            slope += torch.autograd.grad(share, token)[0]
            found.append({task: loss.detach() for task, loss in losses.items()})
        return slope, means({task: torch.cat([part[task] for part in found], 1) for task in found[0]})

    def _draw(
        self,
        rows: Tensor,
        draws: int,
        seed: int,
        other_actions: Tensor | None = None,
        other_states: Tensor | None = None,
    ) -> _Draws:
        """Drawn on the CPU, so that every device sees the same, and then where the experiences are."""
        generator = torch.Generator().manual_seed(seed)
        repeated = rows.repeat_interleave(draws)
        time = flow.sample_time(len(repeated), generator).to(self.device)
        state, outcome = torch.empty(len(repeated), *self._state.shape[1:]), _shapes(self._experience, len(repeated))
        noise = self._model.draw_noise(state, outcome, self.weights, generator)
        noise = {task: value.to(self.device) for task, value in noise.items()}
        commands, states = (
            repeated if other is None else other.repeat_interleave(draws) for other in (other_actions, other_states)
        )
        here = self.device
        return _Draws(repeated.to(here), commands.to(here), states.to(here), noise, time)

    def _passes(self, many: Tensor, draws: _Draws, at_once: int) -> Iterator[dict[str, Tensor]]:
        """Losses (K, R) of K tokens (K, n, W) on R draws, some draws after the others, `at_once` rows at most in one
        pass; what does not depend on the token is copied once for all that meet the same draws."""
        for part in torch.arange(len(draws.rows), device=self.device).split(at_once):
            group = min(len(many), at_once // len(part))
            draw = part.repeat(group)
            row = draws.rows[draw]
            cache, state = self._cache.rows(row), self._state[draws.states[draw]]
            experience = replace(self._experience[row], actions=self._experience.actions[draws.commands[draw]])
            found: dict[str, list[Tensor]] = {task: [] for task in draws.noise}
            for some in many.split(group):
                these = slice(len(some) * len(part))
                of_some = self._model.alignment_losses(
                    cache.rows(these),
                    state[these],
                    experience[these],
                    {task: value[draw[these]] for task, value in draws.noise.items()},
                    draws.time[draw[these]],
                    some.repeat_interleave(len(part), 0),
                )
                for task, loss in of_some.items():
                    found[task].append(loss.view(len(some), len(part)))
            del cache, state, experience  # before those of the next pass are there
            yield {task: torch.cat(losses) for task, losses in found.items()}

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

    def since(self, row: int) -> ExperienceLosses:
        """Of the experiences from a row on; nothing is computed anew, or copied."""
        other, newest = copy.copy(self), slice(row, None)
        other._cache, other._state = self._cache.rows(newest), self._state[newest]
        other._experience = self._experience[newest]
        return other

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The tasks' losses, each times its lambda, added up."""
        return torch.stack([self.weights.of(task) * loss for task, loss in losses.items()]).sum(0)


@dataclass(frozen=True)
class _Draws:
    """R draws: the row of the experience, of its commands and of its state (R,), by task its noise (R, ...), and t
    (R,)."""

    rows: Tensor
    commands: Tensor
    states: Tensor
    noise: dict[str, Tensor]
    time: Tensor


def prefix_batch(model: Pi0) -> int:
    """Experiences whose prefixes are computed together: fixed for a model, so that live and offline alignment compute
    the same bits; of a large one only as many as memory is meant to hold."""
    a = model.architecture
    tokens = len(a.cameras) * (a.vision.image_size // a.vision.patch_size) ** 2 + a.max_token_len
    each = tokens * a.vlm.mlp_dim * model.embed_tokens.weight.element_size()
    return max(1, min(PREFIX_BATCH, PREFIX_BYTES // each))


def _shapes(experience: ExperienceInput, rows: int) -> ExperienceInput:
    """Of so many rows, on the CPU."""
    whole = (getattr(experience, field.name) for field in fields(experience))
    return ExperienceInput(*(torch.empty(rows, *tensor.shape[1:]) for tensor in whole))


def weights_of(params: AlignParams) -> LossWeights:
    """The lambdas."""
    return LossWeights(params.lambda_perc, params.lambda_dyn, params.lambda_inv)


def means(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean loss of each task."""
    return {task: float(loss.detach().mean()) for task, loss in losses.items()}
