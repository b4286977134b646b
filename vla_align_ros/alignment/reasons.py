"""Every reason for which an alignment is kept or refused; `docs/reasons.md` is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vla_align_ros.limits import BY_NAME


class Reason(Enum):
    """Why an alignment was kept or refused: a code, and the sentence that `docs/reasons.md` is made from. That of a
    check stands with the check, in `limits.py`."""

    sentence: str

    def __new__(cls, code: str, sentence: str = "") -> Reason:
        reason = object.__new__(cls)
        reason._value_, reason.sentence = code, sentence or BY_NAME[code].sentence
        return reason

    KEPT = ("kept", "No check refused the new token: it is used.")
    NO_TASK = ("no_task", "Every lambda is 0, so there is nothing to learn by.")
    MALFORMED = ("malformed", "An experience does not fit the model: shapes, cameras or prompt.")
    NON_FINITE = ("non_finite", "NaN or infinity in the experience, the losses or the token.")
    JOINTS_DO_NOT_FOLLOW = "joints_do_not_follow"
    TOO_LITTLE_EXPERIENCE = "too_little_experience"
    PERCEPTION_HIGH = "perception_high"
    IMAGES_DO_NOT_FIT = "images_do_not_fit"
    ACTIONS_DO_NOT_FIT = "actions_do_not_fit"
    FRAMES_LATE = "frames_late"
    ALREADY_ALIGNED = "already_aligned"
    TOKEN_CHANGED = (
        "token_changed",
        "The running token was changed while the alignment ran, as by a roll back: what it found is not used.",
    )
    NOT_DURABLE = ("not_durable", "The token could not be written to the store; it was not used.")


@dataclass(frozen=True)
class Verdict:
    """One reason, and the numbers that led to it."""

    reason: Reason
    detail: str
