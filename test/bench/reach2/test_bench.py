"""What a robot's buffer would hold: experience that counts, in order of time."""

from __future__ import annotations

import numpy as np

from vla_align_ros.bench.reach2.bench import collect_experience, fill_buffer
from vla_align_ros.bench.reach2.embodiment import unshifted
from vla_align_ros.experience.builder import joint_held
from vla_align_ros.policy import load_policy
from vla_align_ros.zoo import find_model


def test_a_buffer_is_filled_with_experience_that_counts_however_often_the_arm_is_at_its_stops() -> None:
    policy, arm = load_policy(find_model("tiny"), "cpu"), unshifted()
    arm.gain[:] = -1.0  # drives itself to its stops
    token, robot = policy.initial_token(), policy.config.robot
    assert token is not None
    (recorded,) = collect_experience(policy, arm, token[None], 128, seed=3)
    buffer = fill_buffer(policy, arm, token, seed=3)
    assert sum(joint_held(item, robot) for item in recorded) > 10
    assert len(buffer) == 128
    assert not any(joint_held(item, robot) for item in buffer)
    assert len({item.commands.tobytes() for item in buffer}) == 128, "each turn is another one"
    starts_ns = [item.observation.stamp_ns for item in buffer]
    assert (np.diff(starts_ns) > 0).all()
    assert (np.diff([item.episode for item in buffer]) >= 0).all()
