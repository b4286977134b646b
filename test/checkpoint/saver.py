"""A process that saves tokens, for tests that kill it or race it. Not a test itself.

loop ROOT COUNT FIRST   save tokens FIRST, FIRST+1, ... and print each version's name when `save` has returned
kill_at_each_step ROOT  for every step n of a save: a forked child that is killed (SIGKILL) just before step n of
                        saving token 2 into its own store ROOT/<n>, which holds token 1; prints the number of steps
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))

from provenances import a_provenance

from vla_align_ros.checkpoint import TokenStore

STEPS = ("mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir")  # what a save asks of the disk, in `os`


def save(root: Path, value: int, keep: int) -> str:
    return TokenStore(root, keep).save(np.full((4, 16), value, np.float32), a_provenance()).name


def loop(root: Path, count: int, first: int) -> None:
    for value in range(first, first + count):
        print(save(root, value, keep=1000), flush=True)


def kill_at_each_step(root: Path) -> None:
    for step in itertools.count(1):
        store = root / f"{step:03d}"
        save(store, 1, keep=1)
        child = os.fork()
        if child == 0:
            kill_before_step(step)
            save(store, 2, keep=1)  # and prune token 1
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print(step - 1, flush=True)
            return


def kill_before_step(step: int) -> None:
    steps = itertools.count(1)

    def killing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **keywords)

        return call

    for name in STEPS:
        setattr(os, name, killing(getattr(os, name)))


if __name__ == "__main__":
    if sys.argv[1] == "loop":
        loop(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        kill_at_each_step(Path(sys.argv[2]))
