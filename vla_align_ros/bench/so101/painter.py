"""Triangles to pixels on the CPU: a z-buffer in numba, without OpenGL.

A pinhole camera looks along its -z. A pixel shows the nearest face whose projection holds its centre; a face that
turns its back to the camera is not drawn, and what lies nearer than NEAR_M is cut off.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.bench.so101.jit import jit

NEAR_M = 0.02
NOTHING = -1  # in place of a face

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


@jit
def raster(
    points: Float32Array, faces: Int32Array, focal: float, inverse_depth: Float32Array, nearest: Int32Array
) -> None:
    """Fill nearest (size, size) with the number of the face that each pixel shows, or NOTHING.

    points (n, 3): in the camera's frame. faces (m, 3): rows of `points`, counter-clockwise seen from outside.
    focal: in pixels. inverse_depth (size, size): for use here.
    """
    size = len(nearest)
    nearest[:] = NOTHING
    inverse_depth[:] = 0.0
    corners = np.empty((4, 3), np.float32)  # a triangle that is cut by the near plane has up to 4: x, y in px, 1/depth
    for face in range(len(faces)):
        count = _cut(points, faces, face, focal, size / 2, corners)
        for last in range(2, count):
            _fill(corners, last, face, inverse_depth, nearest)


@jit
def _cut(points: Float32Array, faces: Int32Array, face: int, focal: float, middle: float, corners: Float32Array) -> int:
    """Project what lies beyond the near plane into `corners`; returns how many there are."""
    count = 0
    for place in range(3):
        here, there = faces[face, place], faces[face, (place + 1) % 3]
        depth, next_depth = -points[here, 2], -points[there, 2]
        if depth >= NEAR_M:
            corners[count, 0] = middle + focal * points[here, 0] / depth
            corners[count, 1] = middle - focal * points[here, 1] / depth
            corners[count, 2] = 1.0 / depth
            count += 1
        if (depth >= NEAR_M) != (next_depth >= NEAR_M):
            share = (NEAR_M - depth) / (next_depth - depth)
            x = points[here, 0] + share * (points[there, 0] - points[here, 0])
            y = points[here, 1] + share * (points[there, 1] - points[here, 1])
            corners[count, 0], corners[count, 1] = middle + focal * x / NEAR_M, middle - focal * y / NEAR_M
            corners[count, 2] = 1.0 / NEAR_M
            count += 1
    return count


@jit
def _fill(corners: Float32Array, last: int, face: int, inverse_depth: Float32Array, nearest: Int32Array) -> None:
    """The triangle of corners 0, last - 1 and last."""
    x0, y0, i0 = corners[0, 0], corners[0, 1], corners[0, 2]
    x1, y1, i1 = corners[last - 1, 0], corners[last - 1, 1], corners[last - 1, 2]
    x2, y2, i2 = corners[last, 0], corners[last, 1], corners[last, 2]
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if area >= 0:  # y points down in a picture
        return
    edge = len(nearest) - 1.0
    left, right = max(0.0, np.ceil(min(x0, x1, x2) - 0.5)), min(edge, np.floor(max(x0, x1, x2) - 0.5))
    top, bottom = max(0.0, np.ceil(min(y0, y1, y2) - 0.5)), min(edge, np.floor(max(y0, y1, y2) - 0.5))
    if left > right or top > bottom:
        return
    across0, across1 = -(y2 - y1) / area, -(y0 - y2) / area
    for row in range(int(top), int(bottom) + 1):
        y, x = row + 0.5, left + 0.5
        w0 = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
        w1 = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
        for column in range(int(left), int(right) + 1):
            w2 = 1.0 - w0 - w1
            if w0 >= 0 and w1 >= 0 and w2 >= 0:
                inverse = w0 * i0 + w1 * i1 + w2 * i2
                if inverse > inverse_depth[row, column]:
                    inverse_depth[row, column] = inverse
                    nearest[row, column] = face
            w0 += across0
            w1 += across1


@jit
def shade(
    points: Float32Array, faces: Int32Array, colours: Float32Array, light: Float32Array, out: Float32Array
) -> None:
    """Fill out (m, 3) with each face's colour (m, 3) in the light: a unit vector to the lamp, in the camera's frame."""
    for face in range(len(faces)):
        a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-20
        facing = (nx * light[0] + ny * light[1] + nz * light[2]) / length
        for channel in range(3):
            out[face, channel] = min(255.0, colours[face, channel] * (0.55 + 0.45 * min(1.0, max(-0.3, facing))))


@jit
def resolve(
    nearest: Int32Array, shaded: Float32Array, background: Float32Array, mirrored: bool, image: NDArray[np.uint8]
) -> None:
    """Fill image (size, size, 3): each pixel is the mean of its k x k pixels of `nearest` (k size, k size)."""
    size = len(image)
    fine = len(nearest) // size
    share = np.float32(1.0 / (fine * fine))
    for row in range(size):
        for column in range(size):
            red = green = blue = np.float32(0.0)
            for y in range(row * fine, (row + 1) * fine):
                for x in range(column * fine, (column + 1) * fine):
                    face = nearest[y, x]
                    if face == NOTHING:
                        red, green, blue = red + background[0], green + background[1], blue + background[2]
                    else:
                        red, green, blue = red + shaded[face, 0], green + shaded[face, 1], blue + shaded[face, 2]
            to = size - 1 - column if mirrored else column
            image[row, to, 0] = np.uint8(red * share + 0.5)
            image[row, to, 1] = np.uint8(green * share + 0.5)
            image[row, to, 2] = np.uint8(blue * share + 0.5)
