"""Pixels as cameras send them -> RGB. What an encoding means is what cv_bridge and the message definitions say.

A picture is used whole or refused by name: OpenCV's versions differ in what they make of a torn JPEG (4.6 paints the
rest grey), so whether a file is whole is read from the file itself, before OpenCV sees it.
"""

from __future__ import annotations

import re
import struct
import zlib
from itertools import cycle
from typing import Final

import cv2
import numpy as np

from vla_align_ros.observation.refusal import MessageReason, MessageRefused
from vla_align_ros.types import UInt8Array

ENCODINGS: Final[dict[str, tuple[int, int | None]]] = {  # name -> bytes a pixel, OpenCV's conversion to RGB
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),  # the older name of uyvy
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),  # the older name of yuyv
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),  # OpenCV names a mosaic by its second row, from the second column on
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
}
LEAST_BAYER: Final = 3  # pixels a side; OpenCV makes a smaller mosaic black

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG: Final = b"\xff\xd8"
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# Any number of FF may come before a marker. The next two look for the last one: Python finds a pattern that begins with
# one byte 30 times as fast as one that begins with a run of it, which takes longer than to decode the picture.
_AFTER_SCAN: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)  # 00 is a data byte FF, D0 to D7 restarts
_RESTART: Final = re.compile(rb"\xff([\xd0-\xd7])")
_EOI, _SOS = 0xD9, 0xDA
_FORMAT: Final = re.compile(r"\s*([^;]*?)\s*;\s*\w+ compressed\s*(\w*)\s*")  # ORIG_PIXFMT; CODEC compressed [PIXFMT]


def to_rgb(data: UInt8Array, width: int, height: int, step: int, encoding: str) -> UInt8Array:
    """The data of an Image, rows of `step` bytes, as (height, width, 3) uint8 RGB; of rgb8 a view.

    Raises MessageRefused: wrong_encoding, empty_data, wrong_step, wrong_size.
    """
    _check_encoding(encoding)
    if width == 0 or height == 0 or len(data) == 0:
        raise MessageRefused(MessageReason.EMPTY_DATA, f"an image of {width} x {height} pixels with {len(data)} bytes")
    channels, _ = ENCODINGS[encoding]
    row_bytes = width * channels
    if step < row_bytes:
        raise MessageRefused(
            MessageReason.WRONG_STEP, f"{width} pixels of {encoding} need a step of {row_bytes}, got {step}"
        )
    if len(data) != step * height:
        text = f"{height} rows of step {step} are {step * height} bytes, got {len(data)}"
        raise MessageRefused(MessageReason.WRONG_SIZE, text)
    return _converted(data.reshape(height, step)[:, :row_bytes].reshape(height, width, channels), encoding)


def decompressed(data: UInt8Array, image_format: str) -> UInt8Array:
    """The data of a CompressedImage, a whole JPEG or PNG, as (height, width, 3) uint8 RGB.

    image_format: as CompressedImage.msg says, `rgb8; jpeg compressed bgr8`. Anything else, as `jpeg`, is an image in
    the usual order of colours. Raises MessageRefused: empty_data, wrong_encoding, torn_image, undecodable.
    """
    if len(data) == 0:
        raise MessageRefused(MessageReason.EMPTY_DATA, f"a compressed image (format {image_format!r}) with no bytes")
    if "compressedDepth" in image_format:
        text = f"format {image_format!r} is a depth image: name the camera's colour topic"
        raise MessageRefused(MessageReason.WRONG_ENCODING, text)
    as_said = _FORMAT.fullmatch(image_format)
    if as_said:
        _check_encoding(as_said[1])
    _check_whole(data.tobytes(), image_format)
    try:  # unchanged: no rotation by EXIF, as compressed_image_transport does it
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        text = f"{len(data)} bytes of format {image_format!r} look like a JPEG or PNG, and OpenCV cannot read them"
        raise MessageRefused(MessageReason.UNDECODABLE, text)
    if pixels.dtype != np.uint8:
        text = f"a picture of {pixels.dtype} (format {image_format!r}), 8 bits a channel are needed; is it depth?"
        raise MessageRefused(MessageReason.WRONG_ENCODING, text)
    pixels = np.asarray(pixels, np.uint8).reshape(*pixels.shape[:2], -1)
    original, stored = as_said.groups() if as_said else ("", "")
    return _converted(pixels, _encoding_of(pixels.shape[2], original, stored, image_format))


def _encoding_of(channels: int, original: str, stored: str, image_format: str) -> str:
    """What OpenCV read. It takes every file for BGR; a publisher that compressed RGB says so in the format."""
    if channels == 1:
        return original if original.startswith("bayer") else "mono8"
    if original and not (stored.startswith(("rgb", "bgr")) and ENCODINGS[original][0] > 1):
        text = f"{channels} channels, and format {image_format!r} does not say in which order: expected bgr8 or rgb8"
        raise MessageRefused(MessageReason.WRONG_ENCODING, f"{text} at its end, or only 'jpeg' or 'png'")
    order = "rgb" if stored.startswith("rgb") else "bgr"
    return f"{order}8" if channels == 3 else f"{order}a8"


def _converted(pixels: UInt8Array, encoding: str) -> UInt8Array:
    """(height, width, bytes a pixel) -> (height, width, 3) RGB."""
    height, width, _ = pixels.shape
    channels, conversion = ENCODINGS[encoding]
    if channels == 2 and width % 2:
        raise MessageRefused(MessageReason.WRONG_SIZE, f"{encoding} is made of pairs of pixels, got a width of {width}")
    if encoding.startswith("bayer") and min(height, width) < LEAST_BAYER:
        raise MessageRefused(
            MessageReason.WRONG_SIZE, f"{encoding} of {width} x {height} pixels, at least {LEAST_BAYER} a side"
        )
    return pixels if conversion is None else np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)


def _check_encoding(encoding: str) -> None:
    if encoding in ENCODINGS:
        return
    todo = "convert it, or choose another format in the camera's driver"
    if re.fullmatch(r"8UC\d*", encoding):
        todo = "it does not say which colours, or in which order: publish the image as rgb8, bgr8 or mono8"
    elif re.search("16$|^(16|32|64)[USF]C", encoding):
        todo = "it has more than 8 bits a channel; if this is depth, name the camera's colour topic"
    raise MessageRefused(MessageReason.WRONG_ENCODING, f"{encoding!r}, supported are {', '.join(ENCODINGS)}: {todo}")


def _check_whole(data: bytes, image_format: str) -> None:
    """Raise MessageRefused for what is no JPEG or PNG (undecodable), or not a whole one (torn_image)."""
    if data[:2] == _JPEG:
        problem = _jpeg_problem(data)
    elif data[:8] == _PNG:
        problem = _png_problem(data)
    else:
        text = f"{len(data)} bytes of format {image_format!r} that begin with {data[:8].hex(' ')} are no JPEG or PNG"
        raise MessageRefused(MessageReason.UNDECODABLE, text)
    if problem:
        text = f"{len(data)} bytes of format {image_format!r}: {problem}; does the camera or the network drop data?"
        raise MessageRefused(MessageReason.TORN_IMAGE, text)


def _jpeg_problem(data: bytes) -> str:
    """Segment by segment to the end of the image. Empty when it is whole, as far as its markers tell.

    Bytes lost inside a scan show only where the camera sets restart markers: they count from 0 to 7.
    """
    place, scans = 2, 0
    while marker := _MARKER.match(data, place):
        kind, place = marker[1][0], marker.end()
        if kind == _EOI:
            rest = data[place:].strip(b"\x00\xff")
            if not scans:
                return "a JPEG without a picture"
            return f"{len(rest)} bytes behind the end of the JPEG" if rest else ""
        place += int.from_bytes(data[place : place + 2])
        if kind == _SOS:
            scans += 1
            end = _AFTER_SCAN.search(data, place)
            if end is None:
                break
            found = [restart[1][0] for restart in _RESTART.finditer(data, place, end.start())]
            if any(number != due for number, due in zip(found, cycle(range(0xD0, 0xD8)), strict=False)):
                return "a part of the JPEG is missing (its restart markers are out of order)"
            place = end.start()
    return "the JPEG ends too early"


def _png_problem(data: bytes) -> str:
    """Chunk by chunk to IEND, with checksums. Empty when it is whole."""
    place = len(_PNG)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        if data[place + 8 + length : place + 12 + length] != struct.pack(">I", zlib.crc32(body)):
            return "a PNG with a wrong checksum"
        if body[:4] == b"IEND":
            return ""
        place += 12 + length
    return "the PNG ends too early"
