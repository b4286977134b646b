"""The arm as a source: its samples look like what a robot at work records."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.bench.reach2.labels import training_pairs
from vla_align_ros.bench.reach2.source import executions, open_sources
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of


def test_half_of_the_time_follows_the_expert_and_half_does_not() -> None:
    actions = np.full((8000, 8, 2), 50.0)  # far from anything random, and clipped when perturbed
    commands = executions(actions, np.random.default_rng(0))
    follows = (np.abs(commands) > 2.2).all(axis=2)
    assert 0.45 < follows.mean() < 0.55


@given(seed=st.integers(0, 99))
def test_there_is_one_seam_at_most(seed: int) -> None:
    commands = executions(np.full((50, 8, 2), 50.0), np.random.default_rng(seed))
    follows = (np.abs(commands) > 2.2).all(axis=2)
    assert (np.diff(follows.astype(int), axis=1) != 0).sum(1).max() == 1


def test_the_unshifted_arm_is_row_0_and_samples_repeat_for_a_seed() -> None:
    source = open_sources(3, robots=5).training
    assert source.robots[0] == "reach2-3/0"
    assert np.array_equal(source.arms.gain[0], [1.0, 1.0])
    first, second = (source.samples(np.arange(5), 8, 32, np.random.default_rng(1)) for _ in range(2))
    for one, other in zip(first.experiences, second.experiences, strict=True):
        assert np.array_equal(one.commands, other.commands)
        for camera, image in one.observation.images.items():
            assert np.array_equal(image, other.observation.images[camera])


def test_what_the_shipped_model_was_trained_on_stays_as_it_was() -> None:
    training, validation = open_sources(0, 5, 3)
    assert np.allclose(training.arms.gain[1], [1.37587559, 1.2722086])
    drawn = training.samples(np.arange(5), 8, None, rng_of(0, Stream.SHARD, 0))
    assert np.allclose(drawn.actions[1, 0], [-0.9266826, -0.49972925])
    assert np.allclose(drawn.experiences[4].commands[3], [1.2152176, -0.07124101])
    frames = training.labels.frames(4, 16, seed_of(0, Part.POLICY_EYE))
    assert np.allclose(frames.pose[0], [0.5564452, 0.85043615, 0.8308843, 0.5260783])
    pairs = training.labels.pairs(4, 16, seed_of(0, Part.FEATURES_EYE))
    assert np.allclose(pairs.motion[0], [-1.1451932, -0.3330223])
    assert np.allclose(validation.labels.pairs(4, 16, 0).motion[0], [-0.24971546, -0.75995034])


def test_a_pair_shows_one_arm_before_and_after_it_moved() -> None:
    pairs = training_pairs(20, 64, 1)
    assert pairs.before.shape == pairs.after.shape == (20, 2, 64, 64, 3)
    assert pairs.motion.shape == (20, 2)
    far = np.abs(pairs.motion).sum(1) > 0.3
    changed = (pairs.before != pairs.after).reshape(20, -1).any(1)
    assert far.any()
    assert changed[far].all()
    assert 0.3 < float(np.abs(pairs.motion).max()) < 2.5
