"""What cameras send, whole or refused by name. `make test-oldest` runs this with the oldest OpenCV as well."""

from __future__ import annotations

import re
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rosbags.typesys.stores import ros2_jazzy as ros

from vla_align_ros.observation.codecs import COMPRESSED_IMAGE, IMAGE, TYPESTORE, decode_image
from vla_align_ros.observation.images import ENCODINGS, decompressed, to_rgb
from vla_align_ros.observation.refusal import MessageReason, MessageRefused

SCENE = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (64, 48))  # RGB
MOSAICS = {  # encoding -> colour (an index into RGB) of the first two pixels of the first two rows
    "bayer_rggb8": ((0, 1), (1, 2)),
    "bayer_bggr8": ((2, 1), (1, 0)),
    "bayer_gbrg8": ((1, 2), (0, 1)),
    "bayer_grbg8": ((1, 0), (2, 1)),
}


def packed(suffix: str, image: np.ndarray = SCENE, *options: int) -> np.ndarray:
    """A file with this image, whose first channel is what a reader will take for blue."""
    return cv2.imencode(suffix, image, options)[1].reshape(-1)


JPEGS = {
    "baseline": packed(".jpg", SCENE[..., ::-1]),
    "progressive": packed(".jpg", SCENE[..., ::-1], cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": packed(".jpg", SCENE[..., ::-1], cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
}
FILES = {**JPEGS, "png": packed(".png", SCENE[..., ::-1])}


def refused(data: np.ndarray, image_format: str = "jpeg") -> MessageRefused:
    with pytest.raises(MessageRefused) as caught:
        decompressed(data, image_format)
    return caught.value


# --- encodings ---


def yuv_of(rgb: np.ndarray, luma_at: int) -> np.ndarray:
    """(h, w, 2) 4:2:2 of an image whose colour is the same in each row: luma at place 0 (yuyv) or 1 (uyvy)."""
    red, green, blue = rgb.astype(float).transpose(2, 0, 1)
    luma = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    u = 128 - 0.148 * red - 0.291 * green + 0.439 * blue
    v = 128 + 0.439 * red - 0.368 * green - 0.071 * blue
    chroma = np.where(np.arange(rgb.shape[1]) % 2 == 0, u, v)
    return np.stack([luma, chroma] if luma_at == 0 else [chroma, luma], axis=2).round().astype(np.uint8)


@pytest.mark.parametrize(("encoding", "luma_at"), [("uyvy", 1), ("yuv422", 1), ("yuyv", 0), ("yuv422_yuy2", 0)])
@pytest.mark.parametrize("padding", [0, 6])
def test_yuv_422_becomes_rgb(encoding: str, luma_at: int, padding: int) -> None:
    rgb = np.full((4, 6, 3), (230, 120, 30), np.uint8)
    rows = np.pad(yuv_of(rgb, luma_at).reshape(4, -1), ((0, 0), (0, padding)))
    np.testing.assert_allclose(to_rgb(rows.reshape(-1), 6, 4, rows.shape[1], encoding).astype(int), rgb, atol=5)


@pytest.mark.parametrize("encoding", MOSAICS)
def test_a_bayer_mosaic_becomes_rgb(encoding: str) -> None:
    colour = np.array([230, 120, 30], np.uint8)
    mosaic = np.tile(colour[np.array(MOSAICS[encoding])], (4, 4))
    np.testing.assert_array_equal(to_rgb(mosaic.reshape(-1), 8, 8, 8, encoding), np.full((8, 8, 3), colour))


@pytest.mark.parametrize(
    ("encoding", "todo"),
    [
        *[(name, "publish the image as rgb8, bgr8 or mono8") for name in ("8UC3", "8UC1", "8UC4")],
        *[(name, "name the camera's colour topic") for name in ("16UC1", "mono16", "32FC1", "rgb16", "bayer_rggb16")],
        *[(name, "convert it") for name in ("nv21", "nv24", "RGB8", "", "h264")],
    ],
)
@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_an_encoding_that_is_not_supported_is_named_with_what_to_do(
    encoding: str, todo: str, is_bigendian: int
) -> None:
    header = ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(1, 0), "")
    message = ros.sensor_msgs__msg__Image(header, 4, 6, encoding, is_bigendian, 48, np.zeros(4 * 48, np.uint8))
    with pytest.raises(MessageRefused, match="supported are rgb8, bgr8,") as caught:
        decode_image(TYPESTORE.serialize_cdr(message, IMAGE), IMAGE)
    assert caught.value.reason is MessageReason.WRONG_ENCODING
    assert repr(encoding) in str(caught.value)
    assert todo in str(caught.value)


@pytest.mark.parametrize(("encoding", "width"), [("uyvy", 5), ("yuyv", 1), ("bayer_rggb8", 2)])
def test_a_size_that_an_encoding_cannot_have_is_refused(encoding: str, width: int) -> None:
    step = width * ENCODINGS[encoding][0]
    with pytest.raises(MessageRefused, match=encoding) as caught:
        to_rgb(np.zeros(2 * step, np.uint8), width, 2, step, encoding)
    assert caught.value.reason is MessageReason.WRONG_SIZE


@given(st.sampled_from(sorted(ENCODINGS)), st.integers(0, 9), st.integers(0, 9), st.integers(0, 3), st.data())
def test_every_size_gives_rgb_or_a_refusal(
    encoding: str, width: int, height: int, padding: int, data: st.DataObject
) -> None:
    step = width * ENCODINGS[encoding][0] + padding
    pixels = np.frombuffer(data.draw(st.binary(min_size=step * height, max_size=step * height)), np.uint8)
    with suppress(MessageRefused):
        assert to_rgb(pixels, width, height, step, encoding).shape == (height, width, 3)


# --- the format of compressed images ---

AS_STORED, SWAPPED = SCENE, SCENE[..., ::-1]


@pytest.mark.parametrize(
    ("image_format", "expected"),
    [
        ("rgb8; png compressed bgr8", SWAPPED),
        ("bgr8; png compressed bgr8", SWAPPED),
        ("yuv422_yuy2; png compressed bgr8", SWAPPED),
        ("rgb8; png compressed rgb8", AS_STORED),
        ("bgr8; png compressed rgb8", AS_STORED),
        ("rgba8; png compressed rgba8", AS_STORED),
        # what does not follow CompressedImage.msg is in the usual order, whatever it says
        ("png", SWAPPED),
        ("", SWAPPED),
        ("rgb8", SWAPPED),
        ("rgb8; jpeg", SWAPPED),
    ],
)
@pytest.mark.parametrize("alpha", [False, True])
def test_the_format_says_in_which_order_colours_were_compressed(
    image_format: str, expected: np.ndarray, alpha: bool
) -> None:
    image = np.dstack([SCENE, np.full(SCENE.shape[:2], 77, np.uint8)]) if alpha else SCENE
    np.testing.assert_array_equal(decompressed(packed(".png", image), image_format), expected)


@pytest.mark.parametrize(
    "image_format", ["mono8; jpeg compressed mono8", "mono8; png compressed ", "rgb8; jpeg", "png"]
)
def test_a_grey_picture_has_no_order(image_format: str) -> None:
    grey = SCENE[..., 0]
    np.testing.assert_array_equal(decompressed(packed(".png", grey), image_format), np.dstack([grey] * 3))


def test_a_compressed_mosaic_is_still_a_mosaic() -> None:
    mosaic = np.tile(np.array([[230, 120], [120, 30]], np.uint8), (4, 4))
    rgb = decompressed(packed(".png", mosaic), "bayer_rggb8; png compressed ")
    np.testing.assert_array_equal(rgb, np.full((8, 8, 3), (230, 120, 30)))


@pytest.mark.parametrize(
    ("image", "image_format", "named"),
    [
        (SCENE[..., 0].astype(np.uint16), "16UC1; png compressed ", "16UC1"),
        (SCENE[..., 0].astype(np.uint16), "16UC1; compressedDepth png", "is a depth image"),
        (SCENE[..., 0].astype(np.uint16), "32FC1; compressedDepth", "is a depth image"),
        (SCENE[..., 0].astype(np.uint16), "png", "uint16"),
        (SCENE.astype(np.uint16), "rgb8; png compressed bgr8", "uint16"),
        (SCENE[..., 0], "mono16; jpeg compressed mono8", "mono16"),
        (SCENE, "8UC3; jpeg compressed ", "8UC3"),
        (SCENE, "rgb8; jpeg compressed ", "does not say in which order"),
        (SCENE, "mono8; jpeg compressed mono8", "does not say in which order"),
    ],
)
def test_depth_and_an_unknown_order_are_refused_by_name(image: np.ndarray, image_format: str, named: str) -> None:
    refusal = refused(packed(".png", image), image_format)
    assert refusal.reason is MessageReason.WRONG_ENCODING
    assert named in str(refusal)
    assert image_format.split(";")[0] in str(refusal)


@pytest.mark.parametrize("suffix", [".bmp", ".webp", ".tiff"])
def test_another_kind_of_file_is_refused_with_how_it_begins(suffix: str) -> None:
    data = packed(suffix)
    refusal = refused(data, "tiff")
    assert refusal.reason is MessageReason.UNDECODABLE
    assert data[:8].tobytes().hex(" ") in str(refusal)


# --- torn files ---


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_is_read_also_with_padding_behind_it(name: str) -> None:
    np.testing.assert_allclose(decompressed(FILES[name], name).astype(int), SCENE, atol=40)
    padded = np.concatenate([FILES[name], np.zeros(100, np.uint8)])
    np.testing.assert_array_equal(decompressed(padded, name), decompressed(FILES[name], name))


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_anywhere_is_refused(name: str) -> None:
    for length in range(8, len(FILES[name])):
        assert refused(FILES[name][:length]).reason is MessageReason.TORN_IMAGE


@pytest.mark.parametrize("name", FILES)
@given(where=st.floats(0, 1, exclude_max=True), filler=st.sampled_from([0, 255]))
def test_a_file_filled_up_after_a_cut_is_refused(name: str, where: float, filler: int) -> None:
    torn = FILES[name].copy()
    cut = 8 + int(where * (len(torn) - 10))
    torn[cut:] = filler
    assert refused(torn).reason is MessageReason.TORN_IMAGE


def test_a_jpeg_with_the_next_one_in_it_or_behind_it_is_refused() -> None:
    whole = JPEGS["baseline"]
    for joined in (np.concatenate([whole[: len(whole) // 2], whole]), np.concatenate([whole, whole])):
        assert refused(joined).reason is MessageReason.TORN_IMAGE


def test_a_jpeg_that_lost_bytes_in_the_middle_is_refused_where_it_has_restart_markers() -> None:
    whole = JPEGS["restarts"].tobytes()
    first, second = whole.index(b"\xff\xd1"), whole.index(b"\xff\xd2")
    lost = whole[: first + 5] + whole[second + 5 :]
    assert "out of order" in str(refused(np.frombuffer(lost, np.uint8)))


@pytest.mark.parametrize("name", JPEGS)
def test_a_marker_may_be_preceded_by_more_bytes_ff(name: str) -> None:
    filled = re.sub(rb"\xff(?=[\xd0-\xd7\xd9\xda])", b"\xff\xff\xff", JPEGS[name].tobytes())
    assert len(filled) > len(JPEGS[name]) + 2
    np.testing.assert_array_equal(decompressed(np.frombuffer(filled, np.uint8), name), decompressed(JPEGS[name], name))


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_in_a_png_is_refused(place: int, change: int) -> None:
    damaged = FILES["png"].copy()
    damaged[place % len(damaged)] ^= change
    assert refused(damaged).reason in (MessageReason.TORN_IMAGE, MessageReason.UNDECODABLE)


def test_a_jpeg_without_a_picture_is_refused() -> None:
    assert "without a picture" in str(refused(np.frombuffer(b"\xff\xd8\xff\xd9", np.uint8)))


@given(st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6))
def test_damage_raises_nothing_but_a_refusal(name: str, changes: list[tuple[int, int]]) -> None:
    damaged = FILES[name].copy()
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with suppress(MessageRefused):
        assert decompressed(damaged, name).ndim == 3


def test_a_torn_jpeg_is_refused_on_its_way_in() -> None:
    header = ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(1, 0), "")
    data = JPEGS["baseline"][:-100]
    raw = TYPESTORE.serialize_cdr(ros.sensor_msgs__msg__CompressedImage(header, "jpeg", data), COMPRESSED_IMAGE)
    with pytest.raises(MessageRefused, match="torn_image"):
        decode_image(raw, COMPRESSED_IMAGE)
