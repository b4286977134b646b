"""Every reason for which an alignment is kept, skipped or refused; `docs/reasons.md` is made from this."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why an alignment was kept, skipped or refused: a code, and the sentence that `docs/reasons.md` is made from."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Reason:
        reason = object.__new__(cls)
        reason._value_, reason.sentence = code, sentence
        return reason

    KEPT = (
        "kept",
        "The whole step is better on later experience: it was kept, or a part of it where the running token fits "
        "nearly as well.",
    )
    ALREADY_ALIGNED = (
        "already_aligned",
        "All losses are as low as they usually are after an alignment: nothing to gain.",
    )
    NO_TASK = ("no_task", "Every lambda is 0, so there is nothing to learn by.")
    TOO_LITTLE_EXPERIENCE = ("too_little_experience", "Not enough experiences to learn from and to judge by.")
    MALFORMED = ("malformed", "An experience does not fit the model: shapes, cameras or prompt.")
    NON_FINITE = ("non_finite", "NaN or infinity in the experience, the losses or the token.")
    STOOD_STILL = ("stood_still", "The robot hardly moved, so nothing can be learned about how it moves.")
    FROZEN_FRAMES = ("frozen_frames", "A camera's picture stayed the very same while the robot moved.")
    JOINTS_JUMP = (
        "joints_jump",
        "Joint states jump farther than the commands between them ask: two robots, or two publishers, in one stream.",
    )
    JOINTS_DO_NOT_FOLLOW = (
        "joints_do_not_follow",
        "In too many experiences a joint does not go as far for its command as in the others: commands that are late "
        "or not this robot's, two robots, a robot that changed, or a joint that is blocked.",
    )
    MIXED_EXPERIENCE = (
        "mixed_experience",
        "Two tokens explain the experience far better than one: a part is another robot's, or the robot changed.",
    )
    DYNAMICS_WORSE = ("dynamics_worse", "The dynamics loss rose beyond its noise and by more than 10 %.")
    INVERSE_WORSE = ("inverse_worse", "The inverse-dynamics loss rose beyond its noise and by more than 10 %.")
    NOT_BETTER = (
        "not_better",
        "No loss fell beyond its noise and far enough: dynamics or inverse dynamics by 5 %, or perception by half "
        "where inverse dynamics did not rise.",
    )
    OVER_CEILING = ("over_ceiling", "A loss is far above what training saw: a camera or the actions are faulty.")
    ACTIONS_DO_NOT_FIT = ("actions_do_not_fit", "The actions explain the frames no better than shuffled ones.")
    ACTIONS_OUT_OF_STEP = (
        "actions_out_of_step",
        "The actions sent just before explain the frames 10 % better, or those just after 20 %: frames or commands "
        "come late.",
    )
    TOKEN_TOO_FAR = ("token_too_far", "The token left the region that training knows.")
    NOT_DURABLE = ("not_durable", "The token could not be written to the store; it was not used.")


@dataclass(frozen=True)
class Verdict:
    """One reason, and the numbers that led to it."""

    reason: Reason
    detail: str
