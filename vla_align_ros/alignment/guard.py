"""Judges an update of the E-Token. Each check is a small function of one shape and gives a reason to refuse, or None.

The total loss is useless as a judge, since it falls on corrupted experience as well: every loss is judged by itself, on
experience later than what was learned from, with the same t and noise before and after. Judged is the whole step, also
where a part of it is used; with that part dynamics and inverse dynamics must not rise either. Whether actions fit
their frames is asked of all experience, and whether it is of one robot of the earlier part. What can be asked before
anything is computed is in `experience_check.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vla_align_ros.alignment.evidence import Evidence
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.policy.statistics import AlignmentStats

Z_SCORE = 1.64  # standard errors of a mean that count as noise: 95 %, one-sided
ENOUGH = {"perception": 0.5, "dynamics": 0.05, "inverse_dynamics": 0.05}  # share of itself by which a loss must fall
TOO_MUCH = 0.1  # share of itself by which dynamics or inverse dynamics may not rise
OUT_OF_STEP = {"next": 0.2, "last": 0.1}  # share of itself by which a neighbour's actions may lower the loss
WORSE = {"dynamics": Reason.DYNAMICS_WORSE, "inverse_dynamics": Reason.INVERSE_WORSE}


def within_usual(losses: Mapping[str, Tensor], stats: AlignmentStats) -> Verdict | None:
    """Skip when every loss is as low as it usually is after an alignment."""
    means = {task: float(loss.mean()) for task, loss in losses.items()}
    if all(mean <= stats.usual[task] for task, mean in means.items()):
        return Verdict(Reason.ALREADY_ALIGNED, _compare(means, stats.usual))
    return None


def judge(evidence: Evidence, stats: AlignmentStats) -> Verdict:
    """The first reason to refuse, or KEPT."""
    for check in CHECKS:
        verdict = check(evidence, stats)
        if verdict is not None:
            return verdict
    gains = {task: float(evidence.after[task].mean() / evidence.before[task].mean()) for task in evidence.after}
    return Verdict(
        Reason.KEPT, "whole step, after/before: " + ", ".join(f"{task} {ratio:.3f}" for task, ratio in gains.items())
    )


def finite(evidence: Evidence, stats: AlignmentStats) -> Verdict | None:
    """Everything is a number."""
    losses = (evidence.before, evidence.after, evidence.used, evidence.with_actions)
    values = [evidence.token, torch.tensor(evidence.one_over_two or 0.0)]
    values += [value for found in losses for value in found.values()]
    if all(bool(torch.isfinite(value).all()) for value in values):
        return None
    return Verdict(Reason.NON_FINITE, "the token or a loss is NaN or infinite")


def token_near(evidence: Evidence, stats: AlignmentStats) -> Verdict | None:
    """|E - E_0| within what the bank knows: a second lock, since `step.py` keeps to it."""
    distance = float((evidence.token - evidence.e_0).norm())
    if distance <= stats.radius * (1 + 1e-5):
        return None
    return Verdict(Reason.TOKEN_TOO_FAR, f"|E - E_0| is {distance:.3f}, the limit {stats.radius:.3f}")


def of_one_robot(evidence: Evidence, stats: AlignmentStats) -> Verdict | None:
    """Two tokens must not explain the experience far better than one."""
    if evidence.one_over_two is None or evidence.one_over_two <= stats.one_over_two_max:
        return None
    return Verdict(
        Reason.MIXED_EXPERIENCE,
        f"one token for all parts of the experience costs {evidence.one_over_two:.3f} times as much as two, each "
        f"for its own parts, {stats.one_over_two_max:.3f} is the limit",
    )


def under_ceilings(evidence: Evidence, stats: AlignmentStats) -> Verdict | None:
    """Absolute ceilings, beyond the noise of the mean: perception sees camera faults."""
    for task, loss in evidence.after.items():
        mean, error = _mean_and_error(loss)
        if mean - Z_SCORE * error > stats.ceiling[task]:
            return Verdict(
                Reason.OVER_CEILING, f"{task} is {mean:.4f} (error {error:.4f}), its ceiling {stats.ceiling[task]:.4f}"
            )
    return None


def actions_fit(evidence: Evidence, stats: AlignmentStats) -> Verdict | None:
    """The experience's own actions must fit its frames better than shuffled ones, and a neighbour's not far
    better."""
    if "shuffled" not in evidence.with_actions:
        return None
    ratio = shuffle_ratio(evidence.with_actions)
    if not ratio >= stats.shuffle_ratio_min:
        return Verdict(
            Reason.ACTIONS_DO_NOT_FIT,
            f"inverse-dynamics loss with shuffled actions over that with the true ones is {ratio:.3f}, "
            f"at least {stats.shuffle_ratio_min:.3f} is needed",
        )
    for neighbour, share in OUT_OF_STEP.items():
        if neighbour not in evidence.with_actions:
            continue
        true, other = evidence.with_actions[neighbour].mean(1).tolist()
        if other < (1 - share) * true:
            return Verdict(
                Reason.ACTIONS_OUT_OF_STEP,
                f"inverse-dynamics loss is {true:.4f}, with the {neighbour} experience's actions {other:.4f}",
            )
    return None


def shuffle_ratio(losses: Mapping[str, Tensor]) -> float:
    """Inverse-dynamics loss with shuffled actions over that with the true ones. losses: `evidence.with_actions`."""
    true, shuffled = losses["shuffled"].mean(1).tolist()
    return float(shuffled / true)


def better(evidence: Evidence, stats: AlignmentStats) -> Verdict | None:
    """Neither dynamics nor inverse dynamics rises by more than TOO_MUCH of itself, with the token that is used neither,
    and some loss falls by more than ENOUGH of itself; both beyond the noise of the paired difference. Perception does
    not see faulty actions: with other tasks it counts only where inverse dynamics is asked and did not rise."""
    was = {task: float(loss.mean()) for task, loss in evidence.before.items()}
    for losses in (evidence.used, evidence.after):
        gains = {task: _mean_and_error(loss - losses[task]) for task, loss in evidence.before.items()}
        noise = {task: Z_SCORE * error for task, (_, error) in gains.items()}
        words = ", ".join(
            f"{task} fell by {gains[task][0]:.4f} of {was[task]:.4f} (noise {noise[task]:.4f})" for task in was
        )
        for task, reason in WORSE.items():
            if task in gains and gains[task][0] < -max(noise[task], TOO_MUCH * was[task]):
                return Verdict(reason, words)
    judges, inverse = set(gains), gains.get("inverse_dynamics")
    if judges > {"perception"} and (inverse is None or inverse[0] < 0):
        judges.remove("perception")
    if not any(gains[task][0] > max(noise[task], ENOUGH[task] * was[task]) for task in judges):
        return Verdict(Reason.NOT_BETTER, words)
    return None


CHECKS = (finite, token_near, under_ceilings, actions_fit, of_one_robot, better)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean (N,) and its standard error; one experience alone proves nothing."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("inf")


def _compare(means: Mapping[str, float], limits: Mapping[str, float]) -> str:
    return ", ".join(f"{task} {mean:.4f} (usual {limits[task]:.4f})" for task, mean in means.items())
