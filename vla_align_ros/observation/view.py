"""What a model is shown of a camera's letterboxed picture, where that is not all of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from vla_align_ros.types import Float64Array, Picture

_OUTLINE_POINTS = 64
_HalfWidth = Annotated[float, Field(gt=0, le=0.5)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class View:
    """A circle (its radius) or a square (half its side) about the picture's middle, in picture widths: one of both.

    All around it is black, in training and on the robot. So a picture that was turned afterwards (a virtual robot's)
    and one of a camera that is mounted so are black in the same places: a turned square's corners would say how far it
    was turned, and a model would read that off, which no real robot shows.
    """

    circle: _HalfWidth | None = None
    square: _HalfWidth | None = None

    def __post_init__(self) -> None:
        if (self.circle is None) == (self.square is None):
            raise ValueError("a view is {circle: radius} or {square: half a side}, one of both, in picture widths")

    def shown(self, images: Picture) -> Picture:
        """(..., size, size, 3) from 0, black, upwards -> the same with black around the view."""
        return np.asarray(images * _mask(self.circle, self.square, images.shape[-2])[..., None], images.dtype)

    def outline(self) -> Float64Array:
        """(k, 2): x and y from the picture's middle, in picture widths."""
        angle = np.linspace(0.0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)  # the square's corners are among them
        ray = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        if self.circle is not None:
            return np.asarray(self.circle * ray, np.float64)
        assert self.square is not None
        return np.asarray(self.square * ray / np.abs(ray).max(axis=1, keepdims=True), np.float64)


@lru_cache(maxsize=64)
def _mask(circle: float | None, square: float | None, size: int) -> NDArray[np.uint8]:
    """(size, size): 1 for a pixel that lies in the view with all of its corners."""
    farthest = np.abs((np.arange(size) + 0.5) / size - 0.5) + 0.5 / size
    x, y, rounding = farthest[None, :], farthest[:, None], 1e-9
    inside = np.hypot(x, y) <= circle + rounding if circle is not None else np.maximum(x, y) <= (square or 0) + rounding
    return inside.astype(np.uint8)
