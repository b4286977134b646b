"""Messages that arrive whenever they like -> the observation at a control tick.

The observation at tick t holds, of every camera and of every joint, the newest message with header stamp <= t, and the
newest prompt that came by t. It depends on stamps alone, not on the order of arrival: asked with t = now it serves
control, asked some time later about a past tick it gives live exactly what a bag of the same messages gives.

A stamp that cannot be right, far ahead of the node's clock or far behind it, is refused as the message arrives.
"""

from __future__ import annotations

import operator
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.observation.codecs import (
    MessageReason,
    MessageRefused,
    RawMessage,
    decode_image,
    decode_string,
)
from vla_align_ros.observation.joint_states import JointStateReader
from vla_align_ros.observation.refusal import ObservationReason, ObservationRefused
from vla_align_ros.observation.resize import Scaler, area, letterbox
from vla_align_ros.observation.stamps import AssemblerLimits, StampWatch
from vla_align_ros.observation.streams import Joints, JointStreams, Stream
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Float32Array, Observation, Picture

__all__ = ["AssemblerLimits", "ObservationAssembler", "ObservationReason", "ObservationRefused"]

_S: Final = 1e-9  # seconds in a nanosecond


class ObservationAssembler:
    """Takes serialised messages, gives observations; thread-safe.

    robot: its state is what is observed, in ROS's units. cameras: the model's camera names, in its order. Images are
    letterboxed to `image_size` as they arrive (`scale`: how), so the history holds small images only. check_prompt:
    raises ValueError for a prompt that the model cannot read.
    """

    def __init__(
        self,
        robot: RobotDescription,
        cameras: Sequence[str],
        image_size: int,
        limits: AssemblerLimits,
        check_prompt: Callable[[str], None],
        scale: Scaler = area,
    ) -> None:
        self.robot = robot
        self.limits = limits
        self._refused: Counter[MessageReason | ObservationReason] = Counter()
        self._image_size, self._scale = image_size, scale
        self._fits = check_prompt
        self._cameras = tuple(cameras)
        self._history_ns, self._frozen_ns = round(limits.history_s / _S), round(limits.frozen_s / _S)
        self._clocks_differ_ns = round(
            (limits.image_stale_s + limits.stamp_ahead_max_s) / _S
        )  # at most: joints, camera
        self._forget_all()
        self._prompts: list[tuple[int, str]] = []  # by rising stamp; the last one stays valid for ever
        self._stamps = StampWatch(limits)
        self._reader = JointStateReader(robot.state)
        self._no_use = ""  # why nothing came of the last joint state of which nothing came
        self._lock = threading.Lock()

    def _forget_all(self) -> None:
        self._images = {camera: Stream[Picture, int](self._history_ns, operator.eq) for camera in self._cameras}
        self._joints = JointStreams(len(self.robot.state), self._history_ns + self._frozen_ns)

    @property
    def refused(self) -> Counter[MessageReason | ObservationReason]:
        """How often each reason occurred, in `push_*` and in `observe`; a copy."""
        with self._lock:
            return self._refused.copy()

    def push_image(self, camera: str, raw: RawMessage, msgtype: str, now_ns: int) -> None:
        """One message of a camera's topic; now_ns: the node's clock as it comes, 0 for one that has not started.

        Raises MessageRefused or ObservationRefused (stamp_ahead, stamp_behind, no_clock, duplicate_stamp), changing
        nothing; ValueError for a camera that the assembler was not made for.
        """
        if camera not in self._cameras:
            raise ValueError(f"unknown camera {camera!r}, the model has {list(self._cameras)}")
        try:
            stamped = decode_image(raw, msgtype)
        except MessageRefused as error:
            self._count_and_raise(error)
        image = letterbox(stamped.image, self._image_size, self._scale)
        image.flags.writeable = False
        digest = zlib.crc32(np.ascontiguousarray(stamped.image).data)
        self._take(
            camera,
            f"camera {camera!r}",
            stamped.stamp_ns,
            now_ns,
            lambda: self._images[camera].insert(stamped.stamp_ns, image, digest, stamped.stamp_ns),
        )

    def push_joints(self, raw: RawMessage, now_ns: int, prefix: str = "") -> None:
        """One JointState with all of the state's joints or some; one with none of them is passed over. now_ns: the
        node's clock as it comes. prefix: that of its topic in the robot description. Raises MessageRefused (as
        `JointStateReader.read`) or ObservationRefused (stamp_ahead, stamp_behind, no_clock, duplicate_stamp), changing
        nothing."""
        try:
            read = self._reader.read(raw, prefix)
        except MessageRefused as error:
            self._no_use = f" A joint state was refused: {error}."
            self._count_and_raise(error)
        layout, values = read.layout, read.values
        if not layout.columns:
            self._no_use = f" A joint state names {list(layout.names)}."
            return
        self._take(
            layout.sensor,
            layout.what,
            read.stamp_ns,
            now_ns,
            lambda: self._joints.insert(layout.columns, read.stamp_ns, values, values[layout.positions]),
        )

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
            fell_ns = stamp_ns + self._history_ns  # one that is stamped later is of a clock that fell back
            said = sorted((dict(item for item in self._prompts if item[0] <= fell_ns) | {stamp_ns: text}).items())
            over_ns = said[-1][0] - self._history_ns  # a prompt is valid until the next one comes
            recent = [item for item, (until_ns, _) in pairwise(said) if until_ns >= over_ns]
            self._prompts = [*recent, said[-1]]

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
        """The state (S,) at `t_ns`, in ROS's units, read-only. Raises ObservationRefused: no_joints, stale_joints (not
        counted)."""
        with self._lock:
            return self._joints_at(t_ns)

    def newest_prompt(self) -> str:
        """The prompt that came last, or an empty one."""
        with self._lock:
            return self._prompts[-1][1] if self._prompts else ""

    def measured(self, now_ns: int) -> Float32Array:
        """The newest of every number of the state (S,), in ROS's units, read-only; `robot.measured` takes from it where
        the arm is now. Raises ObservationRefused (no_joints, stale_joints), counted."""
        try:
            with self._lock:
                return self._fresh(self._joints.newest(), now_ns)
        except ObservationRefused as error:
            self._count_and_raise(error)

    def follow(self, now_ns: int) -> None:
        """Tell the node's clock, often; when it has fallen back, all that was sensed before is forgotten."""
        with self._lock:
            self._follow("ticks", now_ns)

    def diagnose(self, now_ns: int) -> tuple[str, dict[str, float]]:
        """What is wrong with the stamps (empty: nothing), and per sensor in ms the age of what is in use, and the last
        message's time from stamp to arrival."""
        with self._lock:
            newest = {camera: stream.at(now_ns) for camera, stream in self._images.items()}
            stamps = {camera: sample.stamp_ns for camera, sample in newest.items() if sample is not None}
            joint_stamps_ns = self._joints.at(now_ns).stamps_ns
            if joint_stamps_ns.all():
                stamps["joints"] = int(joint_stamps_ns.min())
            fault, delays_ns = self._stamps.fault(now_ns), self._stamps.delays_ns()
        values = {f"age_ms.{name}": round((now_ns - stamp_ns) * 1e-6, 1) for name, stamp_ns in stamps.items()}
        values |= {f"arrival_delay_ms.{name}": round(ns * 1e-6, 1) for name, ns in delays_ns.items()}
        return fault, values

    def _take(self, sensor: str, what: str, stamp_ns: int, now_ns: int, insert: Callable[[], bool]) -> None:
        """Judge a message's stamp, then keep it."""
        try:
            with self._lock:
                self._follow("messages", now_ns)
                fault = self._stamps.judge(sensor, what, stamp_ns, now_ns)
                if fault is None and not insert():
                    text = f"two messages of {what} are stamped {stamp_ns} ns; does more than one publisher send them?"
                    fault = ObservationReason.DUPLICATE_STAMP, text
            if fault is not None:
                raise ObservationRefused(*fault)
        except ObservationRefused as error:
            self._count_and_raise(error)

    def _follow(self, reader: str, now_ns: int) -> None:
        if self._stamps.fell_back(reader, now_ns):
            self._refused[ObservationReason.CLOCK_JUMP] += 1
            self._forget_all()
            self._prompts = [(min(prompt_ns, now_ns), text) for prompt_ns, text in self._prompts[-1:]]

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
        return self._fresh(self._joints.at(t_ns), t_ns)

    def _fresh(self, joints: Joints, t_ns: int) -> Float32Array:
        if missing := self._named(joints.stamps_ns == 0):
            text = f"no joint state of {missing} is as old as the tick; is its topic connected?{self._no_use}"
            raise ObservationRefused(ObservationReason.NO_JOINTS, text + self._stamps.last_words("joints"))
        age_s, limit_s = (t_ns - joints.stamps_ns) * _S, self.limits.joint_stale_s
        if stale := self._named(age_s > limit_s):
            text = f"the newest joint state of {stale} is {age_s.max():.3f} s old, joint_stale_s is {limit_s:g}"
            raise ObservationRefused(ObservationReason.STALE_JOINTS, text + self._stamps.last_words("joints"))
        return joints.state

    def _named(self, chosen: NDArray[np.bool_]) -> list[str]:
        return list(dict.fromkeys(name for name, is_it in zip(self.robot.state_joints, chosen, strict=True) if is_it))

    def _image_at(self, camera: str, t_ns: int) -> Picture:
        sample = self._images[camera].at(t_ns)
        if sample is None:
            text = f"camera {camera!r} has sent no image as old as the tick; is its topic connected?"
            raise ObservationRefused(ObservationReason.NO_IMAGE, text + self._stamps.last_words(camera))
        age_s, limit_s = (t_ns - sample.stamp_ns) * _S, self.limits.image_stale_s
        if age_s > limit_s:
            text = f"the newest image of camera {camera!r} is {age_s:.3f} s old, image_stale_s is {limit_s:g}"
            raise ObservationRefused(ObservationReason.STALE_IMAGE, text + self._stamps.last_words(camera))
        # Still the same that long after a motion, not merely since long: without noise a scene at rest looks the same.
        # A motion that ends as it begins to be the same may look later, by another clock.
        same_ns = sample.since_ns + self._clocks_differ_ns
        if self._frozen_ns and self._joints.moved_ns(sample.stamp_ns - self._frozen_ns) > same_ns:
            same_s = (sample.stamp_ns - sample.since_ns) * _S
            text = f"camera {camera!r} sends the same pixels since {same_s:.3f} s, though a joint has moved; "
            hint = f"frozen_s is {self.limits.frozen_s:g} (0 switches this off, for a camera that sees no motion)"
            raise ObservationRefused(ObservationReason.FROZEN_IMAGE, text + hint)
        return sample.value

    def _count_and_raise(self, error: MessageRefused | ObservationRefused) -> NoReturn:
        with self._lock:
            self._refused[error.reason] += 1
        raise error
