"""A rosbag2 folder, or split files of one, -> one stream of messages in the order in which they came.

`metadata.yaml` is a hint: it names files and counts messages, and a bag is read without it, or in spite of it. Every
file is read twice: first to count, and to learn the order and the clocks, then to give the messages.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final

import yaml

from vla_align_ros.experience.bag_clock import stamp_ns_of
from vla_align_ros.experience.bag_order import OrderScan, in_order
from vla_align_ros.experience.own_commands import columns_of
from vla_align_ros.experience.storage import BagError, BagMessage, StorageFile
from vla_align_ros.observation.codecs import JOINT_TRAJECTORY

log = logging.getLogger(__name__)

METADATA: Final = "metadata.yaml"
_PACKED: Final = (".zstd", ".zst")
_STORAGE: Final = re.compile(r"(?P<stem>.*?)(_\d+)?\.(mcap|db3)(\.zstd|\.zst)?")


def bag_messages(path: Path) -> Iterator[BagMessage]:
    """All messages of a bag (a folder, or one file) in the order in which they came. What cannot be read is logged as
    a warning. Raises BagError where nothing can be read."""
    with Recording([path]) as recording:
        for text in recording.lost:
            log.warning("%s", text)
        yield from recording.messages()


def grouped(paths: Sequence[Path]) -> list[list[Path]]:
    """The paths of each recording: a folder is one, and so are the files NAME_<number> of one folder."""
    paths = [path.parent if path.name == METADATA else path for path in paths]
    folders = {path.resolve() for path in paths if path.is_dir()}
    groups: dict[tuple[Path, str], dict[Path, Path]] = {}
    for path in paths:
        place = path.resolve()
        match = _STORAGE.fullmatch(path.name)
        if place.parent in folders:
            continue  # it is read with its folder
        key = (place.parent, match["stem"]) if match and path.is_file() else (place, "")
        groups.setdefault(key, {})[place] = path
    return [sorted(group.values(), key=_natural) for group in groups.values()]


class Recording:
    """One stream of messages. A context manager: leaving it deletes what had to be unpacked.

    counts: messages read, by topic and message type. declared: messages that the files and metadata.yaml say there are,
    by topic. ages_ns: receive time minus header stamp, by topic, of messages that have one. trajectories: `columns_of`
    all JointTrajectories, by topic. lost: sentences, what could not be read. notes: what else is to be known.
    """

    def __init__(self, paths: Sequence[Path], joint_names: Mapping[str, Sequence[str]] | None = None) -> None:
        """`paths`: one folder, or files. joint_names: by topic, whose joint states have an age. Raises BagError when
        nothing can be read."""
        self._joint_names = joint_names or {}
        self.name = ", ".join(map(str, paths))
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.declared: Counter[str] = Counter()
        self.ages_ns: dict[str, array[float]] = defaultdict(lambda: array("d"))
        self.trajectories: dict[str, set[int]] = defaultdict(set)
        self.lost: list[str] = []
        self.notes: list[str] = []
        self._listed: Counter[str] = Counter()
        files = list(chain.from_iterable(self._files_of(path) for path in paths))
        self._scratch = TemporaryDirectory(prefix="vla_align_bag_")
        self._files: list[tuple[StorageFile, int]] = []  # with the number of messages read
        self._order = OrderScan()
        try:
            problems = [problem for number, path in enumerate(files) if (problem := self._scan(path, number))]
            if not self._files:
                raise BagError("; ".join(problems))
            self.lost += problems
            self._compare()
        except BaseException:
            self.close()
            raise

    def messages(self) -> Iterator[BagMessage]:
        """All messages, by receive time; of one time, in the order of the files."""
        in_files = (islice(file.messages(), count) for file, count in self._files)
        yield from in_order(chain.from_iterable(in_files), self._order.spans())

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete what had to be unpacked."""
        self._scratch.cleanup()

    def _scan(self, path: Path, number: int) -> str:
        """Read a file to its end; returns why it cannot be read at all, in words."""
        scratch = Path(self._scratch.name) / str(number)
        scratch.mkdir()
        count = 0
        try:
            file = StorageFile(path, scratch)
            self._order.begin_file()
            for message in file.messages():
                count += 1
                self.counts[message.topic][message.msgtype] += 1
                self._order.note(message.topic, message.t_ns)
                if message.msgtype == JOINT_TRAJECTORY:
                    self.trajectories[message.topic] |= columns_of(message.raw)
                if (stamp_ns := stamp_ns_of(message, self._joint_names)) is not None:
                    self.ages_ns[message.topic].append(message.t_ns - stamp_ns)
        except BagError as error:
            return str(error)
        self.declared += file.declared
        self.lost += file.lost
        self._files.append((file, count))
        return ""

    def _compare(self) -> None:
        """What metadata.yaml counts and the files do not have."""
        read = {topic: counts.total() for topic, counts in self.counts.items()}
        missing = {topic: count - read.get(topic, 0) for topic, count in self._listed.items()}
        if short := {topic: count for topic, count in missing.items() if count > 0}:
            by_topic = ", ".join(f"{count} of {self._listed[topic]} on {topic}" for topic, count in short.items())
            self.lost.append(f"{METADATA} counts messages that were not read: {by_topic}")
        self.declared |= self._listed

    def _files_of(self, path: Path) -> list[Path]:
        if not path.exists():
            raise BagError(f"{path}: no such bag")
        if path.is_file():
            return [path]
        there = sorted((file for file in path.iterdir() if _STORAGE.fullmatch(file.name)), key=_natural)
        names = {file.name for file in there}
        there = [file for file in there if not (file.suffix in _PACKED and file.stem in names)]  # unpacked beside it
        listed = self._read_metadata(path)
        if not there and not listed:
            raise BagError(
                f"{path}: no bag, there is no {METADATA} and no .mcap or .db3 file in this folder{_inside(path)}"
            )
        found = []
        for name in listed:
            plain = name.removesuffix(".zstd").removesuffix(".zst")
            candidates = [path / name, path / plain, path / f"{plain}.zstd", path / f"{plain}.zst"]
            if (file := next(filter(Path.is_file, candidates), None)) is not None:
                found.append(file)
            else:
                self.lost.append(f"{name} is missing, {METADATA} lists it")
        if not found:
            if not there:
                raise BagError(f"{path}: none of the files that {METADATA} lists is there: {', '.join(listed)}")
            return there
        stems = {_stem(file) for file in found}
        more = [file for file in there if file not in found]
        own = [file for file in more if _stem(file) in stems]
        if own:
            self.notes.append(f"{_names(own)}: not listed in {METADATA}, read too")
        if others := [file for file in more if file not in own]:
            self.notes.append(f"{_names(others)}: not listed in {METADATA} and not read; give the file to read it")
        return sorted(found + own, key=_natural) if own else found

    def _read_metadata(self, folder: Path) -> list[str]:
        """The names of the files; notes the counts. Nothing for a metadata.yaml that is missing or torn."""
        path = folder / METADATA
        if not path.exists():
            self.notes.append(f"{folder} has no {METADATA}: the recorder was not closed, or the files were copied")
            return []
        try:
            content: Any = yaml.safe_load(path.read_text())["rosbag2_bagfile_information"]
            names = [PurePosixPath(name).name for name in content["relative_file_paths"]]
            listed: Counter[str] = Counter()
            for entry in content["topics_with_message_count"]:
                listed[entry["topic_metadata"]["name"]] += int(entry["message_count"])
        except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.notes.append(f"{path} is damaged ({type(error).__name__}): the files are read without it")
            return []
        self._listed += listed
        return names


def _natural(path: Path) -> tuple[str, int, str]:
    """bag_2 before bag_10."""
    number = re.search(r"_(\d+)\.", path.name)
    return _stem(path), int(number[1]) if number else -1, path.name


def _stem(path: Path) -> str:
    match = _STORAGE.fullmatch(path.name)
    return match["stem"] if match else path.name


def _names(files: Sequence[Path]) -> str:
    return ", ".join(file.name for file in files)


def _inside(folder: Path) -> str:
    bags = sorted(found.parent.name for found in folder.glob(f"*/{METADATA}"))
    return f"; give one of the bags in it: {', '.join(bags)}" if bags else ""
