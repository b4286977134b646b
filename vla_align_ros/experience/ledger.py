"""Which splits of a watched folder were taken, on disk beside the token versions: each counts once, whatever happens.

    store/BAG_FOLDERS.json     {"/watched/folder": {"made_with": {...}, "splits": [...], "aligned": n, "forgotten": n}}

Experiences are numbered from the folder's first one on, in the order in which they were taken. They are not stored
themselves: the splits are, and give the same ones again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vla_align_ros.checkpoint.durable import locked, make_folder_synced, replace_synced

FILE = "BAG_FOLDERS.json"


@dataclass(frozen=True)
class TakenSplit:
    """One split that was read. experiences: how many it gave. prompt: the one that was valid at its end, which later
    splits do not repeat. problem: why it gave nothing, or less than it should; empty when all is well."""

    name: str
    recording: str
    size: int
    experiences: int
    prompt: str
    problem: str = ""


class Ledger:
    """The taken splits of one watched folder; thread-safe. Every change is on disk when the call returns.

    made_with: everything beside the splits that decides what experience they give (plain JSON values). Another one
    than the ledger's, or a damaged one, means that all splits are read anew, as new ones; `restarted` says so.
    """

    def __init__(self, store: Path, folder: Path, made_with: Mapping[str, Any]) -> None:
        """Raises OSError when there is a ledger that cannot be read."""
        self._path, self._lock_path, self._key = store / FILE, store / ".lock", str(folder.resolve())
        self._made_with: dict[str, Any] = json.loads(json.dumps(made_with))
        self._lock = threading.Lock()
        self._splits: list[TakenSplit] = []
        self._aligned = self._forgotten = 0
        kept = self._read_all().get(self._key)
        self.restarted = (kept is None and self._damaged) or (kept is not None and not self._take_over(kept))

    def _take_over(self, kept: Any) -> bool:
        """Go on with what the file has; False, and nothing taken, when that was made otherwise or is damaged."""
        try:
            if kept["made_with"] != self._made_with:
                return False
            splits, numbers = [TakenSplit(**split) for split in kept["splits"]], (kept["aligned"], kept["forgotten"])
            self._splits, (self._aligned, self._forgotten) = splits, map(int, numbers)
        except (KeyError, TypeError, ValueError):
            return False
        return True

    @property
    def splits(self) -> tuple[TakenSplit, ...]:
        """In the order in which they were taken."""
        with self._lock:
            return tuple(self._splits)

    @property
    def total(self) -> int:
        """Experiences of all splits: the number of the next one."""
        with self._lock:
            return sum(split.experiences for split in self._splits)

    @property
    def aligned(self) -> int:
        """Experiences before this number were there when an alignment was last tried."""
        return self._aligned

    @property
    def forgotten(self) -> int:
        """Experiences before this number do not come back."""
        return self._forgotten

    def take(self, split: TakenSplit) -> None:
        """Add a split. OSError, and nothing changed, when it cannot be written."""
        with self._lock:
            self._write([*self._splits, split], self._aligned, self._forgotten)

    def mark_aligned(self, number: int) -> None:
        """An alignment was tried on what came before `number`. Raises as `take`."""
        with self._lock:
            self._write(self._splits, number, self._forgotten)

    def forget(self) -> None:
        """Nothing of what has come so far comes back after a restart. Raises as `take`."""
        number = self.total
        with self._lock:
            self._write(self._splits, self._aligned, number)

    def _write(self, splits: list[TakenSplit], aligned: int, forgotten: int) -> None:
        ours = {"made_with": self._made_with, "splits": [asdict(split) for split in splits]}
        make_folder_synced(self._path.parent)
        with locked(self._lock_path, shared=False):
            everything = self._read_all() | {self._key: ours | {"aligned": aligned, "forgotten": forgotten}}
            replace_synced(self._path, json.dumps(everything, indent=1).encode() + b"\n")
        self._splits, self._aligned, self._forgotten = splits, aligned, forgotten

    def _read_all(self) -> dict[str, Any]:
        self._damaged = False
        try:
            read = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:  # UnicodeDecodeError and JSONDecodeError are
            read = None
        self._damaged = not isinstance(read, dict)
        return {} if self._damaged else read
