"""`align()`: one guarded update of the E-Token from experience. Everything else in the network stays frozen.

attempt   leave out and split by time (`split.py`) -> check (`experience_check.py`) -> skip if usual -> propose
          (`step.py`) -> collect (`evidence.py`) -> judge (`guard.py`); changes nothing
commit    save -> use
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vla_align_ros.alignment import experience_check, guard
from vla_align_ros.alignment.diagnosis import diagnose
from vla_align_ros.alignment.evidence import collect, on_later
from vla_align_ros.alignment.losses import ExperienceLosses, means, weights_of
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.alignment.rules import RULES, Rules
from vla_align_ros.alignment.split import split
from vla_align_ros.alignment.step import OnStep, Proposal, propose
from vla_align_ros.checkpoint.manifest import Provenance, StoreError
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.types import Experience


@dataclass(frozen=True)
class Attempt:
    """What one alignment came to, before anything was changed.

    report: the verdict with its numbers. token: (n, W) what a commit would use, None where the attempt was refused.
    proposal: what was judged; None where the attempt ended before it proposed anything.
    """

    report: AlignReport
    token: Tensor | None
    proposal: Proposal | None


def align(
    policy: Policy,
    experiences: Sequence[Experience],
    params: AlignParams,
    *,
    store: TokenStore | None = None,
    exploration_fraction: float = 0.0,
    on_step: OnStep | None = None,
    seed: int = 0,
    rules: Rules = RULES,
) -> AlignReport:
    """Update `policy`'s E-Token from experiences in order of time, or leave it bit for bit as it was.

    Uses the newest `params.align_max_experiences`. A kept token is written to `store` (durable) before it is used.
    Raises PolicyError when the model cannot align; everything about the experience is a reason in the report.
    """
    if policy.token is None:
        raise PolicyError(policy.align_problem)
    found = attempt(
        policy,
        policy.token,
        experiences,
        params,
        exploration_fraction=exploration_fraction,
        on_step=on_step,
        seed=seed,
        rules=rules,
    )
    return commit(policy, found, params, store)


def attempt(
    policy: Policy,
    running: Tensor,
    experiences: Sequence[Experience],
    params: AlignParams,
    *,
    exploration_fraction: float = 0.0,
    on_step: OnStep | None = None,
    seed: int = 0,
    rules: Rules = RULES,
) -> Attempt:
    """Propose a token from the running one (n, W) and judge it. Changes nothing: the same arguments give the same
    attempt. Raises PolicyError when the model cannot align."""
    started = time.monotonic()
    stats = policy.alignment.stats
    used = list(experiences)[-params.align_max_experiences :]
    parts = split(used, policy.config.robot)
    learn, judged = parts.learn, parts.judged
    report = AlignReport(
        accepted=False,
        reason=Reason.TOO_LITTLE_EXPERIENCE,
        detail="",
        learned_from=len(learn),
        judged_by=len(judged),
        left_out=parts.left_out,
        episodes=len({item.episode for item in used}),
        first_stamp_ns=used[0].observation.stamp_ns if used else 0,
        last_stamp_ns=used[-1].next_observation.stamp_ns if used else 0,
        exploration_fraction=exploration_fraction,
        duration_s=0.0,
        stamps_ns=tuple(item.observation.stamp_ns for item in used),
    )

    def ended(verdict: Verdict, report: AlignReport, proposal: Proposal | None = None) -> Attempt:
        kept = verdict.reason is Reason.KEPT
        seconds = time.monotonic() - started
        report = replace(report, accepted=kept, reason=verdict.reason, detail=verdict.detail, duration_s=seconds)
        return Attempt(report, proposal.token if kept and proposal is not None else None, proposal)

    refused = experience_check.check_request(policy, used, parts, params)
    if refused is None or refused.reason not in (Reason.MALFORMED, Reason.NON_FINITE):
        report = replace(report, diagnosis=diagnose(used, policy.config.robot))
    if refused is not None:
        return ended(refused, report)
    losses = ExperienceLosses(policy, [*learn, *judged], weights_of(params))
    learn_rows, judge_rows = torch.arange(len(learn)), torch.arange(len(learn), len(losses))
    before = on_later(losses, running, judge_rows, seed + 1)
    report = replace(report, before=means(before))
    usual = guard.within_usual(before, stats)
    if usual is not None:
        return ended(usual, report)
    try:
        proposal = propose(policy, losses, learn_rows, running, params, seed, on_step, rules)
    except FloatingPointError as error:
        return ended(Verdict(Reason.NON_FINITE, str(error)), report)
    without_gradient = on_later(losses, proposal.start, judge_rows, seed + 1)
    evidence = collect(policy, losses, learn, judged, before, proposal, seed + 1)
    report = replace(
        report,
        picked_row=proposal.picked_row,
        picked=means(without_gradient),
        after=means(evidence.used),
        curve=proposal.curve,
    )
    return ended(guard.judge(evidence, stats), report, proposal)


def commit(policy: Policy, attempt: Attempt, params: AlignParams, store: TokenStore | None) -> AlignReport:
    """Write an accepted attempt's token to `store` (durable), then use it. The report of what was done: NOT_DURABLE,
    and nothing changed, where it could not be written. A refused attempt changes nothing."""
    started, report = time.monotonic(), attempt.report
    if attempt.token is None:
        return report
    if store is not None:
        try:
            version = store.save(attempt.token.cpu().numpy(), provenance(policy, "align", params, report))
        except StoreError as error:
            return replace(report, accepted=False, reason=Reason.NOT_DURABLE, detail=str(error))
        report = replace(report, token_version=version.name)
    policy.swap_token(attempt.token)
    return replace(report, duration_s=report.duration_s + time.monotonic() - started)


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
        state_fields=policy.config.robot.state_labels,
        action_fields=policy.config.robot.action_labels,
        cameras=policy.config.architecture.cameras,
        reason=reason,
        parameters=asdict(params) if params is not None else {},
        experience=experience,
        losses_before=dict(report.before) if report is not None else {},
        losses_after=dict(report.after) if report is not None else {},
    )
