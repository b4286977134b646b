"""What differs between two arms of the bench, and the ranges that it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.port import Arms
from vla_align_ros.seeds import Part, seed_of

FloatArray = NDArray[np.float64]

LINK_M = 0.47  # nominal length of both links: the arm is 0.94 m long


@dataclass(frozen=True)
class Embodiments:
    """n arms, one row each. The unshifted arm has zero offsets, gains 1, links of 0.47 m and centred cameras.

    link_m (n, 2); offset_rad (n, 2): encoder reading minus true angle; gain (n, 2): true velocity over commanded one,
    negative where a joint is wired the other way round; delay_s (n,): from command to motion, at most one tick of 0.1
    s. base_azimuth_rad, base_tilt_rad (from straight down), base_distance_m (n,), base_shift_m (n, 2): the camera
    that looks at the table. wrist_yaw_rad (n,), wrist_shift_m (n, 2), wrist_height_m (n,): the camera over the tip.
    colour (n, 3): the arm's RGB.
    """

    link_m: FloatArray
    offset_rad: FloatArray
    gain: FloatArray
    delay_s: FloatArray
    base_azimuth_rad: FloatArray
    base_tilt_rad: FloatArray
    base_distance_m: FloatArray
    base_shift_m: FloatArray
    wrist_yaw_rad: FloatArray
    wrist_shift_m: FloatArray
    wrist_height_m: FloatArray
    colour: FloatArray

    def __len__(self) -> int:
        return len(self.delay_s)

    def __getitem__(self, rows: NDArray[np.intp] | slice | int) -> Embodiments:
        """Some of the arms, or the one at a place."""
        some = [range(len(self))[rows]] if isinstance(rows, (int, np.integer)) else rows
        return Embodiments(**{field.name: getattr(self, field.name)[some] for field in fields(self)})


def unshifted(count: int = 1) -> Embodiments:
    """`count` copies of the arm without any shift."""
    return _draw(count, np.random.default_rng(0), scale=0.0, flip_probability=0.0)


def sample_embodiments(count: int, seed: int, scale: float = 1.0, flip_probability: float = 0.3) -> Embodiments:
    """Draw arms. scale: width of every range relative to training's (1); 0 leaves only flips and colours."""
    return _draw(count, np.random.default_rng(seed), scale, flip_probability)


def training_embodiments(count: int, seed: int) -> Embodiments:
    """The bank's arms: row 0 is the unshifted arm, the others are drawn. seed: of the training."""
    drawn = sample_embodiments(count - 1, seed_of(seed, Part.TRAINING_ARMS))
    return joined([unshifted(), *(drawn[row] for row in range(count - 1))])


def joined(arms: Arms[Embodiments]) -> Embodiments:
    """All rows of some arms, one below the other."""
    parts = [arms[row] for row in range(len(arms))]
    return Embodiments(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Embodiments)}
    )


def _draw(count: int, rng: np.random.Generator, scale: float, flip_probability: float) -> Embodiments:
    def around(centre: float, half_width: float, *shape: int) -> FloatArray:
        return centre + scale * half_width * rng.uniform(-1.0, 1.0, (count, *shape))

    sign = np.where(rng.random((count, 2)) < flip_probability, -1.0, 1.0)
    grey = rng.uniform(100.0, 190.0, (count, 1)) if scale else np.full((count, 1), 150.0)
    return Embodiments(
        link_m=around(LINK_M, 0.09, 2),
        offset_rad=around(0.0, 0.5, 2),
        gain=sign * around(1.0, 0.4, 2),
        delay_s=np.clip(scale * rng.uniform(0.0, 0.08, count), 0.0, 0.1),
        base_azimuth_rad=around(0.0, 0.5),
        base_tilt_rad=np.clip(around(0.3, 0.3), 0.0, None),
        base_distance_m=around(2.6, 0.3),
        base_shift_m=around(0.0, 0.12, 2),
        wrist_yaw_rad=around(0.0, 0.4),
        wrist_shift_m=around(0.0, 0.06, 2),
        wrist_height_m=around(0.6, 0.08),
        colour=np.clip(grey + around(0.0, 15.0, 3), 0.0, 255.0),
    )
