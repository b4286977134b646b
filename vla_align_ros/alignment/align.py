"""`align()`: one guarded update of the E-Token from experience. Everything else in the network stays frozen.

leave out where a joint was held -> split by time -> skip if usual -> pick from the bank -> gradient steps on a shadow
copy -> judge -> save -> use
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.alignment import experience_check, guard, one_robot
from vla_align_ros.alignment.guard import Evidence
from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.pick import Pick, pick
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.report import AlignReport, StepCurve
from vla_align_ros.checkpoint.manifest import Provenance, StoreError
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.experience.builder import joint_held
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.types import Experience

JUDGE_SHARE = 0.25
JUDGE_DRAWS, EVERYWHERE_DRAWS = 8, 2
NEARLY = 1.7  # times the best token's loss: a running token that has less fits nearly as well
BACKTRACK = (1.0, 0.5)  # shares of a step that are tried in turn
ROWS_AT_ONCE = 32  # in one backward pass: bounds the memory, whatever align_batch_size is


class OnStep(Protocol):
    """Called after each gradient step, from the thread that aligns."""

    def __call__(self, step: int, curve: StepCurve) -> None: ...


def align(
    policy: Policy,
    experiences: Sequence[Experience],
    params: AlignParams,
    *,
    store: TokenStore | None = None,
    exploration_fraction: float = 0.0,
    on_step: OnStep | None = None,
    seed: int = 0,
) -> AlignReport:
    """Update `policy`'s E-Token from experiences in order of time, or leave it bit for bit as it was.

    Uses the newest `params.align_max_experiences`. A kept token is written to `store` (durable) before it is used.
    Raises PolicyError when the model cannot align; everything about the experience is a reason in the report.
    """
    started = time.monotonic()
    used = list(experiences)[-params.align_max_experiences :]
    stats, token = policy.stats, policy.token
    if stats is None or token is None or policy.align_problem:
        raise PolicyError(policy.align_problem)
    learn, judged = split_by_episode(that_moved(policy, used))
    report = AlignReport(
        accepted=False,
        reason=Reason.TOO_LITTLE_EXPERIENCE,
        detail="",
        learned_from=len(learn),
        judged_by=len(judged),
        episodes=len({item.episode for item in used}),
        first_stamp_ns=used[0].observation.stamp_ns if used else 0,
        last_stamp_ns=used[-1].next_observation.stamp_ns if used else 0,
        exploration_fraction=exploration_fraction,
        duration_s=0.0,
    )

    def ended(verdict: Verdict, report: AlignReport) -> AlignReport:
        kept = verdict.reason is Reason.KEPT
        seconds = time.monotonic() - started
        return replace(report, accepted=kept, reason=verdict.reason, detail=verdict.detail, duration_s=seconds)

    refused = experience_check.check_request(policy, used, learn, judged, params)
    if refused is not None:
        return ended(refused, report)
    losses = ExperienceLosses(policy, [*learn, *judged], _weights(params))
    learn_rows, judge_rows = torch.arange(len(learn)), torch.arange(len(learn), len(losses))
    with torch.no_grad():
        before = losses(token, judge_rows, JUDGE_DRAWS, seed + 1)
    report = replace(report, before=_means(before))
    usual = guard.within_usual(before, stats)
    if usual is not None:
        return ended(usual, report)
    picked = first_step(policy, losses, learn_rows, token, seed)
    report = replace(report, picked_row=None if picked.index == 0 else picked.index - 2)
    try:
        stepped, curve = descend(policy, losses, learn_rows, picked.token, params, seed, on_step)
    except FloatingPointError as error:
        return ended(Verdict(Reason.NON_FINITE, str(error)), report)
    start, shadow = (half_way(policy, picked, token, found) for found in (picked.token, stepped))
    with torch.no_grad():
        at_pick, at_shadow = (losses(value, judge_rows, JUDGE_DRAWS, seed + 1) for value in (start, shadow))
        after = at_shadow if shadow is stepped else losses(stepped, judge_rows, JUDGE_DRAWS, seed + 1)
    report = replace(report, picked=_means(at_pick), after=_means(at_shadow), curve=tuple(curve))
    everything = [*learn, *judged]
    tokens = {"before": token, "after": stepped}
    everywhere = {stage: losses_everywhere(losses, value, seed + 1) for stage, value in tokens.items()}
    swapped = with_actions(policy, losses, everything, stepped, everywhere["after"], seed + 1)
    parts = one_robot.parts_of(everything)
    one_over_two = one_robot.one_over_two(picked.losses, one_robot.parts_of(learn))
    evidence = Evidence(before, after, swapped, everywhere, parts, one_over_two, shadow, policy.e_0)
    verdict = guard.judge(evidence, stats)
    if verdict.reason is not Reason.KEPT:
        return ended(verdict, report)
    if store is not None:
        try:
            version = store.save(shadow.cpu().numpy(), provenance(policy, "align", params, report))
        except StoreError as error:
            return ended(Verdict(Reason.NOT_DURABLE, str(error)), report)
        report = replace(report, token_version=version.name)
    policy.swap_token(shadow)
    return ended(verdict, report)


def that_moved(policy: Policy, experiences: Sequence[Experience]) -> list[Experience]:
    """Without those where a joint was held, which the builder leaves out; experience may come from elsewhere."""
    robot = policy.config.robot
    return [item for item in experiences if not joint_held(item, robot.action, robot.period_ns)]


def split_by_episode(experiences: Sequence[Experience]) -> tuple[list[Experience], list[Experience]]:
    """An earlier part to learn from and a later one to judge by: about the last quarter, cut at an episode's border
    where one lies in the later half. Experiences that reach over the cut in time belong to neither."""
    count = len(experiences)
    if count < 2:
        return list(experiences), []
    wanted = count - max(1, round(count * JUDGE_SHARE))
    borders = [i for i in range(count // 2, count) if i and experiences[i].episode != experiences[i - 1].episode]
    cut = min(borders, key=lambda border: abs(border - wanted), default=wanted)
    judged = list(experiences[cut:])
    learn = [item for item in experiences[:cut] if item.next_observation.stamp_ns <= judged[0].observation.stamp_ns]
    return learn, judged


def descend(
    policy: Policy,
    losses: ExperienceLosses,
    rows: Tensor,
    start: Tensor,
    params: AlignParams,
    seed: int,
    on_step: OnStep | None = None,
) -> tuple[Tensor, list[StepCurve]]:
    """Gradient steps on a shadow copy of the token (n, W): E <- E - align_learning_rate * M g.

    M = learned_step[1].T @ learned_step[0] is of the end of training (`training/learned_step.py`): the plain gradient
    hardly points to where an arm acts better. A rate of 1 goes all the way that one gradient tells. A step after which
    the weighted loss is higher is halved, or not taken. Raises FloatingPointError at the first gradient or loss that
    is not finite.
    """
    assert policy.learned_step is not None
    reads, moves = policy.learned_step
    rate, shadow = params.align_learning_rate, within_radius(policy, start)
    generator = torch.Generator().manual_seed(seed)
    curve = []
    for step in range(params.align_steps):
        batch = rows[torch.randperm(len(rows), generator=generator)[: params.align_batch_size]]
        found, means = gradient(losses, shadow, batch, params.align_draws, seed * 1009 + step + 1)
        here = mean_loss(losses, shadow, batch, seed)
        if not bool(torch.isfinite(found).all()) or not math.isfinite(here):
            raise FloatingPointError(f"the gradient is not finite at step {step}")
        direction, taken = (moves.T @ (reads @ found.flatten())).view_as(shadow), 0.0
        for share in BACKTRACK:
            stepped = within_radius(policy, shadow - share * rate * direction)
            there = mean_loss(losses, stepped, batch, seed)
            if not math.isfinite(there):
                raise FloatingPointError(f"the loss is not finite after step {step}")
            if there <= here:
                shadow, taken = stepped, share * rate
                break
        curve.append(StepCurve(means, float(found.norm()), float(shadow.norm()), taken))
        if on_step is not None:
            on_step(step, curve[-1])
    return shadow, curve


@torch.no_grad()
def mean_loss(losses: ExperienceLosses, token: Tensor, rows: Tensor, seed: int) -> float:
    """The weighted loss of a token on `rows`, one draw of (t, noise) each."""
    return float(losses.weighted(losses(token, rows, 1, seed)).mean())


def half_way(policy: Policy, picked: Pick, running: Tensor, token: Tensor) -> Tensor:
    """From the running token to another one: all the way, or half of it where the running one fits nearly as well. Each
    token has oddities of its own; between two that both fit an arm acts better than with a worse guess of the two."""
    return within_radius(policy, (running + token) / 2) if picked.first_over_best < NEARLY else token


def within_radius(policy: Policy, token: Tensor) -> Tensor:
    """A token (n, W), or the nearest one that is no farther from E_0 than the guard allows."""
    assert policy.stats is not None
    offset, radius = token - policy.e_0, policy.stats.token_distance_max * guard.DISTANCE_SLACK
    inside: Tensor = policy.e_0 + offset * (radius / offset.norm().clamp(min=1e-12)).clamp(max=1.0)
    return inside


def gradient(
    losses: ExperienceLosses, token: Tensor, rows: Tensor, draws: int, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Gradient (n, W) of the mean weighted loss on `rows` at a token, and the mean loss of each task, with `draws` of
    (t, noise) for each row, by `seed`."""
    token, slope, found = token.detach().requires_grad_(True), torch.zeros_like(token), []
    for index, part in enumerate(rows.split(ROWS_AT_ONCE)):
        found.append(losses(token, part, draws, seed * 1009 + index))
        slope += torch.autograd.grad(losses.weighted(found[-1]).sum() / len(rows), token)[0]
    return slope, _means({task: torch.cat([part[task].detach() for part in found]) for task in found[0]})


@torch.no_grad()
def with_actions(
    policy: Policy,
    losses: ExperienceLosses,
    experiences: Sequence[Experience],
    token: Tensor,
    everywhere: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Inverse-dynamics loss (2, M) with the true actions and with those of another experience, by which: `shuffled` is
    half-way through all, `next` and `last` about half a horizon later and earlier in the same episode.

    everywhere: `losses_everywhere` of the same token and seed. All experience is asked: whether actions fit frames is
    no question of what was learned, and many tell more than the few that judge. Empty without inverse dynamics; a
    neighbour is absent where fewer than LEAST_TO_JUDGE have one.
    """
    found: dict[str, Tensor] = {}
    if losses.weights.lambda_inv == 0:
        return found
    rows = torch.arange(len(experiences))
    losses = losses.without_dynamics()
    others = {
        "shuffled": rows.roll(len(rows) // 2),
        "next": neighbours(experiences, policy.config.robot.period_ns, 1),
        "last": neighbours(experiences, policy.config.robot.period_ns, -1),
    }
    for which, other in others.items():
        has = other >= 0
        if int(has.sum()) >= experience_check.LEAST_TO_JUDGE:
            swapped = torch.where(has, other, rows)
            loss = losses(token, rows, EVERYWHERE_DRAWS, seed, other_actions=swapped)["inverse_dynamics"]
            found[which] = torch.stack([everywhere["inverse_dynamics"], loss])[:, has]
    return found


@torch.no_grad()
def losses_everywhere(losses: ExperienceLosses, token: Tensor, seed: int) -> dict[str, Tensor]:
    """Losses of a token on all experiences, (N,) by task, without dynamics."""
    return losses.without_dynamics()(token, torch.arange(len(losses)), EVERYWHERE_DRAWS, seed)


def neighbours(experiences: Sequence[Experience], period_ns: int, direction: Literal[1, -1]) -> Tensor:
    """Row of the experience that starts closest to half a horizon later (direction 1) or earlier, (N,); -1 where none
    of the same episode starts between a quarter of a horizon and a whole one away."""
    start_ns = np.array([item.observation.stamp_ns for item in experiences])
    episode = np.array([item.episode for item in experiences])
    horizon = len(experiences[0].commands)
    ticks = direction * (start_ns[None] - start_ns[:, None]) / period_ns  # (N, N): how much later the column starts
    off = np.abs(ticks - horizon / 2)
    off[(episode[None] != episode[:, None]) | (ticks < horizon / 4) | (ticks > horizon)] = np.inf
    return torch.from_numpy(np.where(np.isfinite(off.min(1)), off.argmin(1), -1))


def provenance(
    policy: Policy,
    reason: Literal["initial", "align"],
    params: AlignParams | None = None,
    report: AlignReport | None = None,
) -> Provenance:
    """What the store writes beside a token of this policy."""
    experience: dict[str, Any] = {}
    if report is not None:
        names = ("learned_from", "judged_by", "episodes", "first_stamp_ns", "last_stamp_ns", "exploration_fraction")
        experience = {name: getattr(report, name) for name in names}
    return Provenance(
        model_name=policy.config.name,
        base_weights_sha256=policy.weights_sha256,
        norm_stats_sha256=policy.robot.norm_stats_sha256,
        joint_names=policy.config.robot.joint_names,
        cameras=policy.config.architecture.cameras,
        reason=reason,
        parameters=asdict(params) if params is not None else {},
        experience=experience,
        losses_before=dict(report.before) if report is not None else {},
        losses_after=dict(report.after) if report is not None else {},
    )


def _weights(params: AlignParams) -> LossWeights:
    return LossWeights(params.lambda_perc, params.lambda_dyn, params.lambda_inv)


def first_step(policy: Policy, losses: ExperienceLosses, rows: Tensor, token: Tensor, seed: int) -> Pick:
    """The pick among the running token (index 0), E_0 (1) and the bank (from 2 on), without dynamics. Where nothing is
    better than the running token the start is that token alone."""
    assert policy.bank is not None
    candidates = torch.cat([torch.stack([token, policy.e_0]), policy.e_0 + policy.bank])
    picked = pick(losses.without_dynamics(), rows, candidates, seed + 2)
    alone = torch.equal(candidates[picked.index], token)  # a fresh install's is in the bank, too
    return replace(picked, index=0, token=token) if alone else picked


def _means(losses: dict[str, Tensor]) -> dict[str, float]:
    return {task: float(loss.detach().mean()) for task, loss in losses.items()}


__all__ = [
    "OnStep",
    "align",
    "descend",
    "first_step",
    "gradient",
    "losses_everywhere",
    "provenance",
    "split_by_episode",
    "that_moved",
    "with_actions",
]
