"""Pictures scaled as openpi, lerobot and the features scale them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from vla_align_ros.observation.resize import Scaler, area, letterbox
from vla_align_ros.observation.scaling import antialiased, interpolated


@pytest.mark.parametrize(("scale", "dtype"), [(area, np.uint8), (antialiased, np.uint8), (interpolated, np.float32)])
def test_a_picture_is_scaled_a_model_s_own_way(scale: Scaler, dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    boxed = letterbox(image, 24, scale)
    assert boxed.dtype == dtype
    exact = scale(image.astype(np.float32), 24, 18)
    assert exact.dtype == np.float32
    np.testing.assert_allclose(boxed[3:21], exact, atol=1.0 if dtype == np.uint8 else 0.0)


def test_features_are_given_what_they_make_of_the_model_s_picture() -> None:
    image = np.random.default_rng(0).uniform(0, 255, (28, 28, 3)).astype(np.float32)
    features = functional.interpolate(
        torch.from_numpy(image).movedim(-1, 0)[None], (8, 8), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(antialiased(image, 8, 8), features[0].movedim(0, -1).numpy(), atol=1e-4)
