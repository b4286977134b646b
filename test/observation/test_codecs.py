from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from robots import a_robot
from rosbags.typesys.stores import ros2_jazzy as ros

from vla_align_ros.action.trajectory import to_trajectory
from vla_align_ros.observation import codecs
from vla_align_ros.observation.codecs import (
    COMPRESSED_IMAGE,
    IMAGE,
    TYPESTORE,
    MessageReason,
    MessageRefused,
    decode_image,
    decode_positions,
    decode_string,
    decode_trajectory,
)
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.robot.description import StateField
from vla_align_ros.types import ActionChunk, Trajectory

NAMES = ("shoulder", "elbow")
READER = JointStateReader([StateField(joint=name) for name in NAMES])
STAMP_NS = 1_700_000_000_123_456_789
HEADER = ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(1_700_000_000, 123_456_789), "camera")

stamps = st.integers(1, (2**31 - 1) * 10**9)


def serialised(message: object) -> bytes:
    return bytes(TYPESTORE.serialize_cdr(message, message.__msgtype__))


def image_message(
    data: np.ndarray, width: int, height: int, encoding: str = "rgb8", step: int | None = None, header: object = HEADER
) -> bytes:
    step = width * {"mono8": 1, "rgba8": 4, "bgra8": 4}.get(encoding, 3) if step is None else step
    pixels = np.ascontiguousarray(data, np.uint8).reshape(-1)
    return serialised(ros.sensor_msgs__msg__Image(header, height, width, encoding, 0, step, pixels))


def trajectory_of(joints: tuple[str, ...] = NAMES) -> Trajectory:
    actions = np.arange(3 * len(joints), dtype=np.float32).reshape(3, -1)
    return to_trajectory(ActionChunk(actions, actions[0], STAMP_NS, 10**8), a_robot(names=joints), 2)


@given(stamps, hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_an_image_survives_the_wire(stamp_ns: int, image: np.ndarray) -> None:
    decoded = decode_image(codecs.encode_image(image, stamp_ns), IMAGE)
    assert decoded.stamp_ns == stamp_ns
    np.testing.assert_array_equal(decoded.image, image)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_string_survives_the_wire(text: str) -> None:
    assert decode_string(codecs.encode_string(text)) == text


def test_positions_survive_the_wire_and_others_are_refused() -> None:
    def sent(*positions: float) -> bytes:
        layout = ros.std_msgs__msg__MultiArrayLayout([ros.std_msgs__msg__MultiArrayDimension("", 2, 2)], 0)
        message = ros.std_msgs__msg__Float64MultiArray(layout, np.array(positions))
        return bytes(codecs.TYPESTORE.serialize_cdr(message, codecs.POSITIONS))

    assert decode_positions(sent(0.5, -1.0), 2).tolist() == [0.5, -1.0]
    for positions, reason in (((0.5,), MessageReason.LENGTH_MISMATCH), ((0.5, np.nan), MessageReason.NON_FINITE)):
        with pytest.raises(MessageRefused) as refused:
            decode_positions(sent(*positions), 2)
        assert refused.value.reason is reason


def test_a_trajectory_survives_the_wire() -> None:
    sent = trajectory_of()
    came = decode_trajectory(codecs.encode_trajectory(sent), NAMES)
    assert (came.stamp_ns, came.joint_names) == (sent.stamp_ns, sent.joint_names)
    for name in ("times_ns", "positions", "velocities"):
        np.testing.assert_array_equal(getattr(came, name), getattr(sent, name))


def test_trajectory_columns_follow_the_models_joint_order() -> None:
    came = decode_trajectory(codecs.encode_trajectory(trajectory_of()), NAMES[::-1])
    np.testing.assert_array_equal(came.velocities, trajectory_of().velocities[:, ::-1])


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8", "rgba8", "bgra8"])
@pytest.mark.parametrize("padding", [0, 5])
def test_every_encoding_becomes_rgb_and_row_padding_is_skipped(encoding: str, padding: int) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    if encoding == "mono8":
        rgb = np.repeat(rgb[..., :1], 3, axis=2)
    alpha = np.full((4, 6, 1), 77, np.uint8)
    wire = {
        "rgb8": rgb,
        "bgr8": rgb[..., ::-1],
        "mono8": rgb[..., :1],
        "rgba8": np.concatenate([rgb, alpha], 2),
        "bgra8": np.concatenate([rgb[..., ::-1], alpha], 2),
    }[encoding].reshape(4, -1)
    rows = np.concatenate([wire, np.full((4, padding), 99, np.uint8)], axis=1)
    decoded = decode_image(image_message(rows, 6, 4, encoding, step=rows.shape[1]), IMAGE)
    np.testing.assert_array_equal(decoded.image, rgb)


def test_an_rgb8_image_is_a_view_on_the_message() -> None:
    raw = codecs.encode_image(np.zeros((480, 640, 3), np.uint8), STAMP_NS)
    assert np.shares_memory(decode_image(raw, IMAGE).image, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_compressed_images_become_rgb(suffix: str) -> None:
    rgb = np.zeros((16, 24, 3), np.uint8)
    rgb[:] = (250, 120, 10)
    _, packed = cv2.imencode(suffix, rgb[..., ::-1])
    message = ros.sensor_msgs__msg__CompressedImage(HEADER, "rgb8; compressed bgr8", packed.reshape(-1))
    decoded = decode_image(serialised(message), COMPRESSED_IMAGE)
    assert decoded.stamp_ns == STAMP_NS
    np.testing.assert_allclose(decoded.image.astype(int), rgb, atol=4)


def header_of(sec: int, nanosec: int) -> object:
    return ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(sec, nanosec), "")


PIXELS = np.zeros(4 * 6 * 3, np.uint8)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (image_message(PIXELS[:-1], 6, 4), MessageReason.WRONG_SIZE),
        (image_message(np.zeros(4 * 6 * 3 + 1), 6, 4), MessageReason.WRONG_SIZE),
        (image_message(PIXELS, 6, 4, step=17), MessageReason.WRONG_STEP),
        (image_message(PIXELS, 6, 4, "nv21"), MessageReason.WRONG_ENCODING),
        (image_message(np.zeros(0), 6, 4), MessageReason.EMPTY_DATA),
        (image_message(np.zeros(0), 0, 0), MessageReason.EMPTY_DATA),
        (image_message(PIXELS, 6, 4, header=header_of(0, 0)), MessageReason.BAD_STAMP),
        (image_message(PIXELS, 6, 4, header=header_of(-1, 5)), MessageReason.BAD_STAMP),
        (image_message(PIXELS, 6, 4, header=header_of(1, 10**9)), MessageReason.BAD_STAMP),
        (image_message(PIXELS, 6, 4)[:-1], MessageReason.MALFORMED),
        (b"", MessageReason.MALFORMED),
    ],
)
def test_a_bad_image_is_refused_with_its_reason(raw: bytes, reason: MessageReason) -> None:
    with pytest.raises(MessageRefused) as caught:
        decode_image(raw, IMAGE)
    assert caught.value.reason is reason


def png_that_claims(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", MessageReason.EMPTY_DATA),
        (b"\xff\xd8\xff no jpeg", MessageReason.TORN_IMAGE),
        (b"no jpeg", MessageReason.UNDECODABLE),
        (png_that_claims(40_000, 40_000), MessageReason.UNDECODABLE),  # OpenCV raises for this one
    ],
)
def test_a_bad_compressed_image_is_refused_with_its_reason(data: bytes, reason: MessageReason) -> None:
    message = ros.sensor_msgs__msg__CompressedImage(HEADER, "jpeg", np.frombuffer(data, np.uint8))
    with pytest.raises(MessageRefused) as caught:
        decode_image(serialised(message), COMPRESSED_IMAGE)
    assert caught.value.reason is reason


def test_an_image_of_another_type_is_refused() -> None:
    with pytest.raises(MessageRefused, match="wrong_type") as caught:
        decode_image(codecs.encode_string("no camera"), codecs.STRING)
    assert caught.value.reason is MessageReason.WRONG_TYPE


STILL = [[0.0, 0.0], [0.0, 0.0]]


def trajectory_message(
    names: Sequence[str] = NAMES,
    times_ns: Sequence[int] = (1, 2),
    header: ros.std_msgs__msg__Header = HEADER,
    **rows: list[list[float]],
) -> bytes:
    """rows: positions (zeros unless given), velocities, accelerations, effort, of every point."""
    rows = {"positions": [[0.0] * len(names) for _ in times_ns], **rows}
    points = [
        ros.trajectory_msgs__msg__JointTrajectoryPoint(
            **{
                name: np.array(rows[name][index] if name in rows else [], np.float64)
                for name in ("positions", "velocities", "accelerations", "effort")
            },
            time_from_start=ros.builtin_interfaces__msg__Duration(*divmod(t, 10**9)),
        )
        for index, t in enumerate(times_ns)
    ]
    return serialised(ros.trajectory_msgs__msg__JointTrajectory(header, list(names), points))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"names": ["shoulder"]}, MessageReason.MISSING_JOINT),
        ({"names": ["shoulder", "elbow", "wrist"]}, MessageReason.UNKNOWN_JOINT),
        ({"names": ["shoulder", "elbow", "elbow"]}, MessageReason.DUPLICATE_JOINT),
        ({"positions": [[0], [0, 0]]}, MessageReason.LENGTH_MISMATCH),
        ({"velocities": [[0], [0, 0]]}, MessageReason.LENGTH_MISMATCH),
        ({"velocities": [[], [0, 0]]}, MessageReason.LENGTH_MISMATCH),
        ({"velocities": STILL, "accelerations": [[0, 0], [0]]}, MessageReason.LENGTH_MISMATCH),
        ({"times_ns": []}, MessageReason.EMPTY_TRAJECTORY),
        ({"positions": [[], []], "velocities": [[1, 1], [0, 0]]}, MessageReason.EMPTY_POSITION),
        ({"positions": [[], []], "effort": STILL}, MessageReason.EMPTY_POSITION),
        ({"effort": STILL}, MessageReason.EFFORT_POINT),
        ({"accelerations": STILL}, MessageReason.BAD_TRAJECTORY),
        ({"times_ns": [2, 1]}, MessageReason.BAD_TRAJECTORY),
        ({"times_ns": [1, 1]}, MessageReason.BAD_TRAJECTORY),
        ({"times_ns": [-1, 1]}, MessageReason.BAD_TRAJECTORY),
        ({"times_ns": [0]}, MessageReason.BAD_TRAJECTORY),
        ({"velocities": [[1, 1], [0, 1]]}, MessageReason.STILL_MOVING),
        ({"velocities": [[1, float("nan")], [0, 0]]}, MessageReason.NON_FINITE),
        ({"positions": [[1, float("inf")], [0, 0]]}, MessageReason.NON_FINITE),
        ({"positions": [[1e300, 0], [0, 0]]}, MessageReason.NON_FINITE),
        ({"velocities": STILL, "accelerations": [[float("nan"), 0], [0, 0]]}, MessageReason.NON_FINITE),
        ({"header": ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(-1, 0), "")}, MessageReason.BAD_STAMP),
    ],
)
def test_a_bad_trajectory_is_refused_with_its_reason(change: dict[str, Any], reason: MessageReason) -> None:
    with pytest.raises(MessageRefused) as caught:
        decode_trajectory(trajectory_message(**change), NAMES)
    assert caught.value.reason is reason


def test_a_trajectory_of_another_sender_is_read_as_it_is() -> None:
    now = ros.std_msgs__msg__Header(ros.builtin_interfaces__msg__Time(0, 0), "world")
    positions = [[1.0, 2.0], [3.0, 4.0]]
    came = decode_trajectory(trajectory_message(["elbow", "shoulder"], [0, 50], now, positions=positions), NAMES)
    assert (came.stamp_ns, came.times_ns.tolist()) == (0, [0, 50])
    assert came.positions.tolist() == [[2.0, 1.0], [4.0, 3.0]]
    assert came.velocities.size == came.accelerations.size == 0
    moving = trajectory_message(positions=positions, velocities=[[1, 2], [0, -1e-12]], accelerations=[[5, 6], [7, 8]])
    assert decode_trajectory(moving, NAMES).accelerations.tolist() == [[5, 6], [7, 8]]
    assert decode_trajectory(codecs.encode_trajectory(came), NAMES).positions.tolist() == came.positions.tolist()


def decode_all(raw: bytes) -> None:
    """Every decoder either answers or refuses."""
    for decode in (
        lambda: decode_image(raw, IMAGE),
        lambda: decode_image(raw, COMPRESSED_IMAGE),
        lambda: READER.read(raw),
        lambda: decode_string(raw),
        lambda: decode_trajectory(raw, NAMES),
        lambda: decode_positions(raw, 2),
    ):
        with suppress(MessageRefused):
            decode()


GOOD = [
    image_message(PIXELS, 6, 4),
    codecs.encode_joint_state(NAMES, [1.0, 2.0], STAMP_NS),
    codecs.encode_string("pick the red cube"),
    codecs.encode_trajectory(trajectory_of()),
]


@pytest.mark.parametrize("raw", GOOD)
def test_truncations_raise_nothing_but_a_refusal(raw: bytes) -> None:
    for length in range(len(raw)):
        decode_all(raw[:length])


@given(st.binary(max_size=300).map(lambda tail: b"\x00\x01\x00\x00" + tail) | st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_a_refusal(raw: bytes) -> None:
    decode_all(raw)


@given(st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_flipped_bytes_raise_nothing_but_a_refusal(raw: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(raw)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    decode_all(bytes(damaged))


class OtherVendor:
    """CDR as some DDS vendors write it: an empty string has length 0 and no NUL."""

    def __init__(self, order: str) -> None:
        self.order, self.body = order, b""

    def put(self, code: str, *values: float) -> OtherVendor:
        size = struct.calcsize(code)
        for value in values:
            self.body += bytes(-len(self.body) % size) + struct.pack(self.order + code, value)
        return self

    def text(self, text: str) -> OtherVendor:
        data = text.encode() + b"\0" if text else b""
        self.put("I", len(data)).body += data
        return self

    def header(self) -> OtherVendor:
        return self.put("i", 1_700_000_000).put("I", 123_456_789).text("")

    def message(self) -> bytes:
        return (b"\0\1\0\0" if self.order == "<" else b"\0\0\0\0") + self.body


@pytest.mark.parametrize("order", ["<", ">"])
def test_empty_strings_of_length_zero_are_read(order: str) -> None:
    assert decode_string(OtherVendor(order).text("").message()) == ""
    image = OtherVendor(order).header().put("I", 1, 2).text("rgb8").put("B", 0).put("I", 6, 6).put("B", *range(6))
    read = decode_image(image.message(), IMAGE)
    assert (read.stamp_ns, read.image.tolist()) == (STAMP_NS, [[[0, 1, 2], [3, 4, 5]]])
    _, png = cv2.imencode(".png", np.full((2, 2, 3), 7, np.uint8))
    compressed = OtherVendor(order).header().text("").put("I", len(png)).put("B", *png.tolist())
    assert (decode_image(compressed.message(), COMPRESSED_IMAGE).image == 7).all()
    joints = OtherVendor(order).header().put("I", 3).text("").text("elbow").text("shoulder").put("I", 3)
    joints.put("d", 9.0, 2.0, 1.0).put("I", 0, 0)
    assert READER.read(joints.message()).values.tolist() == [1.0, 2.0]
    commands = OtherVendor(order).header().put("I", 2).text("shoulder").text("elbow").put("I", 2)
    for time_ns, velocity in ((10**8, 0.5), (2 * 10**8, 0.0)):
        commands.put("I", 2).put("d", 1.0, 1.0).put("I", 2).put("d", velocity, velocity)
        commands.put("I", 0, 0).put("i", 0).put("I", time_ns)
    assert decode_trajectory(commands.message(), NAMES).velocities.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_a_string_that_reaches_over_the_end_is_still_refused() -> None:
    with pytest.raises(MessageRefused):
        decode_string(b"\0\1\0\0" + struct.pack("<I", 9) + b"short\0")
