"""How good a policy is on any bench: episodes until they are over, and its actions beside the expert's.

run(episodes, acting(policy, tokens, seed), execute)        # or expert(horizon)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.bench.port import Arms, Bench, Embodiment, Episodes, FloatArray
from vla_align_ros.bench.sampling import begin, draw_noise, sample_chunks
from vla_align_ros.policy import Policy
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.types import Float32Array

Act = Callable[[Episodes, NDArray[np.intp]], FloatArray | Float32Array]
"""Arms that are still at work, and which rows they are -> chunks (n, H, A)."""
_Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def run(episodes: Episodes, act: Act, execute_ticks: int) -> NDArray[np.bool_]:
    """Let `act` work until each episode is over, `execute_ticks` of each chunk before the next; returns `succeeded`."""
    while not episodes.over.all():
        rows, going = episodes.at_work()
        going.execute(act(going, rows)[:, :execute_ticks])
    return episodes.succeeded


def expert(horizon: int) -> Act:
    """The one that knows each arm."""
    return lambda going, _rows: going.expert_chunks(horizon)


def acting(policy: Policy, tokens: Tensor, seed: int) -> Act:
    """The policy, row i with tokens[i]. An arm's sampling noise depends on seed, step and row alone, so that runs with
    other tokens are paired."""
    steps = count()

    def act(going: Episodes, rows: NDArray[np.intp]) -> Float32Array:
        mine = torch.from_numpy(rows)
        noise = draw_noise(policy, len(tokens), seed_of(seed, Part.ACTING, next(steps)))
        return sample_chunks(policy, going.observe(), tokens[mine], noise[mine])

    return act


def finished(policy: Policy, bench: Bench[Embodiment], arms: Arms[Embodiment], tokens: Tensor, seed: int) -> Episodes:
    """One episode an arm, arm i with tokens[i], at its end: who has succeeded, and how far each is from its target.

    The same seed gives the same tables, poses and noise, so that runs are paired.
    """
    episodes = begin(policy, bench, arms, seed)
    run(episodes, acting(policy, tokens, seed), policy.config.robot.execute)
    return episodes


def action_error(
    policy: Policy,
    bench: Bench[Embodiment],
    arms: Arms[Embodiment],
    tokens: Tensor,
    seed: int,
    samples: int = 64,
    num_steps: int | None = None,
) -> FloatArray:
    """Mean squared error of sampled chunks against the expert's, over that of standing still, one number an arm.

    samples: observations of each arm, at the start of as many episodes.
    """
    rows = np.repeat(np.arange(len(arms)), samples)
    batch = begin(policy, bench, [arms[row] for row in rows.tolist()], seed)
    wanted, observations = batch.expert_chunks(policy.model.architecture.action_horizon), batch.observe()
    noise = draw_noise(policy, len(rows), seed)
    got = sample_chunks(policy, observations, tokens[torch.from_numpy(rows)], noise, num_steps)
    measured = bench.robot.measured(np.stack([item.state for item in observations]))
    still = np.where(bench.robot.kinds == "position", measured, 0.0)[:, None]
    squared, power = (
        ((chunks - wanted) ** 2).reshape(len(arms), -1).mean(1) for chunks in (got, np.broadcast_to(still, got.shape))
    )
    error: FloatArray = squared / power
    return error


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a rate: honest at 0, at 1 and for few trials. ValueError without trials."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"expected 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    rate, weight = successes / trials, _Z95**2 / trials
    centre = (rate + weight / 2) / (1 + weight)
    half = _Z95 * math.sqrt(rate * (1 - rate) / trials + weight / (4 * trials)) / (1 + weight)
    return max(0.0, centre - half), min(1.0, centre + half)
