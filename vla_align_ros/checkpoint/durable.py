"""Files that survive a power cut: written, synced, then renamed into place. Neighbour: `store.py` puts versions
together with these.

A rename is atomic, so a reader sees the old content or the new one, never half. It is durable once the *folder* is
synced.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it. OSError when it exists, or on a full or read-only disk."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in `path` durable: what was created, renamed or removed there."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_synced(path: Path, data: bytes) -> None:
    """Replace the content of `path` atomically and durably. After an OSError `path` is as it was, if the disk lets
    us.
    """
    previous = path.read_bytes() if path.exists() else None
    _replace(path, data)
    try:
        sync_folder(path.parent)
    except OSError:
        if previous is None:
            path.unlink()
        else:
            _replace(path, previous)
        raise


def _replace(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)  # left by a process that was killed; the caller holds the lock
    try:
        write_synced(fresh, data)
        os.replace(fresh, path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


def make_folder_synced(path: Path) -> None:
    """Create `path` and whatever is missing above it, durably."""
    if not path.is_dir():
        make_folder_synced(path.parent)
        path.mkdir(exist_ok=True)  # another process may be faster
        sync_folder(path.parent)


def remove_folder(path: Path, doomed: Path) -> None:
    """Remove a folder so that nobody ever sees it half empty under its own name: renamed to `doomed` (beside it)
    first.
    """
    os.rename(path, doomed)
    sync_folder(path.parent)
    shutil.rmtree(doomed)


def sync_files(folder: Path) -> None:
    """Make what lies in `folder` itself durable, with its names."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    sync_folder(folder)


@contextmanager
def locked(path: Path, *, shared: bool) -> Iterator[None]:
    """Hold the flock on the file `path`, shared for reading (skipped when there is no such file) or exclusive for
    writing.

    Works between processes and between threads; the kernel releases it when the process dies.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        if not shared:
            raise
        yield  # nothing was ever saved here, so nobody writes
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave it to a child forked meanwhile
        os.close(descriptor)
