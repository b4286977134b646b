"""Where the node's experience comes from: commands on the wire (its own, or others'), or a folder of bags. Wiring only;
see `experience.builder` and `experience.folder`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from rclpy.node import Node

from vla_align_ros.alignment.waiting import NOTHING_ADVICE
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.experience.own_commands import columns_of, is_foreign
from vla_align_ros.observation.codecs import MessageRefused
from vla_align_ros.params import PolicyParams
from vla_align_ros.robot.description import CommandGroup
from vla_align_ros.ros.command_groups import OUTPUT_TOPIC
from vla_align_ros.ros.diagnostics import SourceStatus
from vla_align_ros.ros.sensors import SensorNode
from vla_align_ros.ros.steady import THROTTLED
from vla_align_ros.runtime import Runtime, make_bag_folder
from vla_align_ros.worker import Worker

REMEMBERED = 64  # commands; a copy of one that is heard later than this many is taken for somebody else's
READ_S = 0.1  # of bags, at each poll
STOP_TIMEOUT_S = 1.0


class WireSource:
    """Commands as they are sent: with `live` the node's own, where whatever else comes on its output topic is somebody
    else's; with `topic` all that come on `command_topic`."""

    needs_clock = True

    def __init__(self, node: Node, sensors: SensorNode, runtime: Runtime, params: PolicyParams) -> None:
        self._runtime, self._logger = runtime, node.get_logger()
        self._live = params.experience_source == "live"
        self._ours: deque[frozenset[int]] = deque(maxlen=REMEMBERED)  # of the newest commands that are nobody else's
        self._total_at_align = runtime.buffer.total_added
        self.problem = self.waiting = ""
        self.nothing = NOTHING_ADVICE
        commands, others = _command_topics(node, params, runtime.policy.config.robot.command_groups)
        self.sentence = "own chunks" if self._live else f"the commands on {commands}"
        receive = self._push_foreign if self._live else self._push_command
        sensors.listen_to_commands(commands, receive, expected=not self._live)
        for topic in sorted(others):
            sensors.listen_to_commands(topic, self._push_foreign, expected=False)

    def stop(self) -> None:
        """Nothing: the sensors' subscriptions end with theirs."""

    def poll(self, now_ns: int, active: bool) -> None:
        """Move what has become complete into the buffer."""
        self._runtime.take_experience(now_ns)

    def sent(self, raw: bytes, now_ns: int) -> None:
        """Tell of an own trajectory, before it is published."""
        self._ours.append(columns_of(raw))
        if self._live:
            try:
                self._runtime.builder.push_command(raw, now_ns)
            except MessageRefused as refused:
                self._logger.warning(f"no experience: {refused}", **THROTTLED)

    def _push_foreign(self, raw: bytes, came_ns: int) -> None:
        if is_foreign(raw, frozenset().union(*self._ours), self._runtime.policy.config.robot):
            self._runtime.builder.push_foreign(raw, came_ns)

    def _push_command(self, raw: bytes, came_ns: int) -> None:
        self._ours.append(columns_of(raw))
        self._runtime.builder.push_command(raw, came_ns)

    @property
    def refused(self) -> Counter[Enum]:
        """What cost experience, by reason."""
        return Counter[Enum](dict(self._runtime.builder.skipped.items()))

    @property
    def total(self) -> int:
        """Experiences that there were so far."""
        return self._runtime.buffer.total_added

    @property
    def new_experiences(self) -> int:
        """Those since the last alignment that was tried."""
        return self.total - self._total_at_align

    def aligned(self, total: int) -> None:
        """An alignment was tried on what there was at `total`; what was cleared since then is not new either."""
        self._total_at_align = max(self._total_at_align, total)

    def forget(self) -> None:
        """Empty the buffer: nothing in it is new."""
        self._runtime.buffer.clear()
        self.aligned(self.total)


class BagSource:
    """The recordings in `bag_folder`, read in a thread of its own. The same interface as WireSource."""

    needs_clock = False  # a bag's own stamps tell the time

    def __init__(self, node: Node, sensors: SensorNode, runtime: Runtime, params: PolicyParams) -> None:
        """ValueError without a folder; OSError for a ledger that cannot be read."""
        if not params.bag_folder:
            raise ValueError("bag_folder: experience_source bag needs the folder that the recorder fills, got nothing")
        robot, resolve = runtime.assembler.robot, node.resolve_topic_name
        topics = bag_topics(robot, resolve, prompt="~/prompt", command=params.command_topic)
        self._logger = node.get_logger()
        self._failure = ""
        self.nothing = "no split was closed in the meantime: does the recorder run, and make splits?"
        self._folder = make_bag_folder(runtime, params, Path(params.bag_folder).expanduser(), topics)
        self.sentence = f"the bags in {self._folder.folder}"
        if self._folder.ledger.restarted:
            self._logger.warning(
                f"{self.sentence} were read with other settings before, or the ledger is damaged: all count as new"
            )
        self._reader = Worker("bags", self._failed)

    @property
    def problem(self) -> str:
        """What keeps experience away."""
        return self._failure or self._folder.problem

    @property
    def waiting(self) -> str:
        """Splits that are not closed yet."""
        return " ".join(self._folder.waiting)

    def stop(self) -> None:
        """Read no more."""
        self._folder.closed = True
        if self._reader.stop(STOP_TIMEOUT_S):
            self._folder.close()

    def poll(self, now_ns: int, active: bool) -> None:
        """Read on, while the node is active."""
        if active:
            self._reader.submit(self._read)

    def sent(self, raw: bytes, now_ns: int) -> None:
        """Nothing: the recorder hears it."""

    def _read(self) -> None:
        """In the reader's thread."""
        self._folder.work(READ_S)
        self._failure = ""

    def _failed(self, error: Exception) -> None:
        self._failure = f"bags are not read: {error}"
        self._logger.error(self._failure, **THROTTLED)

    @property
    def refused(self) -> Counter[Enum]:
        """What cost messages and experience, by reason."""
        return self._folder.refused

    @property
    def total(self) -> int:
        """Experiences so far, in earlier processes too; until their splits are read again, those aligned on."""
        return self._folder.ledger.total if self._folder.ready else self._folder.ledger.aligned

    @property
    def new_experiences(self) -> int:
        """Those that no alignment was tried on, here or in an earlier process."""
        return self._folder.new_experiences

    def aligned(self, total: int) -> None:
        """An alignment was tried on what there was at `total`."""
        try:
            self._folder.ledger.mark_aligned(total)
        except OSError as error:  # it was tried all the same
            self._logger.error(f"a restart will count the experience of this alignment as new: {error}")

    def forget(self) -> None:
        """Empty the buffer, for the next process too. OSError when it cannot be written down."""
        self._folder.forget()


ExperienceSource = WireSource | BagSource


def make_source(node: Node, sensors: SensorNode, runtime: Runtime, params: PolicyParams) -> ExperienceSource:
    """The source that `params` name. Raises ValueError for parameters that give none, OSError as BagSource."""
    if params.experience_source == "live" and not params.drives:
        raise ValueError("publish_chunks: never leaves experience_source live without commands; take topic or bag")
    kind = BagSource if params.experience_source == "bag" else WireSource
    return kind(node, sensors, runtime, params)


def status_of(source: ExperienceSource) -> SourceStatus:
    """What diagnostics say about it."""
    return SourceStatus(source.sentence, source.problem, source.waiting, source.total, source.refused)


def _command_topics(node: Node, params: PolicyParams, groups: Sequence[CommandGroup]) -> tuple[str, frozenset[str]]:
    """The topic of the commands in force, and those of other commands: where the robot's groups are commanded, too."""
    live = params.experience_source == "live"
    commands = node.resolve_topic_name(OUTPUT_TOPIC if live else params.command_topic)
    others = frozenset(map(node.resolve_topic_name, params.other_command_topics.split()))
    if commands in others:
        raise ValueError(f"other_command_topics: {commands} has the commands in force, leave it out")
    own, streams = (
        {node.resolve_topic_name(group.topic) for group in groups if group.type == kind}
        for kind in ("joint_trajectory", "position_stream")
    )
    if unheard := sorted(streams & (others | {commands})):
        raise ValueError(f"{unheard} take position streams: commands are heard as JointTrajectory, leave them out")
    return commands, (others | own) - {commands}
