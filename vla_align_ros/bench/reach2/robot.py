"""One simulated arm with its sensors and its tasks, on a simulated clock and free of ROS: bytes in, bytes out.

    trajectory (bytes) -> `receive` -> gains, delay, stops -> true angles -> encoders, cameras -> `advance` -> bytes

`ros/sim_robot.py` connects it to topics and to real time, `clocked.py` to a policy without either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count

import numpy as np

from vla_align_ros.action.running import begin
from vla_align_ros.bench.reach2 import task
from vla_align_ros.bench.reach2.actuator import DELAY_MAX_NS, Actuator
from vla_align_ros.bench.reach2.arm import JOINT_NAMES, PERIOD_S, encoder_reading, within_stops
from vla_align_ros.bench.reach2.camera import CAMERAS, draw, with_sensor_noise
from vla_align_ros.bench.reach2.embodiment import Embodiments, one_embodiment
from vla_align_ros.observation.codecs import (
    IMAGE,
    JOINT_STATE,
    STRING,
    RawMessage,
    decode_trajectory,
    encode_image,
    encode_joint_state,
    encode_string,
)
from vla_align_ros.params import SimParams

PERIOD_NS = round(PERIOD_S * 1e9)
LATE_NS = 500_000_000  # a sensor message that is due longer ago than this is dropped, not sent late

CAMERA_TOPICS = {camera: f"{camera}/image_raw" for camera in CAMERAS}  # relative: a namespace keeps two robots apart
JOINTS_TOPIC = "joint_states"
PROMPT_TOPIC = "vla_policy/prompt"
CHUNK_TOPIC = "vla_policy/action_chunk"
EPISODE_TOPIC = "~/episode"
TOPICS = {
    **dict.fromkeys(CAMERA_TOPICS.values(), IMAGE),
    JOINTS_TOPIC: JOINT_STATE,
    PROMPT_TOPIC: STRING,
    EPISODE_TOPIC: STRING,
}
"""Every topic that the robot sends on -> its message type."""


@dataclass(frozen=True)
class SimMessage:
    """One serialised message. topic: a key of TOPICS. stamp_ns: its header stamp, or when it happened."""

    topic: str
    stamp_ns: int
    raw: bytes


@dataclass(frozen=True)
class Episode:
    """A finished one. distance_m: from the tip to the target that the prompt asked for, at its end."""

    index: int
    prompt: str
    distance_m: float
    success: bool


class SimulatedRobot:
    """One arm. Its time begins at `start_ns`, with a random pose, scene and prompt, and goes on by `advance` only.

    seed: of start pose, scenes, prompts and sensor noise. episode_s: after it targets, colours and prompt change,
    while the arm stays where it is; always half-way between two control ticks, so that live messages and a bag of them
    agree on the first tick of the new prompt. dropped: sensor messages that were due too long ago. Not thread-safe.
    """

    def __init__(
        self,
        arm: Embodiments,
        start_ns: int,
        seed: int = 0,
        *,
        episode_s: float = task.EPISODE_TICKS * PERIOD_S,
        image_hz: float = 30.0,
        joint_hz: float = 100.0,
        image_size: int = 64,
    ) -> None:
        """Raises ValueError for an arm that is not one row, or has a delay outside 0 to 1 s."""
        self.now_ns = start_ns
        self.dropped = 0
        self.episodes: list[Episode] = []
        self._size = image_size
        self._random, self._noise = np.random.default_rng([seed, 31]), np.random.default_rng([seed, 37])
        self._actuator = Actuator(start_ns, len(JOINT_NAMES))
        self.set_embodiment(arm)
        self.angle_rad = task.sample_pose(1, self._random)
        self.prompt = ""
        self._new_task()
        self._joint_times, self._image_times = _times(start_ns, joint_hz), _times(start_ns, image_hz)
        self._next_joint_ns, self._next_image_ns = next(self._joint_times), next(self._image_times)
        self._episode_ns = max(1, round(episode_s / PERIOD_S)) * PERIOD_NS
        self._next_episode_ns = start_ns // PERIOD_NS * PERIOD_NS + PERIOD_NS // 2 + self._episode_ns

    def set_embodiment(self, arm: Embodiments) -> None:
        """Become another arm, as when a camera is knocked: from now on, with the true angles as they are."""
        if len(arm) != 1 or not 0.0 <= arm.delay_s[0] * 1e9 <= DELAY_MAX_NS:
            raise ValueError(f"expected one arm with a delay of 0 to 1 s, got {len(arm)} with {arm.delay_s.tolist()} s")
        self.arm = arm

    def receive(self, raw: RawMessage) -> None:
        """A JointTrajectory that arrives now, read by its times. Raises MessageRefused, changing nothing."""
        trajectory = decode_trajectory(raw, JOINT_NAMES)
        start_ns = trajectory.start_ns(self.now_ns)
        measured = (max(start_ns, self.now_ns), encoder_reading(self.arm, self.angle_rad)[0])
        self._actuator.put(start_ns, begin(trajectory, start_ns, PERIOD_NS, measured))

    def advance(self, to_ns: int) -> list[SimMessage]:
        """Let time go on to `to_ns`; returns what the robot has sent until then, `to_ns` included, by rising stamp.

        A `to_ns` in the past changes nothing.
        """
        sent: list[SimMessage] = []
        while (due_ns := min(self._next_joint_ns, self._next_image_ns, self._next_episode_ns)) <= to_ns:
            self._move(due_ns)
            if due_ns == self._next_joint_ns:
                self._next_joint_ns = next(self._joint_times)
                sent += self._unless_late(due_ns, to_ns, self._joint_messages)
            if due_ns == self._next_image_ns:
                self._next_image_ns = next(self._image_times)
                sent += self._unless_late(due_ns, to_ns, self._image_messages)
            if due_ns == self._next_episode_ns:
                self._next_episode_ns += self._episode_ns
                sent += self._end_episode(due_ns)
        if to_ns > self.now_ns:
            self._move(to_ns)
        return sent

    def prompt_message(self) -> SimMessage:
        """The prompt as of now, for those who begin to listen; `advance` sends the later ones."""
        return SimMessage(PROMPT_TOPIC, self.now_ns, encode_string(self.prompt))

    def distance_m(self) -> float:
        """From the tip to the target that is asked for, now."""
        return float(task.distance_m(self.arm, self.angle_rad, self._scene)[0])

    def _move(self, to_ns: int) -> None:
        delay_ns = round(float(self.arm.delay_s[0]) * 1e9)
        for duration_s, velocity in self._actuator.run(to_ns, delay_ns):
            with np.errstate(over="ignore"):  # an absurd command runs into the stops
                self.angle_rad = within_stops(self.angle_rad + duration_s * self.arm.gain * velocity)
        self.now_ns = to_ns

    def _unless_late(
        self, due_ns: int, to_ns: int, make: Callable[[int], Iterator[SimMessage]]
    ) -> Iterator[SimMessage]:
        if to_ns - due_ns <= LATE_NS:
            return make(due_ns)
        self.dropped += 1
        return iter(())

    def _new_task(self) -> None:
        """Another scene, with a prompt that differs from the last one."""
        before = self.prompt
        while self.prompt == before:
            self._scene = task.sample_scene(1, self._random)
            self.prompt = task.prompts(self._scene.colours[:, 0], self._random)[0]

    def _end_episode(self, stamp_ns: int) -> Iterator[SimMessage]:
        distance_m = self.distance_m()
        episode = Episode(len(self.episodes), self.prompt, distance_m, distance_m <= task.SUCCESS_M)
        self.episodes.append(episode)
        yield SimMessage(EPISODE_TOPIC, stamp_ns, encode_string(json.dumps(asdict(episode))))
        self._new_task()
        yield self.prompt_message()

    def _joint_messages(self, stamp_ns: int) -> Iterator[SimMessage]:
        reading = encoder_reading(self.arm, self.angle_rad)[0]
        yield SimMessage(JOINTS_TOPIC, stamp_ns, encode_joint_state(JOINT_NAMES, reading, stamp_ns))

    def _image_messages(self, stamp_ns: int) -> Iterator[SimMessage]:
        images = draw(self.arm, self.angle_rad, self._scene, self._size)[0]
        for topic, image in zip(CAMERA_TOPICS.values(), images, strict=True):
            yield SimMessage(topic, stamp_ns, encode_image(with_sensor_noise(image, self._noise), stamp_ns))


def make_robot(params: SimParams, start_ns: int) -> SimulatedRobot:
    """The robot that the parameters describe."""
    return SimulatedRobot(
        one_embodiment(params.embodiment_seed, params.shift_scale),
        start_ns,
        params.episode_seed,
        episode_s=params.episode_s,
        image_hz=params.image_hz,
        joint_hz=params.joint_hz,
        image_size=params.image_size,
    )


def _times(start_ns: int, hz: float) -> Iterator[int]:
    return (start_ns + round(index * 1e9 / hz) for index in count())
