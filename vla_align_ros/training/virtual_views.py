"""Which part of a camera's picture is known for every virtual robot, so that the model may be shown that part.

A turned picture lacks its corners, a shifted one a side. A model with a view (`observation/view.py`) sees black there,
whoever made the picture; without one it would see what filled the gap, which no real robot shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from vla_align_ros.experience.source import Source
from vla_align_ros.observation.view import View
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.training.recipe import RecipeError
from vla_align_ros.training.virtual_parameters import Parameters, homography
from vla_align_ros.training.virtual_recipe import VirtualRobots
from vla_align_ros.training.virtual_robot import through
from vla_align_ros.types import Float64Array, Picture

CONTENT_SAMPLES = 16
BLACK = 8  # and darker: a video's bars are not quite black
_ROLLS = 9  # angles at which a view is tried


def check_views(base: Source, recipe: VirtualRobots, config: ModelConfig, size: int) -> None:
    """Raises RecipeError for a camera whose view reaches beyond what a picture of a real one holds."""
    contents, swaps = _contents(base, config.architecture.action_horizon, size), recipe.camera_swaps
    for camera in config.robot.cameras:
        shown = {camera, *(other for pair in swaps if camera in pair for other in pair)} & set(contents)
        maps = {real: list(_extremes(recipe, config.robot, real)) for real in shown}
        view = config.views.get(camera)
        if all(len(some) == 1 for some in maps.values()) or (view is not None and _inside(view, maps, contents)):
            continue
        largest = [(shape, _largest(shape, maps, contents)) for shape in ("circle", "square")]
        best = " or ".join(f"{{{camera}: {{{shape}: {half:g}}}}}" for shape, half in largest if half)
        raise RecipeError(
            f"virtual: camera {camera!r} is turned, moved or zoomed beyond its picture, so that the model may be shown "
            f"a part of it only: model.yaml needs views: {best or 'nothing would be left'}, or less, got {view}"
        )


def _largest(shape: str, maps: Mapping[str, Sequence[Float64Array]], contents: Mapping[str, Float64Array]) -> float:
    """Half the width of a view, in hundredths of a picture; 0 where none fits."""
    halves = (half / 100 for half in range(50, 0, -1))
    return next((half for half in halves if _inside(View(**{shape: half}), maps, contents)), 0.0)


def _inside(view: View, maps: Mapping[str, Sequence[Float64Array]], contents: Mapping[str, Float64Array]) -> bool:
    """Whether all that a view shows is in the pictures' contents."""
    outline, rounding = view.outline(), 1e-6
    for real, some in maps.items():
        low, high = contents[real] - 0.5
        for to_real in some:
            points = through(to_real, outline)
            if (points < low - rounding).any() or (points > high + rounding).any():
                return False
    return True


def _extremes(recipe: VirtualRobots, robot: RobotDescription, camera: str) -> Iterator[Float64Array]:
    """`Mounted.to_real` of a camera at the ends of all ranges, and unshifted; one where nothing moves it."""
    named = recipe.named(robot)

    def ends(family: str, neutral: float) -> list[float]:
        return sorted({neutral, *named[family].get(camera, ())})

    low, high = named["camera_roll_rad"].get(camera, (0.0, 0.0))
    rolls = sorted({0.0, *np.linspace(low, high, _ROLLS).tolist()})
    tilts, zooms, shifts = ends("camera_tilt_rad", 0.0), ends("camera_zoom", 1.0), ends("camera_shifts", 0.0)
    for roll, x, y, zoom, right, down in product(rolls, tilts, tilts, zooms, shifts, shifts):
        parameters = Parameters(
            camera_roll_rad={camera: roll},
            camera_tilt_rad={camera: (x, y)},
            camera_zoom={camera: zoom},
            camera_shifts={camera: (right, down)},
        )
        yield homography(parameters, camera, recipe.field_of_view_rad.get(camera))


def _contents(base: Source, horizon: int, size: int) -> dict[str, Float64Array]:
    """Of each camera the first and the last x and y, (2, 2) in widths from the top left, within which its pictures are
    not black in all of some samples: a letterbox's bars are no part of a picture."""
    rng = rng_of(0, Stream.CONTENT)
    rows = rng.integers(0, len(base.robots), CONTENT_SAMPLES)
    found: dict[str, list[Picture]] = {}
    for item in base.samples(rows, horizon, size, rng).experiences:
        for camera, image in item.observation.images.items():
            found.setdefault(camera, []).append(image)
    contents = {}
    for camera, images in found.items():
        seen = np.max(np.stack(images), axis=(0, 3)) > BLACK
        ends = []
        for axis in (0, 1):  # columns say where x begins and ends, rows where y does
            there = np.flatnonzero(seen.any(axis=axis))
            ends.append((there[0] / size, (there[-1] + 1) / size) if len(there) else (0.5, 0.5))
        contents[camera] = np.array(ends, np.float64).T
    return contents
