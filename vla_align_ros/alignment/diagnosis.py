"""What commands and joint states alone say about a robot, without a network: per field gain, delay, offset, stillness.

    moved(k) = x(k + H) - x(k)              asked(k, d) = c(k + H - d) - c(k - d)
    gain     = sum asked * moved / sum asked^2      at the delay d that leaves the smallest squared rest

x is the measured position, c the commanded one (velocities added up), k the tick at which an experience starts, H its
ticks, d the delay in ticks. Intervals hold 95 % of 200 bootstrap draws over whole experiences. They do not count
commands that acted later than stamped, which make a gain smaller under a policy that corrects itself. A gain of -1 is a
joint that turns the wrong way; an offset (position commands only) is what is left of x - gain * c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Experience

Float64Array = NDArray[np.float64]
Interval = tuple[float, float]

DRAWS = 200  # of the bootstrap
GRID = 4  # delays tried in a tick
CLEARLY = 0.25  # of a field's 90th percentile of |asked|: from there on it was clearly asked to move
EFFORT_UNIT = {"rad": "Nm", "m": "N"}  # by the unit in which the joint moves
LEAST_CLEAR = 8  # experiences in which a field was clearly asked, to say anything about it


@dataclass(frozen=True)
class FieldDiagnosis:
    """One action field. Each value stands with its 95 % interval; None where the experience does not say.

    gain: moved over asked. delay_s: from command to motion. offset: in the joint's unit, of position commands.
    clear: experiences in which the field was clearly asked to move. still: share of them in which it moved less than a
    tenth of that. strayed: share in which it missed what gain and delay make it do by more than half.
    """

    name: str
    unit: str
    clear: int
    gain: float | None = None
    gain_interval: Interval | None = None
    delay_s: float | None = None
    delay_interval_s: Interval | None = None
    offset: float | None = None
    offset_interval: Interval | None = None
    still: float = 0.0
    strayed: float = 0.0

    def sentence(self) -> str:
        """For a person."""
        if self.gain is None or self.gain_interval is None:
            return f"{self.name}: hardly asked to move ({self.clear} times), nothing can be said"
        low, high = self.gain_interval
        what = "moves as commanded"
        if self.still > 0.5:
            what = "stands still when asked to move: is it blocked, at its stop, or its motor off?"
        elif high < 0:
            what = "moves against its command: is its direction reversed?"
        elif low <= 0:
            what = "does not follow its command: is it another joint's, or another robot's?"
        elif not low - 0.05 <= 1.0 <= high + 0.05:
            what = "moves less than commanded" if self.gain < 1 else "moves farther than commanded"
        parts = [f"{self.name} {what}, gain {self.gain:.2f} ({low:.2f} to {high:.2f})"]
        if self.delay_s is not None and self.delay_interval_s is not None:
            first, last = self.delay_interval_s
            parts.append(f"delay {self.delay_s * 1e3:.0f} ms ({first * 1e3:.0f} to {last * 1e3:.0f})")
        if self.offset is not None and self.offset_interval is not None:
            first, last = self.offset_interval
            parts.append(f"offset {self.offset:.3f} {self.unit} ({first:.3f} to {last:.3f})")
        if 0.02 < self.still <= 0.5:
            parts.append(f"still in {self.still:.0%} of it")
        if self.strayed > 0.02:
            parts.append(f"strayed in {self.strayed:.0%} of it")
        return ", ".join(parts)


@dataclass(frozen=True)
class FieldRange:
    """One state field: what it reads, in which unit of ROS, from where to where it went; None without experience.
    limits: of a position."""

    name: str
    reads: str
    unit: str
    low: float | None
    high: float | None
    limits: Interval | None

    def sentence(self) -> str:
        """For a person."""
        if self.low is None or self.high is None:
            return f"{self.name}: nothing measured ({self.reads}, {self.unit})"
        text = f"{self.name} from {self.low:.3f} to {self.high:.3f} {self.unit} ({self.reads})"
        if self.limits is None or (self.limits[0] <= self.low and self.high <= self.limits[1]):
            return text
        return f"{text}, beyond the limits {list(self.limits)}: are they this joint's, and is it in {self.unit}?"


def measured_ranges(experiences: Sequence[Experience], robot: RobotDescription) -> tuple[FieldRange, ...]:
    """One a state field."""
    states = np.array([seen.state for item in experiences for seen in (item.observation, item.next_observation)])
    found = []
    for column, field in enumerate(robot.state):
        joint, is_position = robot.joints[field.joint], field.entry == "position"
        unit = EFFORT_UNIT[joint.unit] if field.entry == "effort" else joint.unit + ("" if is_position else "/s")
        low, high = (float(states[:, column].min()), float(states[:, column].max())) if len(states) else (None, None)
        reads = f"{field.entry} of {field.joint}"
        found.append(FieldRange(field.label, reads, unit, low, high, joint.position if is_position else None))
    return tuple(found)


def diagnose(experiences: Sequence[Experience], robot: RobotDescription) -> tuple[FieldDiagnosis, ...]:
    """One diagnosis an action field, from experience in order of time (well-formed and finite: `align` checks that)."""
    fields = [(field.label, robot.joints[field.joint].unit) for field in robot.action]
    windows = _windows(experiences, robot)
    if windows is None:
        return tuple(FieldDiagnosis(name, unit, 0) for name, unit in fields)
    return tuple(
        _field(name, unit, column, windows, robot.kinds[column] != "velocity", robot.period_ns * 1e-9)
        for column, (name, unit) in enumerate(fields)
    )


@dataclass(frozen=True)
class _Windows:
    """N experiences: moved (N, A); asked (D, N, A) and the commanded end (D, N, A) at each delay; end (N, A) measured;
    delays (D,) in ticks."""

    delays: Float64Array
    moved: Float64Array
    asked: Float64Array
    end: Float64Array
    commanded_end: Float64Array


def _windows(experiences: Sequence[Experience], robot: RobotDescription) -> _Windows | None:
    """Those whose commands are known from the largest delay before their start on; None where there are none."""
    if not experiences:
        return None
    horizon = len(experiences[0].commands)
    longest = horizon // 2
    delays = np.arange(longest * GRID + 1) / GRID
    found = []
    for _, group in groupby(experiences, key=lambda item: item.episode):
        found += _of_episode(list(group), robot, horizon, delays)
    if not found:
        return None
    moved, end, asked, commanded_end = zip(*found, strict=True)
    return _Windows(delays, np.stack(moved), np.stack(asked, 1), np.stack(end), np.stack(commanded_end, 1))


def _of_episode(
    experiences: list[Experience], robot: RobotDescription, horizon: int, delays: Float64Array
) -> list[tuple[Float64Array, ...]]:
    first = experiences[0].observation.stamp_ns // robot.period_ns
    starts = [item.observation.stamp_ns // robot.period_ns - first for item in experiences]
    path = np.full((starts[-1] + horizon + 1, len(robot.action)), np.nan)  # commanded position at the end of tick i - 1
    steps = np.full_like(path, np.nan)
    velocity = robot.kinds == "velocity"
    for start, item in zip(starts, experiences, strict=True):
        before = robot.measured(item.observation.state)
        absolute = item.commands + np.where(robot.kinds == "delta_position", before, 0.0)
        path[start + 1 : start + 1 + horizon] = absolute
        steps[start + 1 : start + 1 + horizon] = item.commands * (robot.period_ns * 1e-9)
        if np.isnan(path[start]).any():
            path[start] = before
    path[:, velocity] = np.cumsum(np.nan_to_num(steps[:, velocity]), axis=0)
    known = np.asarray(~np.isnan(steps).any(axis=1))
    found: list[tuple[Float64Array, ...]] = []
    for start, item in zip(starts, experiences, strict=True):
        earliest = start - int(delays[-1])
        if earliest < 0 or not known[earliest + 1 : start + 1 + horizon].all():
            continue
        before, end = (robot.measured(seen.state) for seen in (item.observation, item.next_observation))
        commanded = _at(path, start - delays), _at(path, start + horizon - delays)
        found.append((end - before, end, commanded[1] - commanded[0], commanded[1]))
    return found


def _at(path: Float64Array, ticks: Float64Array) -> Float64Array:
    """(D, A) `path` at ticks (D,) that may lie between two rows."""
    row = np.floor(ticks).astype(int)
    share = (ticks - row)[:, None]
    after = np.minimum(row + 1, len(path) - 1)
    return np.asarray(path[row] * (1 - share) + path[after] * share)


def _field(name: str, unit: str, column: int, windows: _Windows, is_position: bool, period_s: float) -> FieldDiagnosis:
    moved, asked = windows.moved[:, column], windows.asked[:, :, column]
    size = np.abs(asked[0])
    clear = size > max(CLEARLY * float(np.quantile(size, 0.9)), 1e-6)
    count = int(clear.sum())
    if count < LEAST_CLEAR:
        return FieldDiagnosis(name, unit, count)
    rng = np.random.default_rng(0)
    everything = np.ones((1, len(moved)))
    drawn = rng.multinomial(len(moved), np.full(len(moved), 1 / len(moved)), DRAWS)
    weights = np.concatenate([everything, drawn])  # (1 + DRAWS, N)
    squares, products = weights @ (asked**2).T, weights @ (asked * moved).T  # (1 + DRAWS, D)
    gains = products / np.maximum(squares, 1e-12)
    rest = weights @ (moved**2)[:, None] - gains * products
    best = rest.argmin(axis=1)
    chosen = np.arange(len(weights))
    gain, delay_s = gains[chosen, best], windows.delays[best] * period_s
    ends = windows.end[:, column] - gain[:, None] * windows.commanded_end[best, :, column]
    offset = (weights * ends).sum(1) / weights.sum(1)
    should = gain[0] * asked[best[0]]
    missed = np.abs(moved - should) > 0.5 * np.abs(should)
    return FieldDiagnosis(
        name,
        unit,
        count,
        float(gain[0]),
        _interval(gain[1:]),
        float(delay_s[0]),
        _interval(delay_s[1:]),
        float(offset[0]) if is_position else None,
        _interval(offset[1:]) if is_position else None,
        float((np.abs(moved) < 0.1 * size)[clear].mean()),
        float(missed[clear].mean()),
    )


def _interval(values: Float64Array) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
