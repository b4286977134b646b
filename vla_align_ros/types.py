"""The three things that travel through the system, and the legend of their shapes.

Legend: B batch, H action horizon, A action dim, S state dim, C cameras, N tokens, F numbers in all
feature tokens together, W expert width. Images are uint8, HWC, RGB. Time is integer nanoseconds of the ROS clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class Observation:
    """What the robot sees and feels at one control tick.

    images: camera name -> (height, width, 3) uint8 RGB; a missing camera is absent from the mapping.
    state: (S,) float32 in ROS's units (rad, m, a second), field by field as the robot description says.
    prompt: the instruction in words.
    stamp_ns: the control tick, in nanoseconds.
    """

    images: Mapping[str, UInt8Array]
    state: Float32Array
    prompt: str
    stamp_ns: int


@dataclass(frozen=True)
class ActionChunk:
    """H future actions in ROS's units, field by field as the robot description says, the first one for `stamp_ns`.

    actions: (H, A) float32; row i holds from stamp_ns + i * period_ns to stamp_ns + (i + 1) * period_ns.
    start: (A,) float32, the measured positions of the commanded joints that the chunk starts from.
    """

    actions: Float32Array
    start: Float32Array
    stamp_ns: int
    period_ns: int


@dataclass(frozen=True)
class Experience:
    """One lesson about the robot: what it saw, the H commands that were sent, what it saw after them.

    commands: (H, A) float32 in ROS's units, for ticks k .. k+H-1, across chunk seams.
    episode: counts up with every activation gap over 1 s or change of prompt.
    """

    observation: Observation
    commands: Float32Array
    next_observation: Observation
    episode: int
