"""What n tables look like at one moment: everything that a picture shows and a task asks about."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.joints import NUM_JOINTS, FloatArray
from vla_align_ros.bench.so101.scene import CUBES, PADS

Index = NDArray[np.int64] | NDArray[np.bool_] | slice | int


@dataclass(frozen=True)
class State:
    """n tables; in a recording the leading shape is (ticks, n).

    angle_rad (n, 6): true joint angles. cube_m (n, 3, 3): middles of the cubes. cube_quat (n, 3, 4): their
    orientations, w first. pad_m (n, 3, 2): middles of the pads. In the orders of JOINT_NAMES, CUBES and PADS.
    """

    angle_rad: FloatArray
    cube_m: FloatArray
    cube_quat: FloatArray
    pad_m: FloatArray

    def __len__(self) -> int:
        return len(self.angle_rad)

    def __getitem__(self, index: Index | tuple[Index, ...]) -> State:
        return State(*(getattr(self, field.name)[index] for field in fields(self)))

    def flat(self) -> NDArray[np.float32]:
        """(..., FLAT_SIZE) float32, to be stored."""
        lead = self.angle_rad.shape[:-1]
        parts = [getattr(self, field.name).reshape(*lead, -1) for field in fields(self)]
        return np.concatenate(parts, axis=-1).astype(np.float32)


_SHAPES = ((NUM_JOINTS,), (len(CUBES), 3), (len(CUBES), 4), (len(PADS), 2))
FLAT_SIZE = sum(int(np.prod(shape)) for shape in _SHAPES)


def from_flat(flat: NDArray[np.float32]) -> State:
    """The state of `State.flat`, (..., FLAT_SIZE)."""
    parts = np.split(flat.astype(np.float64), np.cumsum([int(np.prod(shape)) for shape in _SHAPES])[:-1], axis=-1)
    return State(*(part.reshape(*flat.shape[:-1], *shape) for part, shape in zip(parts, _SHAPES, strict=True)))


def yaw_rad(quat: FloatArray) -> FloatArray:
    """Heading (...) of orientations (..., 4)."""
    w, x, y, z = np.moveaxis(quat, -1, 0)
    heading: FloatArray = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return heading
