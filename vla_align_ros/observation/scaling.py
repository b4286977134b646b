"""How openpi and lerobot scale a picture, to the bit; our own way is `resize.area`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from vla_align_ros.observation.resize import Scaler, area
from vla_align_ros.types import Conventions


def antialiased(image: Any, width: int, height: int) -> Any:
    """As openpi's policy server does it: Pillow's bilinear filter, as wide as the picture shrinks; of the same dtype.
    Features shrink the model's picture so, too."""
    parts = [image] if image.dtype == np.uint8 else np.moveaxis(image, -1, 0)  # Pillow has no colours in float32
    scaled = [np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR)) for part in parts]
    return scaled[0] if image.dtype == np.uint8 else np.stack(scaled, axis=-1)


def interpolated(image: Any, width: int, height: int) -> Any:
    """As lerobot does it: between the nearest pixels, without antialiasing, not rounded: float32 in [0, 255]."""
    planes = torch.from_numpy(image.astype(np.float32)).movedim(-1, 0)[None] / 255.0
    scaled = functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)[0]
    return scaled.clamp(0.0, 1.0).movedim(0, -1).numpy() * np.float32(255.0)


SCALERS: Final[dict[Conventions, Scaler]] = {"zoo": area, "openpi": antialiased, "lerobot": interpolated}
