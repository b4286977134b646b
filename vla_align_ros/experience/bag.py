"""A recording -> experiences, through the very assembler and builder that the live node uses.

Header stamps decide, as live. The last `lag_s` of a bag give no experience, because messages of that time may be
missing.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from rosbags.typesys.stores import ros2_jazzy as ros

from vla_align_ros.experience.bag_clock import BagClock, stamp_ns_of
from vla_align_ros.experience.bag_summary import BagSummary, TopicSummary
from vla_align_ros.experience.bag_topics import BagTopics
from vla_align_ros.experience.builder import ExperienceBuilder
from vla_align_ros.experience.own_commands import is_foreign
from vla_align_ros.experience.recording import Recording
from vla_align_ros.experience.storage import BagError, BagMessage, TopicMissing
from vla_align_ros.observation.assemble import ObservationAssembler, ObservationRefused
from vla_align_ros.observation.codecs import (
    JOINT_STATE,
    MessageReason,
    MessageRefused,
    deserialise,
)
from vla_align_ros.types import Experience

_AHEAD_S = 0.1  # a topic whose stamps are farther ahead of the first joints' than this has a clock of its own


class BagReading:
    """The experiences of one recording, oldest first: iterate once; `summary` is complete after that.

    Messages are fed in the order in which they came. One that is refused costs nothing but itself, as live.
    Trajectories on other topics are somebody else's commands, but not copies of ours (a relay), nor parts of them (for
    a command group), nor other joints'.
    """

    def __init__(
        self,
        paths: Path | Sequence[Path],
        topics: BagTopics,
        assembler: ObservationAssembler,
        builder: ExperienceBuilder,
        prompt: str = "",
    ) -> None:
        """`paths`: a folder, a file, or split files of one recording. `assembler`, `builder`: fresh ones, made as for a
        live run. prompt: for a bag that has none.

        Raises BagError for a bag that is missing, unreadable, empty or without a needed topic or joint,
        ObservationRefused for a prompt that the model cannot read.
        """
        self._recording = Recording([paths] if isinstance(paths, Path) else list(paths), topics.joint_names)
        self._topics = topics.beside(self._recording.trajectories)
        self._assembler, self._builder = assembler, builder
        self._foreign: Counter[str] = Counter()
        self._last_ns = 0
        self._ages_s: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.summary = BagSummary(self._recording.name, lost=self._recording.lost, notes=self._recording.notes)
        try:
            self._needed = self._checked(prompt)
        except ValueError:
            self._recording.close()
            raise
        self._clock = BagClock(topics.joint_names, self._recording.ages_ns, builder.lag_s)
        if self._clock.sentence:
            self.summary.notes.append(self._clock.sentence)

    def __iter__(self) -> Iterator[Experience]:
        names, robot = self._topics.joint_names, self._topics.robot
        with self._recording as recording:
            for message in self._clock.retimed(recording.messages()):
                if message.topic in self._needed and (stamp_ns := stamp_ns_of(message, names)) is not None:
                    self._ages_s[message.topic].append((message.t_ns - stamp_ns) * 1e-9)
                self._last_ns = message.t_ns
                if message.topic in self._topics.other_commands:
                    if not is_foreign(message.raw, recording.trajectories[self._topics.command], robot):
                        continue
                    self._foreign[message.topic] += 1
                made = feed(message, self._topics, self._assembler, self._builder, self._refused)
                self.summary.experiences += len(made)
                yield from made
        self._finish()

    def _refused(self, message: BagMessage, error: MessageRefused | ObservationRefused) -> None:
        self._needed[message.topic].refuse(error.reason.value, str(error))

    def _checked(self, prompt: str) -> dict[str, TopicSummary]:
        """The summary of each topic that is there. Raises BagError when one is not."""
        counts, needed = self._recording.counts, self._topics.needed
        if not counts:
            raise BagError("; ".join([f"{self._recording.name}: the bag has no messages", *self._recording.lost]))
        prompts = counts[self._topics.prompt].total() if self._topics.prompt in counts else 0
        if prompt and prompts:
            self.summary.notes.append(f"the prompt that was given is not used: {self._topics.prompt} has {prompts}")
        elif prompt:
            del needed[self._topics.prompt]
            self._assembler.push_prompt(prompt, 0)
            self.summary.notes.append(f"no messages on {self._topics.prompt}: the prompt is {prompt!r}, as given")
        if missing := [topic for topic in needed if topic not in counts]:
            raise TopicMissing(self._missing(missing))
        for topic, (_, option, allowed) in needed.items():
            if not set(counts[topic]) & set(allowed):
                found = f"it is {' and '.join(counts[topic])}"
                raise BagError(f"{self._recording.name}: {topic} must be {' or '.join(allowed)}, {found} ({option})")
        self._check_joints()
        self.summary.topics = [
            TopicSummary(
                what, topic, " and ".join(counts[topic]), counts[topic].total(), self._recording.declared[topic]
            )
            for topic, (what, _, _) in needed.items()
        ]
        return {item.topic: item for item in self.summary.topics}

    def _check_joints(self) -> None:
        """Raises BagError where no message of the bag names a joint that the state reads. Quick: the first ones do."""
        missing, seen = list(self._topics.robot.state_joints), dict[str, dict[str, None]]()
        for message in self._recording.messages():
            if message.topic in self._topics.joints and message.msgtype == JOINT_STATE:
                try:
                    names = deserialise(message.raw, ros.sensor_msgs__msg__JointState).name
                except MessageRefused:
                    return  # what else there is to say about the topic is said when it is read
                seen.setdefault(message.topic, {}).update(dict.fromkeys(names))
                prefix = self._topics.joints[message.topic].prefix
                missing = [joint for joint in missing if joint not in [f"{prefix}{name}" for name in names]]
            if not missing:
                return
        named = "; ".join(
            f"{topic} names {list(names)}, the model reads {list(self._topics.joint_names[topic])} there"
            for topic, names in seen.items()
        )
        unread = list(dict.fromkeys(missing))
        raise BagError(f"{self._recording.name}: no joint state of {unread}, is this another robot's bag? {named}")

    def _missing(self, topics: Sequence[str]) -> str:
        counts, needed = self._recording.counts, self._topics.needed
        asked = []
        for topic in topics:
            what, option, types = needed[topic]
            free = sorted(other for other in set(counts) - set(needed) if set(counts[other]) & set(types))
            named = option.replace("TOPIC", " or ".join(free) or "TOPIC", 1)
            asked.append(f"{what}: no messages on {topic}, give {named}")
        found = ", ".join(
            f"{topic} ({' and '.join(types)}, {types.total()} messages)" for topic, types in sorted(counts.items())
        )
        return "; ".join(
            [f"{self._recording.name}: {asked[0]}", *asked[1:], f"the bag has {found}", *self._recording.lost]
        )

    def _finish(self) -> None:
        summary = self.summary
        for topic in summary.topics:
            ages = self._ages_s.get(topic.topic)
            topic.age_s = median(ages) if ages else None
            if topic.age_s is None:
                continue
            what, clock = f"{topic.what}: the stamps are {abs(topic.age_s):.3f} s", f"{self._clock.topic}'s"
            if topic.age_s < -_AHEAD_S:
                summary.notes.append(f"{what} ahead of {clock}: a clock of its own; set the computers' clocks")
            elif topic.age_s > self._builder.lag_s:
                summary.notes.append(f"{what} old when they come, experience_lag_s is {self._builder.lag_s:g}")
        for other, count in self._foreign.items():
            text = (
                f"{count} trajectories on {other} are not on {self._topics.command}: somebody else's commands, so that "
            )
            summary.notes.append(
                f"{text}their time gives no experience; did they move the robot? --command-topic {other}"
            )
        skipped = self._builder.skipped.items()
        summary.left_out = {reason.value: count for reason, count in skipped if not isinstance(reason, MessageReason)}
        if not summary.experiences:
            self._say_why()

    def _say_why(self) -> None:
        """In words, why there is no observation at the end of the bag, where that is what it was all along."""
        summary = self.summary
        if not summary.left_out:
            summary.notes.append("at no tick of the bag was a command in force: are the commands' stamps right?")
        try:
            self._assembler.observe(self._last_ns)
        except ObservationRefused as error:
            if error.reason.value in summary.left_out:
                summary.notes.append(f"at the end of the bag: {error}")


def feed(
    message: BagMessage,
    topics: BagTopics,
    assembler: ObservationAssembler,
    builder: ExperienceBuilder,
    on_refused: Callable[[BagMessage, MessageRefused | ObservationRefused], None],
) -> list[Experience]:
    """Push one message of any topic; returns the experiences that had become complete before it."""
    # before the message: what became complete in the silence before it must not meet a history that it shortened
    made = builder.advance(message.t_ns)
    try:
        if message.topic == topics.command:
            builder.push_command(message.raw, message.t_ns)
        elif message.topic in topics.other_commands:
            builder.push_foreign(message.raw, message.t_ns)
        else:
            push_sensed(message, topics, assembler)
    except (MessageRefused, ObservationRefused) as error:
        on_refused(message, error)
    return made


def push_sensed(message: BagMessage, topics: BagTopics, assembler: ObservationAssembler) -> None:
    """Push a message of a camera, the joints or the prompt; another topic's is passed over. Raises as `push_*` does."""
    cameras = {topic: camera for camera, topic in topics.cameras.items()}
    if message.topic in cameras:
        assembler.push_image(cameras[message.topic], message.raw, message.msgtype, message.t_ns)
    elif message.topic in topics.joints:
        assembler.push_joints(message.raw, message.t_ns, topics.joints[message.topic].prefix)
    elif message.topic == topics.prompt:
        assembler.push_prompt(message.raw, message.t_ns)
