"""Messages that arrive whenever they like -> the observation at a control tick.

The observation at tick t holds, of every camera and of the joints, the newest message with header stamp <= t, and the
newest prompt that came by t. It depends on stamps alone, not on the order or time of arrival: asked with t = now it
serves control, asked some time later about a past tick it gives live exactly what a bag of the same messages gives.
"""

from __future__ import annotations

import threading
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, NoReturn, TypeVar

import numpy as np

from vla_align_ros.observation.codecs import (
    MessageReason,
    MessageRefused,
    RawMessage,
    decode_image,
    decode_joint_state,
    decode_string,
)
from vla_align_ros.observation.resize import letterbox
from vla_align_ros.types import Float32Array, Observation, UInt8Array

_S: Final = 1e-9  # seconds in a nanosecond

Value = TypeVar("Value")


class ObservationReason(Enum):
    """Why there is no observation at a tick, or why a well-formed message was not taken."""

    NO_PROMPT = "no_prompt"  # No prompt had come by the tick.
    NO_JOINTS = "no_joints"  # No joint state in the history is as old as the tick.
    STALE_JOINTS = "stale_joints"  # The newest joint state is older than joint_stale_s.
    NO_IMAGE = "no_image"  # No image of a camera in the history is as old as the tick.
    STALE_IMAGE = "stale_image"  # A camera's newest image is older than image_stale_s.
    FROZEN_IMAGE = "frozen_image"  # A camera's pixels have not changed for more than frozen_s, though its stamps go on.
    PROMPT_EMPTY = "prompt_empty"  # A prompt without words; the old one stays.
    PROMPT_TOO_LONG = "prompt_too_long"  # A prompt of more tokens than the model reads; the old one stays.
    DUPLICATE_STAMP = "duplicate_stamp"  # A second message with the same stamp; the first one stays.
    CLOCK_JUMP = "clock_jump"  # A stamp fell back by more than the history: that stream was emptied and starts again.


class ObservationRefused(ValueError):
    """No observation can be had, or a message was not taken. `reason` is for counters, the text for people."""

    def __init__(self, reason: ObservationReason, text: str) -> None:
        super().__init__(f"{reason.value}: {text}")
        self.reason = reason


@dataclass(frozen=True)
class AssemblerLimits:
    """How old and how unchanging sensor data may be.

    image_stale_s, joint_stale_s: oldest message that still counts at a tick.
    frozen_s: longest that a camera may send the very same pixels; inf for cameras without noise (a drawn simulation).
    history_s: how far back ticks can be asked about, reckoned from each stream's newest message. A stamp that falls
        back farther than this is a clock that jumped.
    """

    image_stale_s: float
    joint_stale_s: float
    frozen_s: float
    history_s: float

    def __post_init__(self) -> None:
        for name in ("image_stale_s", "joint_stale_s", "frozen_s", "history_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not max(self.image_stale_s, self.joint_stale_s) <= self.history_s < float("inf"):
            raise ValueError(f"history_s must be finite and at least image_stale_s and joint_stale_s, got {self}")


@dataclass
class _Sample(Generic[Value]):
    """One message. same_since_ns: stamp of the first message of the unbroken run with this digest."""

    stamp_ns: int
    value: Value
    digest: int
    same_since_ns: int


class _Stream(Generic[Value]):
    """The recent samples of one topic by rising stamp, whatever order they arrive in."""

    def __init__(self, history_ns: int) -> None:
        self._history_ns = history_ns
        self._samples: list[_Sample[Value]] = []

    def insert(self, stamp_ns: int, value: Value, digest: int) -> bool:
        """Add one sample; True when its stamp fell back by more than the history, and the stream was emptied for it."""
        samples = self._samples
        jumped = bool(samples) and stamp_ns < samples[-1].stamp_ns - self._history_ns
        if jumped:
            samples.clear()
        place = bisect_right(samples, stamp_ns, key=_stamp_of)
        if place and samples[place - 1].stamp_ns == stamp_ns:
            text = f"two messages are stamped {stamp_ns} ns; does more than one publisher send on this topic?"
            raise ObservationRefused(ObservationReason.DUPLICATE_STAMP, text)
        samples.insert(place, _Sample(stamp_ns, value, digest, stamp_ns))
        for before, sample in zip(samples[max(0, place - 1) :], samples[max(1, place) :], strict=False):
            sample.same_since_ns = before.same_since_ns if sample.digest == before.digest else sample.stamp_ns
        del samples[: bisect_right(samples, samples[-1].stamp_ns - self._history_ns - 1, key=_stamp_of)]
        return jumped

    def newest(self) -> _Sample[Value] | None:
        """The sample with the largest stamp."""
        return self._samples[-1] if self._samples else None

    def at(self, t_ns: int) -> _Sample[Value] | None:
        """The newest sample with stamp <= t_ns."""
        place = bisect_right(self._samples, t_ns, key=_stamp_of)
        return self._samples[place - 1] if place else None


def _stamp_of(sample: _Sample[Value]) -> int:
    return sample.stamp_ns


class ObservationAssembler:
    """Takes serialised messages, gives observations; thread-safe.

    cameras: the model's camera names, in its order. Images are letterboxed to `image_size` as they arrive, so the
    history holds small images only. check_prompt: raises ValueError for a prompt that the model cannot read.
    """

    def __init__(
        self,
        joint_names: Sequence[str],
        cameras: Sequence[str],
        image_size: int,
        limits: AssemblerLimits,
        check_prompt: Callable[[str], None],
    ) -> None:
        self.joint_names = tuple(joint_names)
        self.limits = limits
        self._refused: Counter[MessageReason | ObservationReason] = Counter()
        self._image_size = image_size
        self._fits = check_prompt
        history_ns = round(limits.history_s / _S)
        self._history_ns = history_ns
        self._images: Mapping[str, _Stream[UInt8Array]] = {camera: _Stream(history_ns) for camera in cameras}
        self._joints: _Stream[Float32Array] = _Stream(history_ns)
        self._prompts: list[tuple[int, str]] = []  # by rising stamp; the last one stays valid for ever
        self._lock = threading.Lock()

    @property
    def refused(self) -> Counter[MessageReason | ObservationReason]:
        """How often each reason occurred, in `push_*` and in `observe`; a copy."""
        with self._lock:
            return self._refused.copy()

    def push_image(self, camera: str, raw: RawMessage, msgtype: str) -> None:
        """One message of a camera's topic. Raises MessageRefused or ObservationRefused (duplicate_stamp), changing
        nothing; ValueError for a camera that the assembler was not made for."""
        if camera not in self._images:
            raise ValueError(f"unknown camera {camera!r}, the model has {list(self._images)}")
        try:
            stamped = decode_image(raw, msgtype)
        except MessageRefused as error:
            self._count_and_raise(error)
        image = letterbox(stamped.image, self._image_size)
        image.flags.writeable = False
        digest = zlib.crc32(np.ascontiguousarray(stamped.image).data)
        self._insert(self._images[camera], stamped.stamp_ns, image, digest)

    def push_joints(self, raw: RawMessage) -> None:
        """One JointState. Raises MessageRefused or ObservationRefused (duplicate_stamp), changing nothing."""
        try:
            stamped = decode_joint_state(raw, self.joint_names)
        except MessageRefused as error:
            self._count_and_raise(error)
        stamped.position.flags.writeable = False
        self._insert(self._joints, stamped.stamp_ns, stamped.position, 0)

    def push_prompt(self, prompt: RawMessage | str, stamp_ns: int) -> None:
        """A prompt, as text or as a String message, that came at `stamp_ns` (a String has no stamp of its own).

        Raises MessageRefused, or ObservationRefused (prompt_empty, prompt_too_long); the old prompt stays valid then.
        """
        try:
            text = prompt if isinstance(prompt, str) else decode_string(prompt)
            self._check_prompt(text)
        except (MessageRefused, ObservationRefused) as error:
            self._count_and_raise(error)
        with self._lock:
            kept = [item for item in self._prompts if item[0] < stamp_ns]
            recent = [item for item in kept[:-1] if item[0] >= stamp_ns - self._history_ns]
            self._prompts = [*recent, *kept[-1:], (stamp_ns, text)]

    def observe(self, t_ns: int) -> Observation:
        """The observation at tick `t_ns`: images (image_size, image_size, 3), state (S,), all read-only.

        Raises ObservationRefused with the first reason of no_prompt, no_joints, stale_joints, no_image, stale_image,
        frozen_image. Nothing older than `history_s` is ever used instead of something forgotten.
        """
        try:
            with self._lock:
                prompt = self._prompt_at(t_ns)
                state = self._joints_at(t_ns)
                images = {camera: self._image_at(camera, t_ns) for camera in self._images}
        except ObservationRefused as error:
            self._count_and_raise(error)
        return Observation(images=images, state=state, prompt=prompt, stamp_ns=t_ns)

    def joints_at(self, t_ns: int) -> Float32Array:
        """The joint positions (S,) in rad at `t_ns`, read-only. Raises ObservationRefused: no_joints, stale_joints (not
        counted)."""
        with self._lock:
            return self._joints_at(t_ns)

    def newest_joints(self) -> Float32Array | None:
        """The newest joint positions (S,) in rad, however old, or None; for holding still."""
        with self._lock:
            sample = self._joints.newest()
        return None if sample is None else sample.value

    def _insert(self, stream: _Stream[Value], stamp_ns: int, value: Value, digest: int) -> None:
        try:
            with self._lock:
                if stream.insert(stamp_ns, value, digest):
                    self._refused[ObservationReason.CLOCK_JUMP] += 1
                    self._prompts = [(min(prompt_ns, stamp_ns), text) for prompt_ns, text in self._prompts[-1:]]
        except ObservationRefused as error:
            self._count_and_raise(error)

    def _check_prompt(self, text: str) -> None:
        if not text.strip():
            raise ObservationRefused(ObservationReason.PROMPT_EMPTY, "the prompt has no words; the old one stays")
        try:
            self._fits(text)
        except ValueError as error:
            raise ObservationRefused(ObservationReason.PROMPT_TOO_LONG, f"{error}; the old prompt stays") from None

    def _prompt_at(self, t_ns: int) -> str:
        known = [text for stamp_ns, text in self._prompts if stamp_ns <= t_ns]
        if not known:
            raise ObservationRefused(ObservationReason.NO_PROMPT, "nobody has said yet what to do")
        return known[-1]

    def _joints_at(self, t_ns: int) -> Float32Array:
        sample = self._joints.at(t_ns)
        if sample is None:
            raise ObservationRefused(
                ObservationReason.NO_JOINTS, "no joint state as old as the tick; is its topic connected?"
            )
        age_s, limit_s = (t_ns - sample.stamp_ns) * _S, self.limits.joint_stale_s
        if age_s > limit_s:
            text = f"the newest joint state is {age_s:.3f} s old, joint_stale_s is {limit_s:g}"
            raise ObservationRefused(ObservationReason.STALE_JOINTS, text)
        return sample.value

    def _image_at(self, camera: str, t_ns: int) -> UInt8Array:
        sample = self._images[camera].at(t_ns)
        if sample is None:
            text = f"camera {camera!r} has sent no image as old as the tick; is its topic connected?"
            raise ObservationRefused(ObservationReason.NO_IMAGE, text)
        age_s, limit_s = (t_ns - sample.stamp_ns) * _S, self.limits.image_stale_s
        if age_s > limit_s:
            text = f"the newest image of camera {camera!r} is {age_s:.3f} s old, image_stale_s is {limit_s:g}"
            raise ObservationRefused(ObservationReason.STALE_IMAGE, text)
        same_s = (sample.stamp_ns - sample.same_since_ns) * _S
        if same_s > self.limits.frozen_s:
            text = f"camera {camera!r} sends the same pixels since {same_s:.3f} s, frozen_s is {self.limits.frozen_s:g}"
            raise ObservationRefused(ObservationReason.FROZEN_IMAGE, text)
        return sample.value

    def _count_and_raise(self, error: MessageRefused | ObservationRefused) -> NoReturn:
        with self._lock:
            self._refused[error.reason] += 1
        raise error
