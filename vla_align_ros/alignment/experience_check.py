"""What is looked at before an alignment computes anything: experience that fits the model, of one robot that moved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from vla_align_ros.action.trajectory import positions_of
from vla_align_ros.alignment.reasons import Reason, Verdict
from vla_align_ros.alignment.split import LEAST_TO_JUDGE, LEAST_TO_LEARN, Split
from vla_align_ros.experience.builder import STILL_RAD
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.tokenizer import PromptError
from vla_align_ros.types import Experience

FROZEN_SHARE = 0.5  # a camera over the hand may show the very same pixels now and then, where nothing is in its view
JUMP_RAD, JUMP_FACTOR = 0.3, 2.0  # a joint jumps that goes farther than twice what was asked and this
JUMP_SHARE, LEAST_JUMPS = 0.1, 3  # a bump or two are no second robot
# Of all experiences and of the newest quarter, in which a joint may stray; three may in any case.
STRAY_SHARE, NEWEST_STRAY_SHARE, LEAST_STRAYS = 0.15, 0.2, 3


def check_request(
    policy: Policy,
    experiences: Sequence[Experience],
    split: Split,
    params: AlignParams,
) -> Verdict | None:
    """A task to learn by, and experience that fits the model, is finite, is of one robot that moved, and leaves enough
    to learn from and to judge by."""
    for check in CHECKS:
        verdict = check(policy, experiences, split, params)
        if verdict is not None:
            return verdict
    return None


def a_task(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """A task to learn by."""
    if params.lambda_perc == params.lambda_dyn == params.lambda_inv == 0:
        return Verdict(Reason.NO_TASK, "lambda_perc, lambda_dyn and lambda_inv are all 0")
    return None


def well_formed(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """Everything fits the model and is a number."""
    malformed = next(filter(None, (_misfit(policy, item) for item in experiences)), None)
    if malformed is not None:
        return Verdict(Reason.MALFORMED, malformed)
    numbers = [np.concatenate([e.commands.ravel(), e.observation.state, e.next_observation.state]) for e in experiences]
    if not all(np.isfinite(row).all() for row in numbers):
        return Verdict(Reason.NON_FINITE, "a command or joint state is NaN or infinite")
    return None


def moving(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """A joint that moved."""
    moved = [_farthest(policy, item) for item in experiences]
    if not moved or max(moved) >= STILL_RAD:
        return None
    return Verdict(
        Reason.STOOD_STILL,
        f"no joint moved more than {max(moved):.4f} rad in any experience, {STILL_RAD} is the least",
    )


def enough(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """Enough to learn from and to judge by."""
    if split.enough:
        return None
    learn, judged = len(split.learn), len(split.judged)
    found = f"{learn} to learn from and {judged} to judge by, {LEAST_TO_LEARN} and {LEAST_TO_JUDGE} are needed"
    rest = len(experiences) - learn - judged
    left_out = f"{rest} of {len(experiences)} left out: held or stray joints, or they reach over the cut in time"
    return Verdict(Reason.TOO_LITTLE_EXPERIENCE, f"{found} ({left_out})")


def seeing(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """No camera that shows the same pixels before and after, in more than half of the experiences that moved."""
    moving = [item for item in experiences if _farthest(policy, item) > STILL_RAD]
    for camera in moving[0].observation.images if moving else ():
        both = [(e.observation.images.get(camera), e.next_observation.images.get(camera)) for e in moving]
        same = sum(first is not None and then is not None and np.array_equal(first, then) for first, then in both)
        if same > FROZEN_SHARE * len(moving):
            return Verdict(
                Reason.FROZEN_FRAMES, f"camera {camera!r}: in {same} of {len(moving)} experiences that moved"
            )
    return None


def steady(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """No joints that moved, from one experience to the next of its episode, much farther than the commands between."""
    robot, pairs, jumps = policy.config.robot, 0, 0
    for first, second in itertools.pairwise(experiences):
        ticks = (second.observation.stamp_ns - first.observation.stamp_ns) // robot.period_ns
        if first.episode != second.episode or not 0 < ticks <= len(first.commands):
            continue
        start, then = (robot.measured(item.observation.state) for item in (first, second))
        path = positions_of(first.commands, start, robot.kinds, robot.period_ns * 1e-9)[:ticks]
        asked = np.abs(np.diff(path, axis=0, prepend=start[None])).sum(0)
        pairs += 1
        jumps += bool((np.abs(then - start) > JUMP_FACTOR * asked + JUMP_RAD).any())
    if jumps < max(LEAST_JUMPS, JUMP_SHARE * pairs):
        return None
    limit = f"more than {JUMP_FACTOR:g} times what was asked and {JUMP_RAD} rad"
    return Verdict(Reason.JOINTS_JUMP, f"{limit}, in {jumps} of {pairs} steps from one experience to the next")


def following(policy: Policy, experiences: Sequence[Experience], split: Split, params: AlignParams) -> Verdict | None:
    """No joint that strays too often, in all experience or in the newest quarter: what is left out must be the odd one,
    not the robot of now."""
    joint_names, strays = policy.config.robot.action_joints, split.strays
    newest = strays[len(strays) - len(strays) // 4 :]
    for part, rows, share in (("", strays, STRAY_SHARE), ("the newest ", newest, NEWEST_STRAY_SHARE)):
        counts = rows.sum(0)
        if counts.size and counts.max() > max(LEAST_STRAYS, share * len(rows)):
            which = f"joint {joint_names[counts.argmax()]!r}, in {counts.max()} of {part}{len(rows)} experiences"
            return Verdict(Reason.JOINTS_DO_NOT_FOLLOW, f"{which}; {share:.0%} may")
    return None


CHECKS = (a_task, well_formed, moving, steady, following, seeing, enough)


def _farthest(policy: Policy, item: Experience) -> float:
    """How far the commanded joint that moved most did move."""
    before, after = (policy.config.robot.measured(seen.state) for seen in (item.observation, item.next_observation))
    return float(np.abs(after - before).max())


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
