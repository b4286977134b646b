"""Any camera image -> the square that the model sees: openpi's letterbox geometry."""

from __future__ import annotations

from typing import Any, Protocol

import cv2
import numpy as np

from vla_align_ros.types import Picture


class Scaler(Protocol):
    """(h, w, 3) uint8 or float32 in [0, 255] -> (height, width, 3), of the same dtype or float32."""

    def __call__(self, image: Any, width: int, height: int) -> Any: ...


def area(image: Picture, width: int, height: int) -> Picture:
    """Shrinking averages areas, growing interpolates linearly."""
    shrinks = image.shape[0] > height or image.shape[1] > width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), image.dtype)


def letterbox(image: Any, size: int, scale: Scaler = area) -> Any:
    """Scale `image` (height, width, 3) to fit into `size` x `size` without distortion, black around it.

    ratio = max(width, height) / size; the new sides are int(side / ratio), at least 1; the picture sits in the middle,
    an odd pixel of border goes to the bottom and right (openpi `resize_with_pad`: 480 x 640 -> 168 x 224, 28 black rows
    each side). scale: how (`scaling.py`), which decides the dtype.

    Returns (size, size, 3); `image` itself when it already has that size.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    ratio = max(width / size, height / size)
    new_height, new_width = max(1, int(height / ratio)), max(1, int(width / ratio))
    scaled = scale(image, new_width, new_height)
    if new_height == new_width == size:
        return scaled
    top, left = (size - new_height) // 2, (size - new_width) // 2
    boxed = np.zeros((size, size, 3), scaled.dtype)
    boxed[top : top + new_height, left : left + new_width] = scaled
    return boxed
