"""What n arms did, as states: pictures are drawn and the expert is asked when a sample is wanted, not before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101 import experts
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.pictures import SUPERSAMPLE, draw
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.skeleton import Skeletons, rows_of
from vla_align_ros.bench.so101.state import State, from_flat
from vla_align_ros.bench.so101.tasks import Assignments
from vla_align_ros.types import Float32Array, UInt8Array

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Recording:
    """T ticks of n arms, 180 bytes a tick and arm.

    states (T+1, n, FLAT_SIZE): `State.flat` before each tick and after the last. readings (T+1, n, 6): the encoders,
    rad. commands (T, n, 6): what was sent at each tick, rad. asked: of n arms. arm (n,): which embodiment each is, in
    whatever list the reader keeps (`dataclasses.replace` gives it other numbers). tick_s: one control tick.
    """

    states: Float32Array
    readings: Float32Array
    commands: Float32Array
    asked: Assignments
    arm: NDArray[np.int64]
    tick_s: float

    def state(self, tick: Rows, row: Rows) -> State:
        """k of its states, (k,) ticks and (k,) arms."""
        return from_flat(self.states[tick, row])


def joined(recordings: Sequence[Recording]) -> Recording:
    """Recordings of equal length and tick side by side. Raises ValueError for others."""
    lengths = {(len(part.commands), part.tick_s) for part in recordings}
    if len(lengths) != 1:
        raise ValueError(f"expected recordings of one length and tick, got (ticks, tick_s) {sorted(lengths)}")
    states, readings, commands = (
        np.concatenate([getattr(part, name) for part in recordings], axis=1)
        for name in ("states", "readings", "commands")
    )
    asked = [part.asked for part in recordings]
    return Recording(
        states,
        readings,
        commands,
        Assignments(
            np.concatenate([part.task for part in asked]),
            np.concatenate([part.cube for part in asked]),
            np.concatenate([part.pad for part in asked]),
            tuple(prompt for part in asked for prompt in part.prompts),
        ),
        np.concatenate([part.arm for part in recordings]),
        recordings[0].tick_s,
    )


@dataclass(frozen=True)
class Samples:
    """k samples. images, next_images (k, C, S, S, 3) uint8: at a tick, and H ticks later. readings (k, 6) rad.
    actions (k, H, 6) rad: what the expert would send. commands (k, H, 6) rad: what was sent. prompts; arm (k,).
    """

    images: UInt8Array
    next_images: UInt8Array
    readings: Float32Array
    actions: Float32Array
    commands: Float32Array
    prompts: tuple[str, ...]
    arm: NDArray[np.int64]


def draw_samples(
    recording: Recording,
    embodiments: Sequence[Embodiment],
    arms: Skeletons,
    tick: Rows,
    row: Rows,
    horizon: int,
    size: int,
    *,
    beyond: int = 0,
    supersample: int = SUPERSAMPLE,
    threads: int = 1,
    cameras: Sequence[str] = CAMERAS,
) -> Samples:
    """Samples at k (tick, row) of a recording; embodiments and arms are the list that `recording.arm` counts. beyond:
    how many actions and commands more than H there are.

    Raises ValueError for a tick with less than a horizon after it.
    """
    last = len(recording.commands) - horizon - beyond
    if len(tick) and not 0 <= tick.min() <= tick.max() <= last:
        raise ValueError(f"expected ticks from 0 to {last}, got {tick.min()} to {tick.max()}")
    arm = recording.arm[row]
    mine, state = rows_of(arms, arm), recording.state(tick, row)
    images, next_images = (
        draw(mine, seen, size, supersample, threads, cameras) for seen in (state, recording.state(tick + horizon, row))
    )
    return Samples(
        images,
        next_images,
        recording.readings[tick, row],
        labels(recording, embodiments, arms, tick, row, horizon + beyond),
        recording.commands[tick[:, None] + np.arange(horizon + beyond), row[:, None]],
        tuple(recording.asked.prompts[place] for place in row),
        arm,
    )


def labels(
    recording: Recording, embodiments: Sequence[Embodiment], arms: Skeletons, tick: Rows, row: Rows, horizon: int
) -> Float32Array:
    """What the expert would send at k (tick, row), whoever was at work then, (k, horizon, 6) rad float32."""
    arm = recording.arm[row]
    state, asked = recording.state(tick, row), recording.asked[row]
    targets = experts.plan(rows_of(arms, arm), state, asked, horizon, recording.tick_s)
    return experts.commands([embodiments[place] for place in arm], targets).astype(np.float32)
