"""What lies in a watched folder: the splits of recordings, and which of them their recorder has closed.

A split is one storage file, `name_0.mcap`, `name_1.mcap`, ... of one recording, or a recording's only file. Recordings
lie in the folder itself or each in a bag folder of its own in it, as `ros2 bag record` makes them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

SETTLED_S: Final = 5.0  # a file without an end of its own must be untouched for so long: the next is opened first
_STORAGE: Final = re.compile(r"(?P<stem>.+?)(_(?P<number>\d+))?\.(?P<kind>mcap|db3)(?P<zstd>\.zstd)?")
_MCAP_FOOTER: Final = b"\x02" + (20).to_bytes(8, "little")  # opcode and length; then 20 bytes, then the magic
_MCAP_MAGIC: Final = b"\x89MCAP0\r\n"


@dataclass(frozen=True)
class Split:
    """One storage file. name: its path in the watched folder, without `.zstd`, which a recorder may add later.
    recording: what the splits of one recording have in common. last: it has no later one. size: bytes."""

    path: Path
    name: str
    recording: str
    number: int
    last: bool
    size: int


def find_splits(folder: Path) -> list[Split]:
    """The splits in `folder`, in natural order: name_2 before name_10. OSError when the folder cannot be read."""
    places = [folder, *(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))]
    splits = [split for place in places for split in _splits_in(place, folder)]
    return sorted(splits, key=lambda split: (_natural(split.recording), split.number))


def _splits_in(place: Path, folder: Path) -> Iterator[Split]:
    """Those that lie in `place` itself. A compressed one counts where there is no plain one of the same name."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(place.iterdir()):  # x.mcap before x.mcap.zstd
        match = _STORAGE.fullmatch(path.name)
        if match and not path.name.startswith("."):
            found.setdefault((f"{match['stem']}.{match['kind']}", int(match["number"] or -1)), path)
    for (stem, number), path in found.items():
        name = str(path.relative_to(folder)).removesuffix(".zstd")
        last = number == max(other for other_stem, other in found if other_stem == stem)
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # renamed by its recorder since it was listed: the next look finds it
            continue
        yield Split(path, name, str((place / stem).relative_to(folder)), number, last, size)


def is_closed(split: Split) -> bool:
    """Whether its recorder is done with it: it ends as an mcap does, or it was left for a later one or is named by
    metadata.yaml, and is untouched since. OSError when it is gone."""
    path = split.path
    if path.suffix == ".mcap" and _ends_as_mcap(path):
        return True
    if path.suffix == ".db3" and any(_size(path.with_name(path.name + end)) for end in ("-wal", "-journal")):
        return False
    settled = time.time() - path.stat().st_mtime >= SETTLED_S
    return settled and (not split.last or path.name in _listed(path.with_name("metadata.yaml")))


def _ends_as_mcap(path: Path) -> bool:
    end = len(_MCAP_FOOTER) + 20 + len(_MCAP_MAGIC)
    with path.open("rb") as stream:
        if stream.seek(0, 2) < end:
            return False
        stream.seek(-end, 2)
        tail = stream.read()
    return tail.startswith(_MCAP_FOOTER) and tail.endswith(_MCAP_MAGIC)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _listed(metadata: Path) -> frozenset[str]:
    """The files that metadata.yaml names; none where it is missing, or is being written."""
    try:
        described = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"]
        return frozenset(Path(name).name for name in described["relative_file_paths"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError):
        return frozenset()


def _natural(text: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", text)  # every second one is a number
    return [(int(part), "") if place % 2 else (-1, part) for place, part in enumerate(parts)]
