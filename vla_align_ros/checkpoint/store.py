"""The token store: every accepted E-Token as an immutable version on disk, one of them active.

    store/versions/000001/{token.safetensors, manifest.json}
    store/ACTIVE     name of the active version, replaced atomically
    store/PINNED     names that pruning keeps, one a line, replaced atomically
    store/.lock      flock: exclusive to change the store, shared to read it

A process that dies at any point leaves the old state or the new one: a version gets its name by one rename when it is
complete and synced, and ACTIVE names it only after it was read back and verified.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vla_align_ros.checkpoint.durable import (
    locked,
    make_folder_synced,
    remove_folder,
    replace_synced,
    sync_folder,
    write_synced,
)
from vla_align_ros.checkpoint.manifest import VERSION_PATTERN, Manifest, Provenance, StoreError, manifest_to_json
from vla_align_ros.checkpoint.version import (
    MANIFEST_FILE,
    TOKEN_FILE,
    TokenVersion,
    read_version,
    sha256_of,
    token_to_bytes,
)
from vla_align_ros.types import Float32Array

_SAVING, _REMOVED = ".saving-", ".removed-"  # folders that a dead process may leave behind; swept by the next change

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoreState:
    """The whole store at one moment. versions: valid ones by name; problems: what is corrupted -> what is wrong with
    it.
    """

    versions: dict[str, TokenVersion]
    active: TokenVersion | None
    pinned: frozenset[str]
    problems: dict[str, str]


class TokenStore:
    """The store in folder `root` (created by the first save). `keep`: how many versions pruning leaves beside active
    and pinned.

    Every method may be called from any thread and process at once. What fails raises StoreError and leaves the active
    version, the versions and the pins as they were.
    """

    def __init__(self, root: Path, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.root = root
        self.keep = keep
        self._versions = root / "versions"
        self._active = root / "ACTIVE"
        self._pinned = root / "PINNED"

    def read(self) -> StoreState:
        """Verify every version and say which is active. Corrupted ones are left out and stand in `problems`.

        When the active version is corrupted, the newest valid one *older* than it takes its place (a newer one may
        have been rolled back for a reason); when ACTIVE itself is missing or unreadable, or nothing older is left, the
        newest valid one.
        """
        with _store_errors(f"read the token store {self.root}"), locked(self.root / ".lock", shared=True):
            return self._read()

    def active(self) -> TokenVersion | None:
        """The active version, chosen as in `read`, or None in a store without a valid version. Problems are logged."""
        state = self.read()
        for name, problem in state.problems.items():
            _log.warning("token store %s: %s: %s", self.root, name, problem)
        return state.active

    def versions(self) -> tuple[TokenVersion, ...]:
        """Every valid version, oldest first."""
        return tuple(self.read().versions.values())

    def load(self, name: str) -> TokenVersion:
        """The version called `name`. StoreError: no such version, or a corrupted one."""
        return self._pick(self.read(), name)

    def save(self, token: Float32Array, provenance: Provenance) -> TokenVersion:
        """Store `token` (peft_num_tokens, W) float32 as a new version, verify it, make it the active one, prune.

        When this returns, the version is on disk. StoreError: a token of another form, a full or read-only disk.
        """
        token_bytes = token_to_bytes(token)
        with self._changing("save a token"):
            state = self._read()
            name = f"{max(self._numbers(), default=0) + 1:06d}"
            manifest = Manifest.complete(
                provenance,
                name=name,
                created_ns=time.time_ns(),
                token_sha256=sha256_of(token_bytes),
                shape=token.shape,
                parent=state.active.name if state.active else None,
            )
            manifest_bytes = manifest_to_json(manifest)
            try:
                self._write_version(name, token_bytes, manifest_bytes)
                version = read_version(self._versions / name)
                replace_synced(self._active, f"{name}\n".encode())
            except (OSError, StoreError):
                self._discard(name)
                raise
            try:
                self._prune()
            except (OSError, StoreError) as error:  # the token is safe; old ones may stay
                _log.warning("token store %s: saved %s, but cannot prune: %s", self.root, name, error)
            return version

    def restore(self, name: str) -> TokenVersion:
        """Make the version called `name` the active one. StoreError: no such version, or a corrupted one."""
        with self._changing(f"restore {name}"):
            return self._activate(self._pick(self._read(), name))

    def roll_back(self) -> TokenVersion:
        """Go back to the version that was active before the active one was saved; past a corrupted or pruned one, to
        the newest valid version older than that. StoreError when there is none."""
        with self._changing("roll back"):
            state = self._read()
            parent = state.active.manifest.parent if state.active else None
            target = _newest(state, up_to=int(parent)) if parent else None
            if target is None:
                active = state.active.name if state.active else "no version"
                raise StoreError(
                    f"nothing to roll back to: {active} is active, nothing valid came before. {_list(state)}"
                )
            return self._activate(target)

    def pin(self, name: str) -> None:
        """Protect a version from pruning. StoreError: no such version, or a corrupted one."""
        with self._changing(f"pin {name}"):
            state = self._read()
            self._write_pinned(_pinned(state) | {self._pick(state, name).name})

    def unpin(self, name: str) -> None:
        """Give a version back to pruning. StoreError: it is not pinned."""
        with self._changing(f"unpin {name}"):
            state = self._read()
            if name not in _pinned(state):
                raise StoreError(f"{name!r} is not pinned; pinned are {sorted(state.pinned)}")
            self._write_pinned(_pinned(state) - {name})

    def prune(self) -> tuple[str, ...]:
        """Remove valid versions except the newest `keep`, the active one and the pinned ones; returns the removed
        names.

        Corrupted versions stay, for a person to look at. StoreError: PINNED is corrupted (nothing is removed then).
        """
        if not self.root.exists():
            return ()
        with self._changing("prune"):
            return self._prune()

    # The rest needs the lock.

    def _read(self) -> StoreState:
        versions: dict[str, TokenVersion] = {}
        problems: dict[str, str] = {}
        for number in sorted(self._numbers()):
            name = f"{number:06d}"
            try:
                versions[name] = read_version(self._versions / name)
            except StoreError as error:
                problems[name] = str(error)
        wanted = self._names(self._active, problems)
        if len(wanted) != 1 and (versions or self._active.exists()):
            problems.setdefault("ACTIVE", f"must name one version, got {wanted or 'none'}")
        pinned = frozenset(self._names(self._pinned, problems))
        state = StoreState(versions, None, pinned, problems)
        chosen = _newest(state, up_to=int(wanted[0])) if len(wanted) == 1 else None
        if len(wanted) == 1 and wanted[0] not in versions:
            problems["ACTIVE"] = f"names {wanted[0]}, which is missing or corrupted"
        return StoreState(versions, chosen or _newest(state), pinned, problems)

    def _numbers(self) -> list[int]:
        """Numbers of all version folders, corrupted ones included: a name is never used twice."""
        if not self._versions.is_dir():
            return []
        return [int(path.name) for path in self._versions.iterdir() if _is_name(path.name)]

    def _names(self, path: Path, problems: dict[str, str]) -> list[str]:
        """The version names in ACTIVE or PINNED; lines that are none go to `problems`."""
        if not path.exists():
            return []
        try:
            lines = path.read_bytes().decode("utf-8", "replace").split()
        except OSError as error:
            problems[path.name] = f"cannot be read: {error}"
            return []
        wrong = [line for line in lines if not _is_name(line)]
        if wrong:
            problems[path.name] = f"lines must be version names, got {wrong[:3]}"
        return [line for line in lines if _is_name(line)]

    def _pick(self, state: StoreState, name: str) -> TokenVersion:
        if name in state.problems:
            raise StoreError(f"version {name} is corrupted: {state.problems[name]}. {_list(state)}")
        if name not in state.versions:
            raise StoreError(f"{self.root} has no version {name!r}. {_list(state)}")
        return state.versions[name]

    def _activate(self, version: TokenVersion) -> TokenVersion:
        replace_synced(self._active, f"{version.name}\n".encode())
        return version

    def _write_pinned(self, names: frozenset[str]) -> None:
        replace_synced(self._pinned, "".join(f"{name}\n" for name in sorted(names)).encode())

    def _write_version(self, name: str, token_bytes: bytes, manifest_bytes: bytes) -> None:
        folder = self._versions / f"{_SAVING}{name}"
        folder.mkdir()
        write_synced(folder / TOKEN_FILE, token_bytes)
        write_synced(folder / MANIFEST_FILE, manifest_bytes)
        sync_folder(folder)
        os.rename(folder, self._versions / name)
        sync_folder(self._versions)

    def _discard(self, name: str) -> None:
        """Undo a failed save, as far as a failing disk lets us; what stays is swept by the next one. Never what ACTIVE
        names.
        """
        shutil.rmtree(self._versions / f"{_SAVING}{name}", ignore_errors=True)
        try:
            if (self._versions / name).exists() and name not in self._names(self._active, {}):
                remove_folder(self._versions / name, self._versions / f"{_REMOVED}{name}")
        except OSError as error:
            _log.warning("token store %s: cannot remove the version %s that failed: %s", self.root, name, error)

    def _prune(self) -> tuple[str, ...]:
        state = self._read()
        kept = {*list(state.versions)[-self.keep :], *_pinned(state), *([state.active.name] if state.active else [])}
        removed = tuple(name for name in state.versions if name not in kept)
        for name in removed:
            remove_folder(self._versions / name, self._versions / f"{_REMOVED}{name}")
        return removed

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """The exclusive lock, on a store that exists and is free of a dead process's leftovers."""
        with _store_errors(f"{what} in {self.root}"):
            make_folder_synced(self._versions)
            with locked(self.root / ".lock", shared=False):
                for path in self._versions.iterdir():
                    if path.name.startswith((_SAVING, _REMOVED)):
                        shutil.rmtree(path)
                yield


def _newest(state: StoreState, up_to: int | None = None) -> TokenVersion | None:
    """The newest valid version, of those numbered up to `up_to`."""
    names = [name for name in state.versions if up_to is None or int(name) <= up_to]
    return state.versions[names[-1]] if names else None


def _pinned(state: StoreState) -> frozenset[str]:
    """The pinned names, for those who would lose a version or a pin if they were wrong."""
    if "PINNED" in state.problems:
        raise StoreError(
            f"the file PINNED is corrupted: {state.problems['PINNED']}. Correct it, or remove it and pin again."
        )
    return state.pinned


def _is_name(text: str) -> bool:
    return re.fullmatch(VERSION_PATTERN, text) is not None and text == f"{int(text):06d}"


def _list(state: StoreState) -> str:
    return f"Valid versions: {', '.join(state.versions) or 'none'}."


@contextmanager
def _store_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {what}: {error}. The store is as it was.") from error
