"""What the alignment benchmarks share: one arm's experience, alignment, labels and success, and a pool of processes.

Before is the token that a fresh install loads. Test arms (`families.units`) were never seen in training or validation.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.alignment import attempt
from vla_align_ros.alignment.align import limits_of
from vla_align_ros.alignment.losses import ExperienceLosses, weights_of
from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.alignment.split import Split, split, split_by_episode
from vla_align_ros.alignment.step import Proposal, propose
from vla_align_ros.experience.builder import without_held
from vla_align_ros.params import AlignParams, PolicyParams
from vla_align_ros.policy import Policy, flow, load_policy
from vla_align_ros.policy.load import Device
from vla_align_ros.types import Experience, Observation
from vla_align_ros.zoo import find_model

TEST_SEED = 900_000  # training draws its arms from 101 on, validation from 50001
LABELS, LABEL_STEPS, LABEL_BATCH, LABEL_DRAWS = 256, 100, 32, 2

Result = TypeVar("Result")


def each_arm(
    work: Callable[..., Result], model: str, arguments: Sequence[tuple[Any, ...]], jobs: int, device: Device
) -> Iterator[Result]:
    """`work(policy, *arguments)` for each, in order, in `jobs` processes of one thread."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _load, (model, device)) as pool:
        yield from pool.map(_work, [(work, item) for item in arguments])


_policies: list[Policy] = []  # of a worker process: the one that it has loaded


def _load(model: str, device: Device) -> None:
    torch.set_num_threads(1)
    _policies.append(load_policy(find_model(model), device))


def _work(item: tuple[Callable[..., Result], tuple[Any, ...]]) -> Result:
    work, arguments = item
    return work(_policies[0], *arguments)


def shipped_token(policy: Policy) -> Tensor:
    """The token that a fresh install loads."""
    token = policy.initial_token()
    assert token is not None
    return token


def recommended(policy: Policy, **changes: Any) -> AlignParams:
    """AlignParams as the model recommends them."""
    return PolicyParams.from_mapping({**asdict(policy.config.recommended), **changes}).align


@dataclass(frozen=True)
class Alignment:
    """One attempt: its report, the mean of the best known tokens, what it would have used without a guard, and
    what was used."""

    report: AlignReport
    best_known: Tensor
    proposed: Tensor
    used: Tensor


def aligned(policy: Policy, token: Tensor, experiences: list[Experience], params: AlignParams, seed: int) -> Alignment:
    """Attempt an alignment from `token`; where it ended early, what it would have proposed all the same."""
    found = attempt(policy, token, experiences, params, seed=seed)
    used, proposal = token if found.token is None else found.token, found.proposal
    if proposal is None:
        learn, _ = split_by_episode(without_held(experiences, policy.config.robot))
        if not learn:
            return Alignment(found.report, token, token, used)
        proposal = without_guard(policy, learn, params, token, seed)
    return Alignment(found.report, proposal.best_known, proposal.token, used)


def without_guard(
    policy: Policy, learn: Sequence[Experience], params: AlignParams, token: Tensor, seed: int
) -> Proposal:
    """What an alignment proposes from `token`, whatever a guard would say."""
    losses = losses_of(policy, learn, params)
    return propose(policy, losses, torch.arange(len(losses)), token, params, seed)


def split_of(policy: Policy, experiences: Sequence[Experience], params: AlignParams) -> Split:
    """As an alignment splits it."""
    return split(experiences, policy.config.robot, limits_of(policy, params)["joint_strays"])


def losses_of(policy: Policy, experiences: Sequence[Experience], params: AlignParams) -> ExperienceLosses:
    """With the lambdas of `params`."""
    return ExperienceLosses(policy, experiences, weights_of(params))


LabelLoss = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def imitation_loss(policy: Policy, observations: Sequence[Observation], wanted: NDArray[Any]) -> LabelLoss:
    """L_action of a token on some of the observations, each with the chunk (H, A) that is wanted there, in ROS's
    units."""
    actions = policy.robot.prepare_actions(wanted, policy.device)
    inputs = policy.prepare(observations)
    with torch.no_grad():
        cache = policy.model.prefix_cache(inputs)
    dims = torch.arange(actions.shape[-1], device=policy.device) < wanted.shape[-1]

    def loss(token: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
        many = rows.repeat_interleave(LABEL_DRAWS)
        noise = torch.randn(len(many), *actions.shape[1:], generator=generator).to(policy.device)
        time = flow.sample_time(len(many), generator).to(policy.device)
        tokens = token.expand(len(many), -1, -1)
        found = policy.model.action_loss(cache.rows(many), inputs.state[many], actions[many], noise, time, dims, tokens)
        return found.mean()

    return loss


def tuned(policy: Policy, loss: LabelLoss, labels: int, starts: Sequence[Tensor], seed: int) -> Tensor:
    """The token that a loss over `labels` observations leads to: from the best of bank and `starts`, by gradient."""
    candidates = [*starts, *(policy.e_0 + policy.alignment.bank)]
    few = torch.arange(min(12, labels))
    with torch.no_grad():
        first = [float(loss(t, few, torch.Generator().manual_seed(0))) for t in candidates]
        finalists = [candidates[index] for index in np.argsort(first)[:8]]
        scores = [float(loss(t, torch.arange(labels), torch.Generator().manual_seed(0))) for t in finalists]
    token = finalists[int(np.argmin(scores))].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([token], 0.03)
    generator = torch.Generator().manual_seed(seed)
    for step in range(LABEL_STEPS):
        optimizer.param_groups[0]["lr"] = 0.03 * (1.0 - step / LABEL_STEPS)
        rows = torch.randperm(labels, generator=generator)[:LABEL_BATCH]
        (token.grad,) = torch.autograd.grad(loss(token, rows, generator), token)
        optimizer.step()
    return token.detach()


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean and 95 % bootstrap interval over arms."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (4000, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def worse(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> bool:
    """Whether the 95 % interval of the paired difference of one arm's episodes lies below 0."""
    difference = after.astype(float) - before.astype(float)
    return bool(difference.mean() + 1.96 * difference.std(ddof=1) / len(difference) ** 0.5 < 0)
