"""Judges a proposed token by what `evidence.py` collected: one number a check, each against its limit (`limits.py`).

Losses are of experience later than what was learned from, before and after with the same t and noise. Whether commands
fit their frames is asked of all experience. What can be asked before anything is computed is in `experience_check.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vla_align_ros.alignment.evidence import Evidence
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.limits import first_refusal
from vla_align_ros.policy.losses import LossWeights

OTHER_COMMANDS = {"shuffled": "actions_do_not_fit", "before": "frames_late"}


def statistics(evidence: Evidence, weights: LossWeights) -> dict[str, float]:
    """Of each check that can be asked, by name: not of a task without weight, nor of commands that nobody sent."""
    found = {}
    if "perception" in evidence.after:
        found["perception_high"] = float(evidence.after["perception"].mean())
    if evidence.with_states is not None:
        true, other = evidence.with_states
        found["images_do_not_fit"] = float(other.mean() / true.mean())
    for which, (true, other) in evidence.with_commands.items():
        found[OTHER_COMMANDS[which]] = float(other.mean() / true.mean())
    gain = sum(weights.of(task) * (evidence.before[task] - loss) for task, loss in evidence.after.items())
    assert isinstance(gain, Tensor)
    return {**found, "already_aligned": _standard_errors(gain)}


def _standard_errors(gain: Tensor) -> float:
    """By how many the mean of (N,) is above 0; 0 where all are 0, or it is a single one, whose error nobody knows."""
    if len(gain) == 1 or not bool(gain.any()):
        return 0.0
    variance = (gain - gain.mean()).square().sum() / (len(gain) - 1)
    return float((gain.mean() / (variance / len(gain)).sqrt()).nan_to_num(nan=torch.nan))


def judge(evidence: Evidence, weights: LossWeights, limits: Mapping[str, float]) -> Verdict:
    """The first reason to refuse, or KEPT."""
    losses = (evidence.before, evidence.best_known, evidence.after, evidence.with_commands)
    values = [evidence.token, *(value for found in losses for value in found.values())]
    values += [] if evidence.with_states is None else [evidence.with_states]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        return Verdict(Reason.NON_FINITE, "the token or a loss is NaN or infinite")
    refusal = first_refusal(statistics(evidence, weights), limits)
    if refusal is not None:
        return Verdict(Reason(refusal.check.name), refusal.sentence)
    changes = [
        f"{task} {float(loss.mean() / evidence.before[task].mean()):.3f}" for task, loss in evidence.after.items()
    ]
    return Verdict(Reason.KEPT, "losses on later experience, after/before: " + ", ".join(changes))
