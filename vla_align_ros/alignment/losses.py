"""What a token is worth on experience: the three flow-matching losses, and what the policy would do with it. The prefix
is computed once an alignment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, flow
from vla_align_ros.policy.experts import PrefixCache
from vla_align_ros.policy.inputs import ExperienceInput
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.types import Experience

PREFIX_BATCH = 32  # fixed, so that live and offline alignment compute the same bits
AT_ONCE = 64  # rows, each with a copy of its prefix's keys and values: 8 MiB together for models/tiny


class ExperienceLosses:
    """N experiences with their prefix keys and values. The losses of any token on them cost expert passes only."""

    def __init__(self, policy: Policy, experiences: Sequence[Experience], weights: LossWeights) -> None:
        self._model, self.weights = policy.model, weights
        caches, states, parts = [], [], []
        with torch.no_grad():
            for start in range(0, len(experiences), PREFIX_BATCH):
                inputs, part = policy.prepare_experiences(experiences[start : start + PREFIX_BATCH])
                caches.append(self._model.prefix_cache(inputs))
                states.append(inputs.state)
                parts.append(part)
        layers = zip(*[cache.key_values for cache in caches], strict=True)
        key_values = [(torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in layers]
        self._cache = PrefixCache(key_values, torch.cat([cache.pad_masks for cache in caches]))
        self._state = torch.cat(states)
        self._experience = ExperienceInput.joined(parts)

    def __len__(self) -> int:
        return len(self._state)

    @property
    def device(self) -> torch.device:
        return self._state.device

    def __call__(
        self, tokens: Tensor, rows: Tensor, draws: int, seed: int, other_actions: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of each task with weight, (len(rows),), mean over `draws` of (t, noise).

        tokens: (n, W), or (K, n, W) for losses (K, len(rows)) of K tokens at once. The same seed and rows draw the
        same t and noise for every token. other_actions: rows whose commands take the place of the true ones.
        """
        many = tokens if tokens.dim() == 3 else tokens[None]
        generator = torch.Generator().manual_seed(seed)
        repeated = rows.repeat_interleave(draws)
        time = flow.sample_time(len(repeated), generator).to(self.device)
        noise = self._model.draw_noise(
            self._state[repeated].cpu(), _shapes(self._experience[repeated]), self.weights, generator
        )
        noise = {task: value.to(self.device) for task, value in noise.items()}
        commands = repeated if other_actions is None else other_actions.repeat_interleave(draws)
        found: dict[str, list[Tensor]] = {task: [] for task in noise}
        for part in torch.arange(len(many) * len(repeated)).split(AT_ONCE):
            whose, draw = part // len(repeated), part % len(repeated)
            row = repeated[draw]
            experience = replace(self._experience[row], actions=self._experience.actions[commands[draw]])
            of_part = self._model.alignment_losses(
                self._cache.rows(row),
                self._state[row],
                experience,
                {task: value[draw] for task, value in noise.items()},
                time[draw],
                many[whose],
            )
            for task, loss in of_part.items():
                found[task].append(loss)
        means = {task: torch.cat(loss).view(len(many), len(rows), draws).mean(2) for task, loss in found.items()}
        return means if tokens.dim() == 3 else {task: loss[0] for task, loss in means.items()}

    def without_dynamics(self) -> ExperienceLosses:
        """The same experiences without the dynamics task, where inverse dynamics is asked too, which tells more of the
        token: dynamics is nearly half of the work. Not where perception sees the other tasks: then
        it would miss them."""
        assert self._model.architecture.alignment is not None
        mutual = self._model.architecture.alignment.perception_attention == "mutual"
        if self.weights.lambda_inv == 0 or mutual:
            return self
        other = copy.copy(self)
        other.weights = replace(self.weights, lambda_dyn=0.0)
        return other

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The tasks' losses, each times its lambda, added up."""
        return torch.stack([self.weights.of(task) * loss for task, loss in losses.items()]).sum(0)


def _shapes(experience: ExperienceInput) -> ExperienceInput:
    """On the CPU, where the noise is drawn, so that every device sees the same."""
    return ExperienceInput(*(getattr(experience, field.name).cpu() for field in fields(experience)))


def weights_of(params: AlignParams) -> LossWeights:
    """The lambdas."""
    return LossWeights(params.lambda_perc, params.lambda_dyn, params.lambda_inv)


def means(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean loss of each task."""
    return {task: float(loss.detach().mean()) for task, loss in losses.items()}
