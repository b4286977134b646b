"""A folder that a recorder fills -> experiences: each split once it is closed, in order, through one assembler and one
builder a recording, so that the seams between splits cost nothing.

The buffer takes a split's experiences when it was read to its end and stands in the ledger, never before. A new process
reads the newest splits of the ledger again, as many as the buffer holds: it has then what it had before, and what
counts as new is what no alignment was tried on.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

from vla_align_ros.experience.bag import feed
from vla_align_ros.experience.bag_clock import BagClock
from vla_align_ros.experience.bag_order import FALL_NS
from vla_align_ros.experience.bag_topics import BagTopics
from vla_align_ros.experience.buffer import ExperienceBuffer
from vla_align_ros.experience.builder import ExperienceBuilder
from vla_align_ros.experience.ledger import Ledger, TakenSplit
from vla_align_ros.experience.own_commands import is_foreign
from vla_align_ros.experience.recording import Recording
from vla_align_ros.experience.splits import Split, find_splits, is_closed
from vla_align_ros.experience.storage import BagMessage
from vla_align_ros.observation.assemble import ObservationAssembler
from vla_align_ros.types import Experience

LOOK_PERIOD_S: Final = 1.0  # how often the folder is listed while there is nothing to read
MESSAGES_A_STEP: Final = 20  # between two looks at the time

_log = logging.getLogger(__name__)


@dataclass
class Pipeline:
    """What the splits of one recording go through. clock: of the newest split; commands: `columns_of` those of ours in
    it; last_ns: when the newest message came; topics: seen so far; episodes: the builder's -> the buffer's."""

    assembler: ObservationAssembler
    builder: ExperienceBuilder
    clock: BagClock | None = None
    commands: set[int] = field(default_factory=set)
    last_ns: int = 0
    topics: set[str] = field(default_factory=set)
    episodes: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Again:
    """A split of the ledger to be read again. prompt: valid before it; end: the number of the first experience after
    it; fresh: the split before it in its recording is gone or unreadable."""

    split: Split
    taken: TakenSplit
    prompt: str
    end: int
    fresh: bool


@dataclass
class _Reading:
    """A split that is being read. topics: with the other commands that are in it. made: its newest experiences, as many
    as the buffer holds, of `count`. again: what the ledger knows of it. problem: what of it cannot be read."""

    split: Split
    topics: BagTopics
    pipeline: Pipeline
    made: deque[Experience]
    again: _Again | None
    messages: Generator[BagMessage, None, None] = field(init=False)
    count: int = 0
    problem: str = ""


class BagFolder:
    """Feeds `buffer` from the splits in `folder`. `work` is called from one thread; the rest from any.

    new_pipeline: of a fresh assembler and builder; an empty prompt leaves the assembler without one.
    history: how many experiences can start within the assembler's history: where reading begins inside a recording, so
    many may lack something.
    """

    def __init__(
        self,
        folder: Path,
        topics: BagTopics,
        new_pipeline: Callable[[str], Pipeline],
        ledger: Ledger,
        buffer: ExperienceBuffer,
        history: int,
    ) -> None:
        self.folder, self.ledger = folder, ledger
        self.closed = False  # set it, and nothing is read or written any more
        self.ready = False  # whether what an earlier process took has been read again
        self.idle = False  # whether there was nothing left to read at the last look
        self.waiting: tuple[str, ...] = ()  # splits that their recorder still writes
        self._topics, self._new_pipeline, self._buffer, self._history = topics, new_pipeline, buffer, history
        self._pipelines: dict[str, Pipeline] = {}  # by recording
        self._counts: Counter[Enum] = Counter()  # of pipelines that are gone
        self._again: deque[_Again] | None = None
        self._restored: list[tuple[int, Experience]] = []
        self._reading: _Reading | None = None
        self._episodes = 0
        self._next_look_s = 0.0
        self._unlisted = ""  # why the folder cannot be listed
        self._lacking: dict[str, str] = {}  # recording -> why it gave nothing so far

    @property
    def problem(self) -> str:
        """Why the folder cannot be listed, which splits cannot be read, which recordings lack a topic; or empty."""
        broken = [f"{split.name}: {split.problem}" for split in _by_name(self.ledger.splits).values() if split.problem]
        problems = [*filter(None, [self._unlisted]), *broken[::-1], *list(self._lacking.values())[::-1]]
        return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "") if problems else ""

    @property
    def refused(self) -> Counter[Enum]:
        """How often each reason cost a message or an experience since this process started."""
        return sum(map(_refused, list(self._pipelines.values())), self._counts.copy())

    @property
    def new_experiences(self) -> int:
        """How many no alignment was tried on, and nobody made forgotten."""
        return self.ledger.total - max(self.ledger.aligned, self.ledger.forgotten) if self.ready else 0

    def forget(self) -> None:
        """Empty the buffer; a restart does not bring back what was taken so far. OSError when that cannot be saved."""
        self.ledger.forget()
        self._buffer.clear()

    def close(self) -> None:
        """Read no more, and delete what was unpacked. Not while `work` runs, which ends soon once `closed` is set."""
        self.closed = True
        if self._reading is not None:
            self._reading.messages.close()

    def work(self, budget_s: float) -> None:
        """Read for about `budget_s`, or until there is nothing to read now. OSError when the ledger cannot be written:
        nothing is lost then, and the next call tries again."""
        deadline_s = time.monotonic() + budget_s
        while not self.closed and (self._reading is not None or self._begin()):
            if time.monotonic() >= deadline_s:
                return
            assert self._reading is not None
            self._read_on(self._reading)

    def _begin(self) -> bool:
        """Take up the next split; False when there is none now."""
        if self.ready and time.monotonic() < self._next_look_s:
            return False
        try:
            found = find_splits(self.folder)
            self._unlisted = ""
            if self._again is None:
                self._again = self._to_read_again({split.name: split for split in found})
            if self._again:
                again = self._again.popleft()
                if again.fresh:
                    self._drop(again.split.recording)
                self._take_up(again.split, again.prompt, again)
                return True
            self._finish_restoring()
            split = self._next_new(found)
        except OSError as error:
            self._unlisted, split = f"{self.folder} cannot be listed: {error}", None
        self.idle = split is None
        if split is None:
            self._next_look_s = time.monotonic() + LOOK_PERIOD_S
            return False
        if split.name in _by_name(self.ledger.splits):  # it has grown, or another file has its name
            self._drop(split.recording)
        self._drop_pipelines(split.recording, {item.recording for item in found if item.name in self.waiting})
        self._take_up(split, _prompt_after(self.ledger.splits, split.recording), None)
        return True

    def _take_up(self, split: Split, prompt: str, again: _Again | None) -> None:
        if split.recording not in self._pipelines:
            self._pipelines[split.recording] = self._new_pipeline(prompt)
        made: deque[Experience] = deque(maxlen=self._buffer.capacity)
        self._reading = reading = _Reading(split, self._topics, self._pipelines[split.recording], made, again)
        reading.messages = self._messages(reading)

    def _messages(self, reading: _Reading) -> Generator[BagMessage, None, None]:
        """Those of the split, with the time at which they came by the clock of the stamps. What a recorder wrote over
        the seam, into the split before, does not turn the time back."""
        pipeline, robot = reading.pipeline, self._topics.robot
        with Recording([reading.split.path], self._topics.joint_names) as recording:
            reading.problem = "; ".join(recording.lost)
            reading.topics = self._topics.beside(recording.trajectories)
            newest = recording.trajectories[self._topics.command]
            ours, pipeline.commands = newest | pipeline.commands, newest  # a copy may lie behind the seam
            clock = self._clock_of(reading, recording.ages_ns)
            for message in clock.retimed(recording.messages()):
                if message.topic in reading.topics.other_commands and not is_foreign(message.raw, ours, robot):
                    continue
                late = 0 < pipeline.last_ns - message.t_ns < FALL_NS
                pipeline.last_ns = pipeline.last_ns if late else message.t_ns
                yield message._replace(t_ns=pipeline.last_ns)

    def _clock_of(self, reading: _Reading, ages_ns: Mapping[str, Sequence[float]]) -> BagClock:
        """That of the split itself: between two splits a recorder's clock may be set. Without joints the one before."""
        pipeline, before = reading.pipeline, reading.pipeline.clock
        names = self._topics.joint_names
        if before is None or any(ages_ns.get(topic) for topic in names):
            pipeline.clock = BagClock(names, ages_ns, pipeline.builder.lag_s)
            if pipeline.clock.sentence and not (before and before.sentence):
                _log.warning("%s: %s", reading.split.path, pipeline.clock.sentence)
        assert pipeline.clock is not None
        return pipeline.clock

    def _read_on(self, reading: _Reading) -> None:
        """The next messages of the split; at its end, hand over what it gave."""
        pipeline = reading.pipeline
        try:
            messages = list(islice(reading.messages, MESSAGES_A_STEP))
            for message in messages:
                pipeline.topics.add(message.topic)
                made = feed(message, reading.topics, pipeline.assembler, pipeline.builder, lambda *_: None)
                reading.count += len(made)
                reading.made.extend(self._numbered(item, pipeline) for item in made)
        except Exception as error:  # noqa: BLE001 (whatever a file holds, the next ones are read)
            reading.problem, reading.count, messages = f"cannot be read, nothing of it is used: {error}", 0, []
            reading.made.clear()
        if not messages and not self.closed:
            self._hand_over(reading)

    def _numbered(self, item: Experience, pipeline: Pipeline) -> Experience:
        if item.episode not in pipeline.episodes:
            pipeline.episodes[item.episode], self._episodes = self._episodes, self._episodes + 1
        return replace(item, episode=pipeline.episodes[item.episode])

    def _hand_over(self, reading: _Reading) -> None:
        split, again = reading.split, reading.again
        if again is None:
            grown = split.name in _by_name(self.ledger.splits)
            made = self._buffer.not_held(reading.made) if grown else list(reading.made)
            prompt, count = reading.pipeline.assembler.newest_prompt(), reading.count - len(reading.made) + len(made)
            taken = TakenSplit(split.name, split.recording, split.size, count, prompt, reading.problem)
            self.ledger.take(taken)
            self._buffer.add(*made)
            if reading.problem:
                _log.warning("%s: %s", split.path, reading.problem)
        else:
            of_all_sizes = sum(one.experiences for one in self.ledger.splits if one.name == split.name)
            made = list(reading.made)[max(0, len(reading.made) - of_all_sizes) :]
            self._restored += [(again.end - len(made) + place, item) for place, item in enumerate(made)]
        if reading.problem:  # what lies before it in its recording must not meet what lies behind it
            self._drop(split.recording)
        else:
            self._look_for_topics(split.recording, reading.pipeline)
        self._reading = None

    def _look_for_topics(self, recording: str, pipeline: Pipeline) -> None:
        """Say which topics the recording lacks so far."""
        lacks = set(self._topics.needed) - pipeline.topics
        if pipeline.assembler.newest_prompt():
            lacks.discard(self._topics.prompt)
        if not lacks:
            self._lacking.pop(recording, None)
            return
        sentence = f"{recording}: no messages on {sorted(lacks)} so far, it has {sorted(pipeline.topics)}"
        if recording not in self._lacking:
            _log.warning("%s", sentence)
        self._lacking[recording] = sentence

    def _to_read_again(self, found: Mapping[str, Split]) -> deque[_Again]:
        """Splits of the ledger that are still there, from `history` experiences before the first that the buffer is to
        hold; also all of another recording that was made beside those."""
        taken = self.ledger.splits
        ends = list(accumulate(split.experiences for split in taken))
        first = self._first_wanted() - self._history
        start = next((place for place, end in enumerate(ends) if end > first), len(taken))
        others = {split.recording for split in taken[start + 1 :]} - {split.recording for split in taken[start:][:1]}
        again: deque[_Again] = deque()
        gone: set[str] = set()
        newest = {entry.name: place for place, entry in enumerate(taken)}
        first_of = {entry.name: place for place, entry in reversed(list(enumerate(taken)))}
        for name in sorted(newest, key=first_of.__getitem__):  # one that has grown is read where it was first
            entry, split = taken[newest[name]], found.get(name)
            if newest[name] < start and entry.recording not in others:
                continue
            if split is None or not _is_taken(split, entry) or (entry.problem and not entry.experiences):
                gone.add(entry.recording)
                continue
            before = taken[: first_of[name]]
            fresh = entry.recording in gone
            again.append(_Again(split, entry, _prompt_after(before, entry.recording), ends[newest[name]], fresh))
            gone.discard(entry.recording)
        return again

    def _first_wanted(self) -> int:
        return max(self.ledger.forgotten, self.ledger.total - self._buffer.capacity)

    def _finish_restoring(self) -> None:
        if not self.ready:
            first = self._first_wanted()
            self._buffer.add(*(item for number, item in self._restored if number >= first))
            self._restored.clear()
            self.ready = True

    def _next_new(self, found: Sequence[Split]) -> Split | None:
        """The first closed split that was not taken; none of a recording that has an earlier one still open."""
        taken = _by_name(self.ledger.splits)
        opened: dict[str, str] = {}
        chosen = None
        for split in found:
            if _is_taken(split, taken.get(split.name)) or split.recording in opened:
                continue
            if not is_closed(split):
                opened[split.recording] = split.name
            elif chosen is None:
                chosen = split
        self.waiting = tuple(opened.values())
        return chosen

    def _drop_pipelines(self, kept: str, still_open: set[str]) -> None:
        """All but that of the recording `kept` and those of recordings that go on."""
        for recording in [name for name in self._pipelines if name != kept and name not in still_open]:
            self._drop(recording)

    def _drop(self, recording: str) -> None:
        if recording in self._pipelines:
            self._counts += _refused(self._pipelines.pop(recording))


def _is_taken(split: Split | None, taken: TakenSplit | None) -> bool:
    """Whether the ledger's entry is of this very file; a recorder may have compressed it since."""
    if split is None or taken is None:
        return False
    return split.size == taken.size or (split.path.suffix == ".zstd" and not taken.problem)


def _by_name(splits: Sequence[TakenSplit]) -> dict[str, TakenSplit]:
    """The newest entry of each name."""
    return {split.name: split for split in splits}


def _prompt_after(splits: Sequence[TakenSplit], recording: str) -> str:
    return next((split.prompt for split in reversed(splits) if split.recording == recording), "")


def _refused(pipeline: Pipeline) -> Counter[Enum]:
    assembler, builder = pipeline.assembler.refused, pipeline.builder.skipped
    return Counter[Enum](dict(assembler.items())) + Counter[Enum](dict(builder.items()))
