"""What is looked at before an alignment computes anything: a task, and experience that fits the model and its robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.split import UPPER_QUARTILE, Split
from vla_align_ros.limits import first_refusal
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.tokenizer import PromptError
from vla_align_ros.types import Experience


def statistics(split: Split) -> dict[str, float]:
    """Of the checks that need no network, by name."""
    found = {"too_little_experience": float(split.usable)}
    if len(split.strays):
        found["joints_do_not_follow"] = float(np.quantile(split.strays.max(1), UPPER_QUARTILE))
    return found


def check_request(
    policy: Policy,
    experiences: Sequence[Experience],
    split: Split,
    params: AlignParams,
    limits: Mapping[str, float],
) -> Verdict | None:
    """Why an alignment ends before it computes anything: no task to learn by, or experience that does not fit the
    model, is not finite, or has a statistic beyond its limit; None where it begins."""
    if params.lambda_perc == params.lambda_dyn == params.lambda_inv == 0:
        return Verdict(Reason.NO_TASK, "lambda_perc, lambda_dyn and lambda_inv are all 0")
    malformed = next(filter(None, (_misfit(policy, item) for item in experiences)), None)
    if malformed is not None:
        return Verdict(Reason.MALFORMED, malformed)
    numbers = [np.concatenate([e.commands.ravel(), e.observation.state, e.next_observation.state]) for e in experiences]
    if not all(np.isfinite(row).all() for row in numbers):
        return Verdict(Reason.NON_FINITE, "a command or joint state is NaN or infinite")
    refusal = first_refusal(statistics(split), limits)
    if refusal is not None:
        which = ""
        if refusal.check.name == "joints_do_not_follow":
            joint = np.quantile(split.strays, UPPER_QUARTILE, axis=0).argmax()
            which = f"; most of all joint {policy.config.robot.action_joints[joint]!r}"
        return Verdict(Reason(refusal.check.name), refusal.sentence + which + _left_out(split))
    return too_little(len(split.learn), len(split.judged), limits, _left_out(split))


def too_little(learned: int, judged: int, limits: Mapping[str, float], left_out: str = "") -> Verdict | None:
    """Whether there are too few experiences that can be used, after what is left out."""
    if not (learned and judged):
        return Verdict(Reason.TOO_LITTLE_EXPERIENCE, "nothing to learn from, or to judge by" + left_out)
    refusal = first_refusal({"too_little_experience": float(learned + judged)}, limits)
    return None if refusal is None else Verdict(Reason.TOO_LITTLE_EXPERIENCE, refusal.sentence + left_out)


def _left_out(split: Split) -> str:
    return f"; {split.left_out} left out, in which a joint was held or strayed" if split.left_out else ""


def _misfit(policy: Policy, item: Experience) -> str | None:
    """What about an experience the model cannot read."""
    robot, horizon = policy.config.robot, policy.model.architecture.action_horizon
    if item.commands.shape != (horizon, len(robot.action)):
        return f"commands must have shape {(horizon, len(robot.action))}, got {item.commands.shape}"
    for seen in (item.observation, item.next_observation):
        if seen.state.shape != (len(robot.state),):
            return f"a state must have shape {(len(robot.state),)}, got {seen.state.shape}"
        if not set(seen.images) & set(policy.config.architecture.cameras):
            return f"no camera of {list(policy.config.architecture.cameras)} among {list(seen.images)}"
        try:
            policy.check_prompt(seen.prompt)
        except PromptError as error:
            return str(error)
    return None
