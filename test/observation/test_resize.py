from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.observation.resize import letterbox


def bright_box(boxed: np.ndarray) -> tuple[int, int, int, int]:
    """Rows above, rows below, columns left and right of the picture."""
    rows, columns = np.nonzero(boxed.any(axis=2))
    size = len(boxed)
    return rows.min(), size - 1 - rows.max(), columns.min(), size - 1 - columns.max()


@pytest.mark.parametrize(
    ("height", "width", "size", "border"),
    [
        (480, 640, 224, (28, 28, 0, 0)),
        (640, 480, 224, (0, 0, 28, 28)),
        (100, 100, 64, (0, 0, 0, 0)),
        (3, 5, 10, (2, 2, 0, 0)),
        (5, 9, 8, (2, 2, 0, 0)),
        (4, 9, 8, (2, 3, 0, 0)),  # 4 / (9/8) -> 3 rows, 5 of border: the odd one at the bottom
        (1, 1000, 16, (7, 8, 0, 0)),  # never less than one row
    ],
)
def test_the_geometry_is_openpis(height: int, width: int, size: int, border: tuple[int, int, int, int]) -> None:
    boxed = letterbox(np.full((height, width, 3), 200, np.uint8), size)
    assert bright_box(boxed) == border
    assert set(np.unique(boxed)) <= {0, 200}


def test_an_image_of_the_right_size_is_returned_itself() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    assert letterbox(image, 64) is image


def test_shrinking_averages_so_that_fine_patterns_do_not_alias() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 252
    assert (letterbox(stripes, 16) == 63).all()


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 64))
def test_every_size_fits(height: int, width: int, size: int) -> None:
    boxed = letterbox(np.full((height, width, 3), 9, np.uint8), size)
    assert boxed.shape == (size, size, 3)
    assert boxed.dtype == np.uint8
    assert min(bright_box(boxed)[:2]) == 0 or min(bright_box(boxed)[2:]) == 0
