"""One simulated arm with its sensors and its tasks, on a simulated clock and free of ROS: bytes in, bytes out.

    commands (bytes) -> `receive`, `receive_group` -> body of the bench -> encoders, cameras -> `advance` -> bytes

`ros/sim_robot.py` connects it to topics and to real time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import count

import numpy as np

from vla_align_ros.bench.port import Bench, Embodiment, find_bench
from vla_align_ros.bench.sensor_noise import with_sensor_noise
from vla_align_ros.experience.bag_topics import COMMAND, PROMPT
from vla_align_ros.observation.codecs import (
    IMAGE,
    JOINT_STATE,
    STRING,
    RawMessage,
    decode_positions,
    decode_trajectory,
    encode_image,
    encode_joint_state,
    encode_string,
)
from vla_align_ros.params import SimParams
from vla_align_ros.robot.description import CommandGroup, RobotDescription
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.types import Trajectory

LATE_NS = 500_000_000  # a sensor message that is due longer ago than this is dropped, not sent late

JOINTS_TOPIC = "joint_states"  # relative: a namespace keeps two robots apart
PROMPT_TOPIC, CHUNK_TOPIC = PROMPT, COMMAND
EPISODE_TOPIC = "~/episode"
AT_ONCE_NS = np.array([1])  # of a target's only point: a trajectory must not end when it begins


def topics_of(robot: RobotDescription) -> dict[str, str]:
    """Every topic that a simulated robot sends on -> its message type."""
    cameras = dict.fromkeys(robot.cameras.values(), IMAGE)
    return {**cameras, JOINTS_TOPIC: JOINT_STATE, PROMPT_TOPIC: STRING, EPISODE_TOPIC: STRING}


@dataclass(frozen=True)
class SimMessage:
    """One serialised message. topic: a key of `topics_of`. stamp_ns: its header stamp, or when it happened."""

    topic: str
    stamp_ns: int
    raw: bytes


@dataclass(frozen=True)
class Episode:
    """A finished one. distance_m: at its end, from what the prompt asked for. success: whether it was done then."""

    index: int
    prompt: str
    distance_m: float
    success: bool


class SimulatedRobot:
    """One arm. Its time begins at `start_ns`, with a random pose, table and prompt, and goes on by `advance` only.

    seed: of start pose, tables, prompts and sensor noise. episode_s: after it table and prompt change; always half-way
    between two control ticks, so that live messages and a bag of them agree on the first tick of the new prompt.
    home_s: so long the arm then goes back to where its encoders were at the start, as by somebody's hand, with a table
    and prompt of its own, and what comes meanwhile moves nothing; 0: it stays where it is. Only for arms that take
    their own readings as commands. dropped: sensor messages that were due too long ago. Not thread-safe.
    """

    def __init__(
        self,
        bench: Bench[Embodiment],
        arm: Embodiment,
        start_ns: int,
        seed: int = 0,
        *,
        episode_s: float = SimParams.episode_s,
        home_s: float = SimParams.home_s,
        image_hz: float = SimParams.image_hz,
        joint_hz: float = SimParams.joint_hz,
        image_size: int = SimParams.image_size,
    ) -> None:
        """Raises ValueError for an arm that the bench cannot simulate."""
        self.description, self.body = bench.robot, bench.body(arm, start_ns, seed, image_size)
        self.dropped = 0
        self.episodes: list[Episode] = []
        self._noise = rng_of(seed, Stream.MESSAGE_NOISE)
        self._joint_names = tuple(item.joint for item in bench.robot.state)
        self._joint_times, self._image_times = _times(start_ns, joint_hz), _times(start_ns, image_hz)
        self._next_joint_ns, self._next_image_ns = next(self._joint_times), next(self._image_times)
        period_ns = bench.robot.period_ns
        self._episode_ns = max(1, round(episode_s * 1e9 / period_ns)) * period_ns
        self._next_episode_ns = start_ns // period_ns * period_ns + period_ns // 2 + self._episode_ns
        self._home, self._homing = self.body.reading(), False
        self._home_ns = -(-round(home_s * 1e9) // period_ns) * period_ns

    @property
    def now_ns(self) -> int:
        """Until when time has gone on."""
        return self.body.now_ns

    def receive(self, raw: RawMessage) -> None:
        """A JointTrajectory of all joints that arrives now, read by its times. MessageRefused changes nothing."""
        self._follow(decode_trajectory(raw, self.description.action_joints))

    def receive_group(self, group: CommandGroup, raw: RawMessage) -> None:
        """What arrives now at the controller of a command group. MessageRefused changes nothing."""
        if group.type == "position_stream":
            positions = decode_positions(raw, len(group.joints))
            self._follow(Trajectory(0, group.joints, AT_ONCE_NS, positions[None]))
        else:
            self._follow(replace(decode_trajectory(raw, group.wire_names), joint_names=group.joints))

    def _follow(self, trajectory: Trajectory) -> None:
        if not self._homing:
            self.body.follow(trajectory)

    def advance(self, to_ns: int) -> list[SimMessage]:
        """Let time go on to `to_ns`; returns what the robot has sent until then, `to_ns` included, by rising stamp.

        A `to_ns` in the past changes nothing.
        """
        sent: list[SimMessage] = []
        while (due_ns := min(self._next_joint_ns, self._next_image_ns, self._next_episode_ns)) <= to_ns:
            self.body.advance(due_ns)
            if due_ns == self._next_joint_ns:
                self._next_joint_ns = next(self._joint_times)
                sent += self._unless_late(due_ns, to_ns, self._joint_messages)
            if due_ns == self._next_image_ns:
                self._next_image_ns = next(self._image_times)
                sent += self._unless_late(due_ns, to_ns, self._image_messages)
            if due_ns == self._next_episode_ns:
                sent += self._begin_episode() if self._homing else self._end_episode(due_ns)
        if to_ns > self.now_ns:
            self.body.advance(to_ns)
        return sent

    def prompt_message(self) -> SimMessage:
        """The prompt as of now, for those who begin to listen; `advance` sends the later ones."""
        return SimMessage(PROMPT_TOPIC, self.now_ns, encode_string(self.body.prompt))

    def _unless_late(
        self, due_ns: int, to_ns: int, make: Callable[[int], Iterator[SimMessage]]
    ) -> Iterator[SimMessage]:
        if to_ns - due_ns <= LATE_NS:
            return make(due_ns)
        self.dropped += 1
        return iter(())

    def _end_episode(self, stamp_ns: int) -> Iterator[SimMessage]:
        body = self.body
        episode = Episode(len(self.episodes), body.prompt, body.distance_m(), body.done())
        self.episodes.append(episode)
        yield SimMessage(EPISODE_TOPIC, stamp_ns, encode_string(json.dumps(asdict(episode))))
        yield from self._begin_episode()
        if self._home_ns:
            self._homing, self._next_episode_ns = True, stamp_ns + self._home_ns
            body.follow(Trajectory(0, self.description.action_joints, np.array([self._home_ns]), self._home[None]))

    def _begin_episode(self) -> Iterator[SimMessage]:
        self._homing = False
        self._next_episode_ns += self._episode_ns
        self.body.next_task()
        yield self.prompt_message()

    def _joint_messages(self, stamp_ns: int) -> Iterator[SimMessage]:
        raw = encode_joint_state(self._joint_names, self.body.reading(), stamp_ns)
        yield SimMessage(JOINTS_TOPIC, stamp_ns, raw)

    def _image_messages(self, stamp_ns: int) -> Iterator[SimMessage]:
        for topic, image in zip(self.description.cameras.values(), self.body.pictures(), strict=True):
            yield SimMessage(topic, stamp_ns, encode_image(with_sensor_noise(image, self._noise), stamp_ns))


def make_robot(params: SimParams, start_ns: int) -> SimulatedRobot:
    """The robot that the parameters describe. Raises ParameterError for a bench, task or shift that is not there."""
    bench = find_bench(params.bench).narrowed(params.tasks.split(), params.shifts.split())
    return SimulatedRobot(
        bench,
        bench.embodiment(params.embodiment_seed, params.shift_scale),
        start_ns,
        params.episode_seed,
        episode_s=params.episode_s,
        home_s=params.home_s,
        image_hz=params.image_hz,
        joint_hz=params.joint_hz,
        image_size=params.image_size,
    )


def _times(start_ns: int, hz: float) -> Iterator[int]:
    return (start_ns + round(index * 1e9 / hz) for index in count())
