"""What a model is shown of a picture: the same part of everybody's."""

import numpy as np
import pytest
from pydantic import ValidationError

from vla_align_ros.observation.view import View


def white(size: int) -> np.ndarray:
    return np.full((2, size, size, 3), 255, np.uint8)


@pytest.mark.parametrize("size", [16, 31, 96])
def test_a_circle_stays_the_same_however_a_picture_is_turned_or_mirrored(size: int) -> None:
    shown = View(circle=0.5).shown(white(size))
    for other in (np.rot90(shown, axes=(1, 2)), shown[:, ::-1], shown[:, :, ::-1]):
        np.testing.assert_array_equal(shown, other)
    assert not shown[:, 0, 0].any()
    assert shown[:, size // 2, size // 2].all()
    assert np.pi / 4 * (1 - 3 / size) ** 2 < (shown > 0).mean() <= np.pi / 4  # whole pixels only


def test_a_square_shows_whole_pixels_and_the_widest_one_all() -> None:
    np.testing.assert_array_equal(View(square=0.5).shown(white(10)), white(10))
    shown = View(square=0.25).shown(white(8))[0, :, :, 0] > 0
    assert shown.sum() == 16
    assert shown[2:6, 2:6].all()
    assert View(square=0.26).shown(white(8)).sum() == shown.sum() * 255 * 3 * 2


def test_the_outline_is_the_edge() -> None:
    np.testing.assert_allclose(np.hypot(*View(circle=0.3).outline().T), 0.3)
    square = View(square=0.3).outline()
    np.testing.assert_allclose(np.abs(square).max(1), 0.3)
    assert any(np.allclose(point, [0.3, 0.3]) for point in square)


@pytest.mark.parametrize(
    "raw", [{}, {"circle": 0.4, "square": 0.4}, {"circle": 0.0}, {"circle": 0.6}, {"square": float("nan")}, {"star": 1}]
)
def test_another_view_is_refused(raw: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        View(**raw)
