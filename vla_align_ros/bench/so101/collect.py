"""Recordings to train on: arms that do what arms at work do, mistakes of a policy that does not fit them included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum

import numpy as np

from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.episodes import CONTROL_HZ, Episodes
from vla_align_ros.bench.so101.joints import HOME_RAD, JOINT_MAX_RAD, JOINT_MIN_RAD, NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.recording import Recording, joined
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.seeds import Stream, rng_of


class Behaviour(IntEnum):
    """Who sends an arm its commands."""

    EXPERT = 0  # its own expert
    NOISY = 1  # its own expert, with noise on every tick and now and then a push aside
    MISFIT = 2  # the expert of another arm: what a policy does whose token does not fit
    BABBLE = 3  # nobody: each chunk moves every joint at a random speed


AT_ONCE = 512
_JITTER_RAD, _PUSH_RAD, _PUSH_SHARE = 0.02, 0.08, 0.5
_BABBLE_RAD_S = np.array([1.0, 0.7, 0.7, 0.8, 1.2, 1.0])
_BABBLE_FROM_HOME_RAD = np.array([1.0, 0.6, 0.6, 0.7, 1.4, 0.6])
_BABBLE_LOW_RAD = np.maximum(HOME_RAD - _BABBLE_FROM_HOME_RAD, JOINT_MIN_RAD)
_BABBLE_HIGH_RAD = np.minimum(HOME_RAD + _BABBLE_FROM_HOME_RAD, JOINT_MAX_RAD)


def record(
    embodiments: Sequence[Embodiment],
    asked: Sequence[Task],
    seeds: Sequence[int],
    behaviours: Sequence[Behaviour],
    misfits: Sequence[Embodiment],
    ticks: int,
    *,
    control_hz: float = CONTROL_HZ,
    execute_ticks: int = 8,
    camera: str = CAMERAS[0],
    threads: int = 1,
) -> Recording:
    """`ticks` (rounded up to whole chunks) of n arms at work; row i of the recording is arm i.

    misfits: for each arm the one whose expert is at work where its behaviour is MISFIT, by what `camera` sees. Every
    arm has random numbers of its own, by its seed: it does the same in any company, so AT_ONCE of them are simulated
    side by side, each in several MB.
    """
    parts = []
    for start in range(0, len(embodiments), AT_ONCE):
        these = slice(start, start + AT_ONCE)
        arms = (embodiments[these], asked[these], seeds[these], behaviours[these], misfits[these])
        parts.append(_side_by_side(*arms, ticks, control_hz, execute_ticks, camera, threads))
    return replace(joined(parts), arm=np.arange(len(embodiments)))


def _side_by_side(
    embodiments: Sequence[Embodiment],
    asked: Sequence[Task],
    seeds: Sequence[int],
    behaviours: Sequence[Behaviour],
    misfits: Sequence[Embodiment],
    ticks: int,
    control_hz: float,
    execute_ticks: int,
    camera: str,
    threads: int,
) -> Recording:
    """`record` of a few."""
    episodes = Episodes(embodiments, asked, seeds, control_hz=control_hz, threads=threads)
    chosen = zip(embodiments, misfits, behaviours, strict=True)
    believed = [misfit if kind is Behaviour.MISFIT else own for own, misfit, kind in chosen]
    rngs = [rng_of(seed, Stream.BEHAVIOUR) for seed in seeds]
    for _ in range(-(-ticks // execute_ticks)):
        targets = episodes.expert_targets(execute_ticks, believed, camera)
        angles = episodes.state().angle_rad
        for row, (kind, rng, arm) in enumerate(zip(behaviours, rngs, embodiments, strict=True)):
            if kind is Behaviour.NOISY:
                targets[row] += _noise(execute_ticks, rng)
            elif kind is Behaviour.BABBLE:
                targets[row] = arm.command_for(_babble(angles[row], execute_ticks, episodes.tick_s, rng))
        episodes.command(targets)
    return episodes.recording()


def _noise(ticks: int, rng: np.random.Generator) -> FloatArray:
    """To be added to commands, (ticks, 6) rad."""
    push = rng.standard_normal(NUM_JOINTS) * _PUSH_RAD * (rng.random() < _PUSH_SHARE)
    return np.asarray(_JITTER_RAD * rng.standard_normal((ticks, NUM_JOINTS)) + push)


def _babble(angle_rad: FloatArray, ticks: int, tick_s: float, rng: np.random.Generator) -> FloatArray:
    """Targets (ticks, 6) in true rad, from where the joints (6,) are, around home."""
    speed = rng.uniform(-1.0, 1.0, NUM_JOINTS) * _BABBLE_RAD_S
    ramp = angle_rad + speed * tick_s * np.arange(1, ticks + 1)[:, None]
    return np.asarray(np.clip(ramp, _BABBLE_LOW_RAD, _BABBLE_HIGH_RAD))
