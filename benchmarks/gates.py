"""What may be claimed of a shift family: its gate, and the share of what no simpler method reaches.

    gate    before <= .70, labels >= .9 of the own-token cap, best classical row at least .15 below labels
    share   (after - best classical) / (labels - best classical)
    won     gate, share >= .5, and the share's 95 % interval above 0

`before` is the better, on the mean, of the two tokens that need no alignment. The best classical row is the best on the
mean of those that see joints alone, and of doing nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import arms
import numpy as np
from numpy.typing import NDArray

BEFORE_AT_MOST, LABELS_OF_CAP, CLASSICAL_BELOW_LABELS, SHARE_WON = 0.70, 0.9, 0.15, 0.5
SLACK = 1e-9  # .85 - .70 is at least .15
UNALIGNED = ("e_0", "shipped")
DRAWS = 4000


def gate(before: float, classical: float, labels: float, cap: float) -> dict[str, bool]:
    """Each of its three parts, by success rates; the gate is all of them."""
    return {
        "harmful_enough": before <= BEFORE_AT_MOST + SLACK,
        "a_token_can": labels >= LABELS_OF_CAP * cap - SLACK,
        "nothing_simpler_does": labels - classical >= CLASSICAL_BELOW_LABELS - SLACK,
    }


def could_pass(found: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a family harms enough for the rest of the gate to matter. found: of `family_rows.one_unit`."""
    means = [np.mean([np.mean(unit["rows"][name]["success"]) for unit in found]) for name in UNALIGNED]
    return bool(max(means) <= BEFORE_AT_MOST + SLACK)


def of_task(success: Sequence[bool], task: int, tasks: int) -> Sequence[bool]:
    """Of an arm's episodes, whose tasks come in turn, those of one task."""
    return success[task::tasks]


def by_task(found: Sequence[Mapping[str, Any]], tasks: int) -> list[list[dict[str, Any]]]:
    """The same units, but of their episodes those of one task at a time. `action_error` stays that of all tasks."""

    def rows(unit: Mapping[str, Any], task: int) -> dict[str, Any]:
        return {name: row | {"success": of_task(row["success"], task, tasks)} for name, row in unit["rows"].items()}

    return [[{**unit, "rows": rows(unit, task)} for unit in found] for task in range(tasks)]


def share(
    after: NDArray[np.float64], classical: NDArray[np.float64], labels: NDArray[np.float64]
) -> dict[str, float | None]:
    """Of the gap between classical and labels, each (units,): mean, and 95 % bootstrap interval over units. None where
    labels are not better: there is no gap; of the interval, where that happens in more than 1 of 40 draws."""
    rng = np.random.default_rng(0)
    chosen = np.concatenate([np.arange(len(after))[None], rng.integers(0, len(after), (DRAWS, len(after)))])
    gain, gap = ((part - classical)[chosen].mean(1) for part in (after, labels))
    if gap[0] <= 0:
        return {"mean": None, "low": None, "high": None}
    if (gap[1:] <= 0).mean() > 0.025:
        return {"mean": float(gain[0] / gap[0]), "low": None, "high": None}
    usable = gap[1:] > 0
    low, high = np.quantile(gain[1:][usable] / gap[1:][usable], [0.025, 0.975])
    return {"mean": float(gain[0] / gap[0]), "low": float(low), "high": float(high)}


def summary(found: Sequence[Mapping[str, Any]], classical_rows: Sequence[str], cap: float) -> dict[str, Any]:
    """The numbers of one family. found: of `family_rows.one_unit`, with `other_rows` where it could pass its gate.
    cap: success of training robots with their own token."""
    rows = {name: [unit["rows"][name] for unit in found] for name in found[0]["rows"]}
    success = {name: np.array([np.mean(part["success"]) for part in parts]) for name, parts in rows.items()}
    by_row = {
        name: {
            "success": arms.interval(success[name]),
            "action_error": arms.interval(np.array([part["action_error"] for part in parts])),
            "each_unit": success[name].tolist(),
        }
        for name, parts in rows.items()
    }
    before = max(UNALIGNED, key=lambda name: success[name].mean())
    classical = max([before, *classical_rows], key=lambda name: success[name].mean())
    means = {name: float(values.mean()) for name, values in success.items()}
    parts, of_gap = {"harmful_enough": False}, {"mean": None, "low": None, "high": None}
    if "labels" in means:
        parts = gate(means[before], means[classical], means["labels"], cap)
        of_gap = share(success["after"], success[classical], success["labels"])
    passed, low = all(parts.values()), of_gap["low"]
    reports = [unit["report"] for unit in found]
    pairs = [tuple(np.array(unit["rows"][name]["success"], bool) for name in (before, "after")) for unit in found]
    return {
        "units": len(found),
        "before": {"is": before, **by_row[before]},
        "classical": {"is": classical, **by_row[classical]},
        "randomised": by_row.get("randomised", "not measured: no --randomised model was given"),
        "after": by_row["after"],
        "labels": by_row.get("labels", "not measured: the family does too little harm to pass its gate"),
        "own_token_cap": cap,
        "gate": passed,
        "gate_parts": parts,
        "share": of_gap,
        "won": passed and low is not None and low > 0 and (of_gap["mean"] or 0.0) >= SHARE_WON,
        "worse_fraction": float(np.mean([arms.worse(*pair) for pair in pairs])),
        "rows": by_row,
        "accepted_fraction": float(np.mean([report["accepted"] for report in reports])),
        "reasons": dict(Counter(report["reason"] for report in reports)),
        "cpu_seconds_a_unit": {
            part: round(float(np.mean([unit["seconds"][part] for unit in found])), 2) for part in found[0]["seconds"]
        },
    }
