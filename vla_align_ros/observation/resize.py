"""Any camera image -> the square that the model sees: openpi's letterbox geometry."""

from __future__ import annotations

import cv2
import numpy as np

from vla_align_ros.types import UInt8Array


def letterbox(image: UInt8Array, size: int) -> UInt8Array:
    """Scale `image` (height, width, 3) uint8 to fit into `size` x `size` without distortion, black around it.

    ratio = max(width, height) / size; the new sides are int(side / ratio), at least 1; the picture sits in the middle,
    an odd pixel of border goes to the bottom and right (openpi `resize_with_pad`: 480 x 640 -> 168 x 224, 28 black rows
    each side). Shrinking averages areas, growing interpolates linearly.

    Returns (size, size, 3) uint8; `image` itself when it already has that size.
    """
    height, width = image.shape[:2]
    if height == width == size:
        return image
    ratio = max(width / size, height / size)
    new_height, new_width = max(1, int(height / ratio)), max(1, int(width / ratio))
    scaled = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR)
    if new_height == new_width == size:
        return np.asarray(scaled, np.uint8)
    top, left = (size - new_height) // 2, (size - new_width) // 2
    boxed = np.zeros((size, size, 3), np.uint8)
    boxed[top : top + new_height, left : left + new_width] = scaled
    return boxed
