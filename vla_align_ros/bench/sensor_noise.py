"""What a camera's sensor adds to a picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def with_sensor_noise(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A grey level more, less or none, (n, ...) uint8: a real sensor never sends the same picture twice."""
    noise = rng.integers(-1, 2, images.shape, np.int8)
    flat = (len(images), -1)
    noisy = cv2.add(images.reshape(flat), noise.reshape(flat), dtype=cv2.CV_8U)
    return np.asarray(noisy, np.uint8).reshape(images.shape)
