"""Which policy runs from a token store: a flock on the store's file OWNER, held as long as the policy is configured.

It keeps two policies from sharing a token. Neighbour: `store.py` has a lock of its own for each change of the store;
a desk tool may write versions while a policy owns the store. The kernel frees the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from vla_align_ros.checkpoint.durable import make_folder_synced
from vla_align_ros.checkpoint.manifest import StoreError

OWNER_FILE = "OWNER"
_TRIES, _TRY_S = 25, 0.02  # `owner_of` of another process holds the lock for microseconds


class StoreOwned(StoreError):
    """Another policy runs from this store."""


class StoreOwnership:
    """Held from `take` until `release`, or until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, root: Path, robot: str) -> StoreOwnership:
        """Own the store in folder `root`, which is made where there is none, as `robot`.

        Raises StoreOwned when a policy owns it, with whose it is, and StoreError when the file cannot be written.
        """
        try:
            make_folder_synced(root)
            descriptor = os.open(root / OWNER_FILE, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _locked(descriptor):
                    raise StoreOwned(
                        f"the token store {root} is in use by {_content(descriptor)}. Two policies must not share a "
                        "token: start this one in a namespace of its own, or with another robot_id or store; or end "
                        "the other first"
                    )
                os.truncate(descriptor, 0)
                os.write(descriptor, json.dumps({"robot": robot, "pid": os.getpid()}).encode())
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StoreError(f"cannot own the token store {root}: {error}") from error
        return cls(descriptor)

    def release(self) -> None:
        """Let another policy own the store."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # closing alone would leave it to a child forked meanwhile
        os.close(self._descriptor)


def owner_of(root: Path) -> str | None:
    """Whose policy runs from the store, as `robot arm1.vla_policy (process 123)`; None when none does.

    Raises StoreError when it cannot be told.
    """
    try:
        descriptor = os.open(root / OWNER_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot tell who owns the token store {root}: {error}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _content(descriptor)
    finally:
        os.close(descriptor)
    return None


def _locked(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_TRY_S)
        else:
            return True
    return False


def _content(descriptor: int) -> str:
    """What an owner wrote; it may be about to write it."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"robot {owner['robot']} (process {owner['pid']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
