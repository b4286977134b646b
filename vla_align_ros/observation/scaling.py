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
    """As openpi's policy server does it: Pillow's bilinear filter, as wide as the picture shrinks."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def interpolated(image: Any, width: int, height: int) -> Any:
    """As lerobot does it: between the nearest pixels, without antialiasing; of float32, in [0, 255], not rounded."""
    planes = torch.from_numpy(image.astype(np.float32)).movedim(-1, 0)[None] / 255.0
    scaled = functional.interpolate(planes, (height, width), mode="bilinear", align_corners=False)[0]
    found = scaled.clamp(0.0, 1.0).movedim(0, -1).numpy() * np.float32(255.0)
    return found if image.dtype == np.float32 else np.rint(found).astype(np.uint8)


SCALERS: Final[dict[Conventions, Scaler]] = {"zoo": area, "openpi": antialiased, "lerobot": interpolated}
