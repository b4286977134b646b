"""numba, with compiled code kept in the user's cache folder: never beside the sources, never older than they are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numba.core.config

Function = TypeVar("Function", bound=Callable[..., Any])
config: Any = numba.core.config  # its names are made at run time


def _cache_folder() -> str:
    """Named by the sources of this package: numba does not notice when a function in another file has changed."""
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(home / "vla_align_ros" / f"numba-{hashlib.sha256(sources).hexdigest()[:16]}")


def _writable(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


_FOLDER = config.CACHE_DIR or _cache_folder()  # NUMBA_CACHE_DIR goes first
_CACHED = _writable(_FOLDER)  # without a folder to write to each process compiles for itself


def jit(function: Function) -> Function:
    """Compile at the first call, without Python objects inside; other threads run meanwhile."""
    before, config.CACHE_DIR = config.CACHE_DIR, _FOLDER
    try:
        compiled: Function = numba.njit(function, cache=_CACHED, nogil=True, error_model="numpy")
    finally:
        config.CACHE_DIR = before
    return compiled
