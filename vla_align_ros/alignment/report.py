"""What an alignment did, in numbers: for logs, curves, the HTML report and `--json`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from vla_align_ros.alignment.diagnosis import FieldDiagnosis
from vla_align_ros.alignment.reasons import Reason


@dataclass(frozen=True)
class StepCurve:
    """One gradient step: mean loss of each task before it, |gradient|, |E| after it and the learning rate."""

    losses: dict[str, float]
    grad_norm: float
    e_token_norm: float
    learning_rate: float


@dataclass(frozen=True)
class AlignReport:
    """One attempt. Losses are means on the later, held-out experience, by task, for the running token (`before`), the
    mean of the best known tokens (`best_known`) and the result (`after`); empty where the attempt ended earlier.

    left_out: experiences in which a joint was held or strayed (`split.straying`). before_change: how many of the others
    were left out, since the robot changed after them (`change.py`); changed_ns: when the first one after them was made,
    0 where it did not change.
    best_known_name: which of the running token, E_0 and the bank's tokens explains the experience best. Empty where the
    attempt ended earlier.
    statistics: of each check that was asked, by name (`limits.CHECKS`); limits: of every check.
    exploration_fraction: share of random motion that was set while the experience was made.
    excited: how many of these experiences an excitation of this process moved the robot for.
    diagnosis: what each joint does with its commands, by joint states alone; empty where the experience is malformed.
    token_version: name in the store, when the token was kept and a store was given.
    stamps_ns: of every experience that was given to the attempt: when its first observation was made.
    """

    accepted: bool
    reason: Reason
    detail: str
    learned_from: int
    judged_by: int
    left_out: int
    episodes: int
    first_stamp_ns: int
    last_stamp_ns: int
    exploration_fraction: float
    duration_s: float
    excited: int = 0
    before_change: int = 0
    changed_ns: int = 0
    best_known_name: str = ""
    before: dict[str, float] = field(default_factory=dict)
    best_known: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    curve: tuple[StepCurve, ...] = ()
    diagnosis: tuple[FieldDiagnosis, ...] = ()
    statistics: dict[str, float] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    token_version: str | None = None
    stamps_ns: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`; a number that JSON does not have (NaN, infinity) is None."""
        plain = asdict(self) | {"reason": self.reason.value, "curve": [asdict(step) for step in self.curve]}
        return {key: _json_value(value) for key, value in plain.items()}

    def sentence(self) -> str:
        """For a log line and a service's answer."""
        verb = "kept" if self.accepted else "refused"
        version = f" as version {self.token_version}" if self.token_version else ""
        excited = f"; {self.excited} of {len(self.stamps_ns)} experiences are of excitations" if self.excited else ""
        changed = f"; the robot changed: {self.before_change} older experiences left out" if self.before_change else ""
        return f"alignment {verb}{version} ({self.reason.value}): {self.detail}{changed}{excited}"


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
