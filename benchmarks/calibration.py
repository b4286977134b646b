"""The rivals that see joints alone: a least-squares line and a delay for each joint, as a command wrapper, and to find
the training robot that is most alike.

    position where it ends up = gain * commanded position + offset, `delay` after the command

Everything is measured against the nominal robot's own line (`diagnose` fits both): its servos sag and lag, too, and the
policy learned to live with that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.alignment.diagnosis import diagnose
from vla_align_ros.bench.evaluate import Act
from vla_align_ros.bench.so101.episodes import Episodes
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Experience

FloatArray = NDArray[np.float64]
CLEARLY = 3.0  # standard errors that a joint's line must be off before it is touched
LEAST_GAIN = 0.1  # a joint that seems to move less is not sped up any further
LEAST_ERROR = np.array([[0.01], [0.002], [0.005]])  # of gain, offset (rad) and delay (s): bootstraps call nothing sure
GAIN, OFFSET, DELAY = range(3)


@dataclass(frozen=True)
class Lines:
    """value, error (3, A): gain, offset (rad) and delay (s) of each action field, and their standard errors; NaN where
    experience does not say."""

    value: FloatArray
    error: FloatArray

    def to_json(self) -> dict[str, list[list[float | None]]]:
        """Without NaN."""
        both = {"value": self.value, "error": self.error}
        return {
            name: [[float(number) if np.isfinite(number) else None for number in row] for row in rows]
            for name, rows in both.items()
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Lines:
        """What `to_json` made."""
        return cls(*(np.array(found[name], np.float64) for name in ("value", "error")))


def lines(experiences: Sequence[Experience], robot: RobotDescription) -> Lines:
    """By `diagnose`, from experience in order of time."""
    value, error = np.full((2, 3, len(robot.action)), np.nan)
    for column, field in enumerate(diagnose(experiences, robot)):
        found = (
            (field.gain, field.gain_interval),
            (field.offset, field.offset_interval),
            (field.delay_s, field.delay_interval_s),
        )
        for row, (middle, span) in enumerate(found):
            if middle is not None and span is not None:
                value[row, column], error[row, column] = middle, (span[1] - span[0]) / 3.92
    return Lines(value, np.fmax(error, LEAST_ERROR))


def mean_of(several: Sequence[Lines]) -> Lines:
    """Of one robot's several buffers."""
    values, errors = np.stack([one.value for one in several]), np.stack([one.error for one in several])
    counts = np.isfinite(values).sum(0)
    means = np.nansum(values, 0) / np.where(counts, counts, np.nan)
    return Lines(means, np.nansum(errors, 0) / np.where(counts, counts, np.nan) ** 1.5)


@dataclass(frozen=True)
class Calibration:
    """position commanded = factor * wanted + shift, (A,) each, `early_ticks` before it is wanted. relative (A,): whose
    commands are changes from the measured position."""

    factor: FloatArray
    shift: FloatArray
    early_ticks: float
    relative: NDArray[np.bool_]

    def __call__(self, chunks: NDArray[np.floating], measured: FloatArray) -> FloatArray:
        """Chunks (n, H, A) as they must be sent from measured positions (n, A); the last action of a chunk stands for
        those after it."""
        origin = np.where(self.relative, measured, 0.0)[:, None]
        chunks, horizon = chunks + origin, chunks.shape[1]
        at = np.minimum(np.arange(horizon) + self.early_ticks, horizon - 1)
        row, share = np.floor(at).astype(int), (at % 1.0)[:, None]
        wanted = (1 - share) * chunks[:, row] + share * chunks[:, np.minimum(row + 1, horizon - 1)]
        return np.asarray(self.factor * wanted + self.shift - origin)


def calibration(mine: Lines, nominal: Lines, robot: RobotDescription, with_delay: bool) -> Calibration:
    """What makes a robot answer as the nominal one does. Joints whose gain and offset are not clearly others are left
    alone. with_delay: commands are also sent as much earlier as this robot is later, by the median of its joints."""
    off = np.abs(mine.value - nominal.value) / np.hypot(mine.error, nominal.error)
    touched = (np.nan_to_num(off[[GAIN, OFFSET]]) > CLEARLY).any(0) & np.isfinite(
        mine.value[GAIN] + nominal.value[GAIN]
    )
    gain, gain_0 = (np.where(touched, each.value[GAIN], 1.0) for each in (mine, nominal))
    gain = np.where(np.abs(gain) < LEAST_GAIN, np.copysign(LEAST_GAIN, gain), gain)
    positions = touched & (robot.kinds != "velocity")
    offset, offset_0 = (np.where(positions, np.nan_to_num(each.value[OFFSET]), 0.0) for each in (mine, nominal))
    late_s = mine.value[DELAY] - nominal.value[DELAY]
    late_s = late_s[np.isfinite(late_s)]
    early = float(np.median(late_s)) / (robot.period_ns * 1e-9) if with_delay and len(late_s) else 0.0
    relative = robot.kinds == "delta_position"
    return Calibration(gain_0 / gain, (offset_0 - offset) / gain, early if early >= 0.5 else 0.0, relative)


def calibrated(act: Act, change: Calibration) -> Act:
    """A policy on the SO-101 behind a command wrapper."""

    def acting(going: Episodes, rows: NDArray[np.intp]) -> FloatArray:
        return change(act(going, rows), going.readings_rad())

    return acting


def most_alike(mine: Lines, others: Sequence[Lines]) -> int:
    """Which of the other robots answers most like mine: the mean squared difference, in standard errors, of all that is
    known of both."""
    scores = [
        np.nanmean((mine.value - other.value) ** 2 / (mine.error**2 + other.error**2))
        if np.isfinite(mine.value + other.value).any()
        else np.inf
        for other in others
    ]
    return int(np.argmin(scores))
