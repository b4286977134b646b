"""`align()`: one guarded update of the E-Token from experience. Everything else in the network stays frozen.

attempt   leave out and split by time (`split.py`) -> check (`experience_check.py`) -> propose (`step.py`); where the
          robot changed (`change.py`), from what came after that alone -> collect (`evidence.py`) -> judge (`guard.py`)
          by the model's limits; changes nothing
commit    save -> use
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vla_align_ros.action.excitation import count_excited
from vla_align_ros.alignment import experience_check, guard
from vla_align_ros.alignment.change import find_change
from vla_align_ros.alignment.diagnosis import diagnose
from vla_align_ros.alignment.evidence import collect, on_later
from vla_align_ros.alignment.losses import ExperienceLosses, means, weights_of
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.report import AlignReport
from vla_align_ros.alignment.split import Split, split, split_rows
from vla_align_ros.alignment.step import OnStep, Proposal, propose
from vla_align_ros.checkpoint.manifest import Provenance, StoreError
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.checkpoint.version import TokenVersion
from vla_align_ros.limits import BY_NAME
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy, PolicyError
from vla_align_ros.policy.streams import LAST, own_stream
from vla_align_ros.seeds import Part, seed_of
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
    excited_ns: Sequence[tuple[int, int]] = (),
    on_step: OnStep | None = None,
    seed: int = 0,
) -> AlignReport:
    """Update `policy`'s E-Token from experiences in order of time, or leave it bit for bit as it was.

    Uses the newest `params.align_max_experiences`. A kept token is written to `store` (durable) before it is used.
    excited_ns: when the robot was being excited, (from, until).
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
        excited_ns=excited_ns,
        on_step=on_step,
        seed=seed,
    )
    report, _ = commit(policy, found, params, store)
    return report


def attempt(
    policy: Policy,
    running: Tensor,
    experiences: Sequence[Experience],
    params: AlignParams,
    *,
    exploration_fraction: float = 0.0,
    excited_ns: Sequence[tuple[int, int]] = (),
    on_step: OnStep | None = None,
    seed: int = 0,
) -> Attempt:
    """Propose a token from the running one (n, W) and judge it. Changes nothing: the same arguments give the same
    attempt. Raises PolicyError when the model cannot align."""
    started, limits = time.monotonic(), limits_of(policy, params)
    used = list(experiences)[-params.align_max_experiences :]
    parts = split(used, policy.config.robot, limits["joint_strays"])
    report = _report_of(used, parts, limits, exploration_fraction, count_excited(used, excited_ns))
    proposal: Proposal | None = None
    verdict = experience_check.check_request(policy, used, parts, params, limits)
    if verdict is None or verdict.reason not in (Reason.MALFORMED, Reason.NON_FINITE):
        report = replace(report, diagnosis=diagnose(used, policy.config.robot))
    if verdict is None:
        with own_stream(policy.device, LAST):
            verdict, report, proposal = _propose_and_judge(policy, running, parts, params, report, on_step, seed)
    report = replace(
        report,
        accepted=verdict.reason is Reason.KEPT,
        reason=verdict.reason,
        detail=verdict.detail,
        duration_s=time.monotonic() - started,
    )
    return Attempt(report, proposal.token if report.accepted and proposal is not None else None, proposal)


def _propose_and_judge(
    policy: Policy,
    running: Tensor,
    parts: Split,
    params: AlignParams,
    report: AlignReport,
    on_step: OnStep | None,
    seed: int,
) -> tuple[Verdict, AlignReport, Proposal | None]:
    """What needs the network."""
    everything, weights = [*parts.learn, *parts.judged], weights_of(params)
    losses = ExperienceLosses(policy, everything, weights)
    learn_rows, judge_rows = torch.arange(len(losses)).split([len(parts.learn), len(parts.judged)])
    try:
        proposal = propose(policy, losses, learn_rows, running, params, seed, on_step)
        change = find_change(losses, running, proposal.token, seed_of(seed, Part.CHANGE))
        report = replace(report, statistics={**report.statistics, "robot_changed": change.rise})
        if BY_NAME["robot_changed"].beyond(change.rise, report.limits["robot_changed"]):
            everything, losses = everything[change.row :], losses.since(change.row)
            learn_rows, judge_rows = map(torch.tensor, split_rows(everything))
            report = _since_change(policy, report, everything, len(learn_rows), len(judge_rows))
            refused = experience_check.too_little(report.learned_from, report.judged_by, report.limits)
            if refused is not None:
                return refused, report, None
            proposal = propose(policy, losses, learn_rows, running, params, seed, on_step)
    except FloatingPointError as error:
        return Verdict(Reason.NON_FINITE, str(error)), report, None
    before = on_later(losses, running, judge_rows, seed_of(seed, Part.JUDGING))
    evidence = collect(policy, losses, everything, judge_rows, before, proposal, seed_of(seed, Part.JUDGING))
    report = replace(
        report,
        before=means(before),
        best_known_name=proposal.best_known_name,
        best_known=means(evidence.best_known),
        after=means(evidence.after),
        curve=proposal.curve,
        statistics={**report.statistics, **guard.statistics(evidence, weights)},
    )
    return guard.judge(evidence, weights, report.limits), report, proposal


def _since_change(
    policy: Policy, report: AlignReport, newest: Sequence[Experience], learned: int, judged: int
) -> AlignReport:
    """What it says where only the newest experience is used, since the robot changed before that."""
    usable = report.learned_from + report.judged_by
    return replace(
        report,
        learned_from=learned,
        judged_by=judged,
        episodes=len({item.episode for item in newest}),
        before_change=usable - len(newest),
        changed_ns=newest[0].observation.stamp_ns,
        diagnosis=diagnose(newest, policy.config.robot),
        statistics={**report.statistics, "too_little_experience": float(learned + judged)},
    )


def limits_of(policy: Policy, params: AlignParams) -> dict[str, float]:
    """The limit of each check, by name: the user's (`guard.*`), or the model's own. Raises PolicyError when the model
    cannot align."""
    wanted = params.guard.to_mapping()
    return {name: float(wanted[name]) or limit.value for name, limit in policy.alignment.stats.limits.items()}


def _report_of(
    used: Sequence[Experience], parts: Split, limits: dict[str, float], exploration_fraction: float, excited: int
) -> AlignReport:
    """What can be said before anything is looked at."""
    return AlignReport(
        accepted=False,
        reason=Reason.TOO_LITTLE_EXPERIENCE,
        detail="",
        learned_from=len(parts.learn),
        judged_by=len(parts.judged),
        left_out=parts.left_out,
        episodes=len({item.episode for item in used}),
        first_stamp_ns=used[0].observation.stamp_ns if used else 0,
        last_stamp_ns=used[-1].next_observation.stamp_ns if used else 0,
        exploration_fraction=exploration_fraction,
        duration_s=0.0,
        excited=excited,
        stamps_ns=tuple(item.observation.stamp_ns for item in used),
        statistics=experience_check.statistics(parts),
        limits=limits,
    )


def commit(
    policy: Policy, attempt: Attempt, params: AlignParams, store: TokenStore | None
) -> tuple[AlignReport, TokenVersion | None]:
    """Write an accepted attempt's token to `store` (durable), then use it. The report of what was done: NOT_DURABLE,
    and nothing changed, where it could not be written. The version that was written, where one was. A refused attempt
    changes nothing."""
    started, report, version = time.monotonic(), attempt.report, None
    if attempt.token is None:
        return report, None
    if store is not None:
        try:
            version = store.save(attempt.token.cpu().numpy(), provenance(policy, "align", params, report))
        except StoreError as error:
            return replace(report, accepted=False, reason=Reason.NOT_DURABLE, detail=str(error)), None
        report = replace(report, token_version=version.name)
    policy.swap_token(attempt.token)
    return replace(report, duration_s=report.duration_s + time.monotonic() - started), version


def provenance(
    policy: Policy,
    reason: Literal["initial", "align"],
    params: AlignParams | None = None,
    report: AlignReport | None = None,
) -> Provenance:
    """What the store writes beside a token of this policy."""
    experience: dict[str, Any] = {}
    if report is not None:
        names = ("learned_from", "judged_by", "episodes", "last_stamp_ns", "exploration_fraction", "excited")
        experience = {name: getattr(report, name) for name in names}
        experience["first_stamp_ns"] = report.changed_ns or report.first_stamp_ns
    return Provenance(
        model_name=policy.config.name,
        base_weights_sha256=policy.weights_sha256,
        norm_stats_sha256=policy.robot.norm_stats_sha256,
        state_fields=policy.config.robot.state_labels,
        action_fields=policy.config.robot.action_labels,
        cameras=policy.config.architecture.cameras,
        reason=reason,
        parameters={} if params is None else {**params.to_mapping()},
        experience=experience,
        losses_before=dict(report.before) if report is not None else {},
        losses_after=dict(report.after) if report is not None else {},
    )
