"""Shift families, their ranges, and embodiments drawn from them by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np

from vla_align_ros.bench.so101.embodiment import ENCODER_NOISE_RAD, Embodiment
from vla_align_ros.bench.so101.joints import GRIPPER, NUM_JOINTS, FloatArray
from vla_align_ros.seeds import Stream, rng_of


class Family(Enum):
    """Parameters that shift together."""

    FRONT_CAMERA = "front_camera"  # moved, turned, another lens
    WRIST_CAMERA = "wrist_camera"  # the same, of the camera on the gripper
    WRIST_ROLL = "wrist_roll"  # mounted turned about its optical axis, by any angle
    WRIST_MIRROR = "wrist_mirror"  # its driver mirrors the picture, or not
    BASE = "base"  # base moved, turned, tilted
    ZEROS = "zeros"  # another pose held as zero at calibration
    SCALES = "scales"  # another range recorded at calibration
    SIGNS = "signs"  # another direction chosen at calibration; never the gripper's
    COMMAND_SCALES = "command_scales"  # commands in other units than readings
    GEAR = "gear"  # stiffness and friction: it sags, it lags
    PAYLOAD = "payload"
    TOOL = "tool"  # spacer, jaw
    DELAY = "delay"
    BACKLASH = "backlash"
    ENCODER = "encoder"  # noise of the readings


class Split(Enum):
    """Which arms. Each draws numbers of its own, so that no arm is in two of them."""

    TRAINING = "training"
    VALIDATION = "validation"
    TEST = "test"
    BEYOND = "beyond"  # every range 1.25 times as wide

    @property
    def width(self) -> float:
        """Of every range, relative to training's."""
        return 1.25 if self is Split.BEYOND else 1.0


ALL_FAMILIES = frozenset(Family)

Draw = Callable[[np.random.Generator, float], Any]  # (numbers, width) -> value of a field


def _around(half_width: float, count: int | None = None, nominal: float = 0.0) -> Draw:
    """Uniform around the nominal value."""
    return lambda rng, width: nominal + rng.uniform(-half_width, half_width, count) * width


def _above(most: float, nominal: float = 0.0) -> Draw:
    """Uniform from the nominal value on."""
    return lambda rng, width: nominal + rng.uniform(0.0, most) * width


def _times(factor: float) -> Draw:
    """Log-uniform from 1/factor to factor."""
    return lambda rng, width: math.exp(rng.uniform(-1.0, 1.0) * math.log(factor) * width)


def _joints(arm: Draw, gripper: Draw) -> Draw:
    """A draw of (5,) and one of a number, as (6,)."""
    return lambda rng, width: np.append(arm(rng, width), gripper(rng, width))


def _signs(probability: float) -> Draw:
    def draw(rng: np.random.Generator, _width: float) -> FloatArray:
        return np.append(np.where(rng.random(GRIPPER) < probability, -1.0, 1.0), np.ones(NUM_JOINTS - GRIPPER))

    return draw


RANGES: dict[Family, dict[str, Draw]] = {
    Family.FRONT_CAMERA: {
        "front_position_m": _around(0.06, 3),
        "front_rotation_rad": _around(0.12, 3),
        "front_fov_rad": _around(0.08),
    },
    Family.WRIST_CAMERA: {
        "wrist_position_m": _around(0.01, 3),
        "wrist_tilt_rad": _around(0.15, 2),
        "wrist_fov_rad": _around(0.12),
    },
    Family.WRIST_ROLL: {"wrist_roll_rad": lambda rng, _width: rng.uniform(-math.pi, math.pi)},
    Family.WRIST_MIRROR: {"wrist_mirrored": lambda rng, _width: bool(rng.random() < 0.5)},
    Family.BASE: {
        "base_position_m": lambda rng, width: rng.uniform(-1.0, 1.0, 3) * np.array([0.03, 0.03, 0.01]) * width,
        "base_yaw_rad": _around(0.3),
        "base_tilt_rad": _around(0.04, 2),
    },
    Family.ZEROS: {"zero_rad": _joints(_around(0.12, GRIPPER), _around(0.08))},
    Family.SCALES: {"scale": _joints(_around(0.1, GRIPPER, 1.0), _around(0.05, None, 1.0))},
    Family.SIGNS: {"sign": _signs(0.3)},
    Family.COMMAND_SCALES: {"command_scale": _joints(_around(0.1, GRIPPER, 1.0), _around(0.05, None, 1.0))},
    Family.GEAR: {"stiffness": _times(2.0), "friction": _times(2.5)},
    Family.PAYLOAD: {"payload_kg": _above(0.3)},
    Family.TOOL: {"tool_m": _above(0.05), "jaw_m": _around(0.005)},
    Family.DELAY: {"delay_s": _above(0.2)},
    Family.BACKLASH: {"backlash_rad": _above(0.035)},
    Family.ENCODER: {"encoder_noise_rad": _above(0.004, ENCODER_NOISE_RAD)},
}


def draw_embodiment(
    seed: int, split: Split, families: Iterable[Family] = ALL_FAMILIES, scale: float = 1.0
) -> Embodiment:
    """The arm number `seed` of a split, shifted in `families` alone, each range `scale` times as wide.

    A family's values are the same whichever others are drawn with it. Raises ValueError for a negative seed.
    """
    if seed < 0:
        raise ValueError(f"expected a seed of 0 or more, got {seed}")
    values: dict[str, Any] = {}
    for family in families:
        rng = rng_of(seed, Stream.SHIFTS, list(Split).index(split), list(Family).index(family))
        values |= {name: draw(rng, scale * split.width) for name, draw in RANGES[family].items()}
    return Embodiment(**values)


def shifted_fields(family: Family) -> set[str]:
    """The fields of an Embodiment that a family shifts."""
    return set(RANGES[family])


def families_of(arm: Embodiment) -> list[Family]:
    """Those in which an arm is not the nominal one."""
    nominal = Embodiment()
    return [
        family
        for family in Family
        if any(np.any(getattr(arm, name) != getattr(nominal, name)) for name in shifted_fields(family))
    ]


assert {name for family in Family for name in RANGES[family]} == {field.name for field in fields(Embodiment)}
