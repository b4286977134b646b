"""Is the experience of one robot? Two statistics of its parts, which `guard.py` judges: does the running or the new
token fit some parts far better than others, and do two of the pick's finalists explain it far better than one?

Asked of perception and inverse dynamics together, as the limits were measured: not where the pick saw others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vla_align_ros.types import Experience

EPISODE_PART_S = 6.4  # of one episode, looked at together
LEAST_OF_PART, LEAST_PARTS = 4, 3  # experiences of a part that counts; such parts, to compare
MEASURED = {"perception", "inverse_dynamics"}
PERCEPTION_WEIGHT = 0.5  # beside inverse dynamics


def parts_of(experiences: Sequence[Experience]) -> list[list[int]]:
    """Rows of each part of an episode: EPISODE_PART_S long, with LEAST_OF_PART experiences or more."""
    first_ns, parts = dict[int, int](), dict[tuple[int, int], list[int]]()
    for row, item in enumerate(experiences):
        since_ns = item.observation.stamp_ns - first_ns.setdefault(item.episode, item.observation.stamp_ns)
        parts.setdefault((item.episode, int(since_ns * 1e-9 // EPISODE_PART_S)), []).append(row)
    return [rows for rows in parts.values() if len(rows) >= LEAST_OF_PART]


def parts_apart(losses: Mapping[str, Tensor], parts: Sequence[Sequence[int]], usual: Mapping[str, float]) -> float:
    """Variance of the losses between parts over that within them, a mean over the tasks' directions; losses (N,) by
    task. About 0 if parts do not matter; one robot reaches 0.1 or 0.2, since tables and poses differ. 0 with fewer than
    LEAST_PARTS parts.

    Of log(loss + half the usual one): differences matter as ratios, but not those of losses that are all low. From
    Lawley and Hotelling's trace over its degrees of freedom, less what it is expected to be without a difference, over
    the mean size of a part, so that the rate of the experience does not matter.
    """
    if len(parts) < LEAST_PARTS:
        return 0.0
    logs = torch.stack([(loss.double() + usual[task] / 2).clamp(min=1e-12).log() for task, loss in losses.items()], 1)
    logs = logs.cpu()
    groups = [logs[list(rows)] for rows in parts]
    (count, tasks), free = torch.cat(groups).shape, sum(map(len, groups)) - len(groups)
    overall = torch.cat(groups).mean(0)
    within = torch.cat([group - group.mean(0) for group in groups])
    spread = within.T @ within / free + 1e-9 * torch.eye(tasks)
    off = torch.stack([len(group) ** 0.5 * (group.mean(0) - overall) for group in groups])
    trace = float((off @ torch.linalg.inv(spread) * off).sum()) / ((len(groups) - 1) * tasks)
    return (trace - free / (free - tasks - 1)) * len(groups) / count


def one_over_two(losses: Mapping[str, Tensor], parts: Sequence[Sequence[int]]) -> float | None:
    """What the one token that explains all parts best costs, over what the best two do where each part has the better
    of them. losses: of each token on each experience, (F, N) by task (`pick.Pick`).

    1 where one is enough, one robot reaches 1.1, two that differ much 1.4. None with fewer than LEAST_PARTS parts, or
    other tasks.
    """
    if len(parts) < LEAST_PARTS or set(losses) != MEASURED:
        return None
    each = PERCEPTION_WEIGHT * losses["perception"] + losses["inverse_dynamics"]
    costs = torch.stack([each[:, list(part)].sum(1) for part in parts], 1)  # (tokens, parts)
    pairs = torch.minimum(costs[:, None], costs[None]).sum(2)
    return float(costs.sum(1).min() / pairs.min())
