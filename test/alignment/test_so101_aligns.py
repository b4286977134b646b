"""What docs/results.md claims of models/so101, in small: arms whose wrist camera training never saw so, fixed seeds."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vla_align_ros.alignment import AlignReport, align
from vla_align_ros.alignment.reasons import Reason
from vla_align_ros.bench.collect import fill_buffers
from vla_align_ros.bench.evaluate import finished
from vla_align_ros.bench.port import find_bench
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.experience.later import later
from vla_align_ros.params import PolicyParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.types import Experience, Observation
from vla_align_ros.zoo import find_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

BENCH = find_bench("so101").narrowed(["reach"], ["wrist_camera", "wrist_roll", "wrist_mirror"])
ARMS = BENCH.embodiments(3, 910_001)
SEED, EPISODES = 5, 16


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(find_model("so101"), "cpu")


@pytest.fixture(scope="module")
def experiences(policy: Policy, shipped: Tensor) -> list[list[Experience]]:
    return buffers_of(policy, ARMS, shipped)


def buffers_of(policy: Policy, arms: list[Embodiment], token: Tensor) -> list[list[Experience]]:
    """As many experiences of each arm as an alignment of this model takes."""
    count = policy.config.recommended.align_max_experiences
    return fill_buffers(policy, BENCH, arms, token.expand(len(arms), -1, -1), SEED, count=count)


def aligned(
    policy: Policy, start: Tensor, experiences: list[Experience], **limits: float
) -> tuple[Tensor, AlignReport]:
    policy.swap_token(start)
    params = PolicyParams.from_mapping(asdict(policy.config.recommended)).align
    report = align(policy, experiences, replace(params, guard=replace(params.guard, **limits)))
    assert policy.token is not None
    return policy.token, report


def success(policy: Policy, arms: list[Embodiment], tokens: Tensor) -> float:
    """Share of EPISODES of each arm that end at the cube; tokens (arms, n, W)."""
    rows = np.repeat(np.arange(len(arms)), EPISODES)
    found = finished(policy, BENCH, [arms[row] for row in rows], tokens[torch.from_numpy(rows)], SEED + 1)
    return float(found.succeeded.mean())


def test_one_alignment_makes_arms_with_a_remounted_wrist_camera_reach(
    policy: Policy, shipped: Tensor, experiences: list[list[Experience]]
) -> None:
    outcomes = [aligned(policy, shipped, mine) for mine in experiences]
    assert [report.reason for _, report in outcomes] == [Reason.KEPT] * len(ARMS)
    unaligned = (shipped.expand(len(ARMS), -1, -1), policy.e_0.expand(len(ARMS), -1, -1))
    before = max(success(policy, ARMS, tokens) for tokens in unaligned)
    after = success(policy, ARMS, torch.stack([token for token, _ in outcomes]))
    assert after > 0.8
    assert after > before + 0.3


def test_pictures_that_do_not_show_the_joints_leave_the_token_as_it_was(
    policy: Policy, shipped: Tensor, experiences: list[list[Experience]]
) -> None:
    def grey(seen: Observation) -> Observation:
        return replace(seen, images={name: np.full_like(image, 128) for name, image in seen.images.items()})

    blind = [
        replace(item, observation=grey(item.observation), next_observation=grey(item.next_observation))
        for item in experiences[0]
    ]
    order = np.random.default_rng(0).permutation(len(blind))
    shuffled = [
        replace(item, observation=replace(item.observation, images=experiences[0][row].observation.images))
        for item, row in zip(experiences[0], order, strict=True)
    ]
    for wrong in (blind, shuffled):
        token, report = aligned(policy, shipped, wrong)
        assert report.reason in (Reason.PERCEPTION_HIGH, Reason.IMAGES_DO_NOT_FIT)
        assert torch.equal(token, shipped)
        token, report = aligned(policy, shipped, wrong, perception_high=10.0)
        assert report.reason is Reason.IMAGES_DO_NOT_FIT, "it explains these states no more than others"
        assert torch.equal(token, shipped)


def test_after_an_accident_what_came_before_it_is_left_out(
    policy: Policy, shipped: Tensor, experiences: list[list[Experience]]
) -> None:
    token, report = aligned(policy, shipped, experiences[0])
    assert report.before_change == 0
    for newest in experiences[1:]:
        both = [*experiences[0][-128:], *later(newest[:128], experiences[0][-1])]
        _, report = aligned(policy, token, both)
        assert abs(report.before_change - 128) <= 16


def test_an_unshifted_arm_stays_as_good_as_it_was(policy: Policy, shipped: Tensor) -> None:
    arm = [Embodiment()]
    (mine,) = buffers_of(policy, arm, shipped)
    token, report = aligned(policy, shipped, mine)
    assert report.reason in {Reason.KEPT, Reason.ALREADY_ALIGNED}, report.detail
    assert success(policy, arm, token[None]) >= success(policy, arm, shipped[None]) - 1 / EPISODES
