"""The store under death and hardship: kill -9 at every step, racing processes, a disk that fails at every step."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vla_align_ros
from vla_align_ros.checkpoint import Provenance, StoreError, TokenStore, durable
from vla_align_ros.types import Float32Array

pytestmark = pytest.mark.slow

SAVER = Path(__file__).with_name("saver.py")
MakeToken = Callable[[float], Float32Array]
Contents = Callable[[TokenStore], dict[str, bytes]]


def start_saver(*arguments: object) -> subprocess.Popen[str]:
    package_root = str(Path(vla_align_ros.__file__).parents[1])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(SAVER), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


def test_killed_before_every_step_of_a_save_the_store_holds_the_old_token_or_the_new_one(tmp_path: Path) -> None:
    saver = start_saver("kill_at_each_step", tmp_path)
    steps = int(saver.communicate(timeout=60)[0])
    assert steps > 15  # mkdir, files, fsyncs, renames, pruning
    actives = []
    for step in range(1, steps + 1):
        store = TokenStore(tmp_path / f"{step:03d}", keep=1)
        state = store.read()
        assert state.problems == {}, step
        assert state.active is not None, step
        actives.append(int(state.active.name))
        assert (state.active.token == actives[-1]).all(), step
        saved = TokenStore(store.root, keep=10).save(state.active.token + 10, _provenance_of(state.active.manifest))
        assert store.read().active == saved, step
        assert not list((store.root / "versions").glob(".*")), "leftovers are swept by the next save"
    assert actives == sorted(actives), "old up to one step, new from there on"
    assert set(actives) == {1, 2}


def _provenance_of(manifest: Provenance) -> Provenance:
    return manifest  # a Manifest is a Provenance; the store keeps that part only


def test_killed_at_any_moment_of_a_loop_nothing_reported_is_lost(tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "store", keep=1000)
    first = 1
    for lines in (1, 2, 5, 9):
        saver = start_saver("loop", store.root, 10_000, first)
        assert saver.stdout is not None
        reported = [next(saver.stdout).strip() for _ in range(lines)]
        os.kill(saver.pid, signal.SIGKILL)
        reported += saver.stdout.read().split()
        saver.wait()
        state = store.read()
        assert state.problems == {}
        assert state.active is not None
        assert int(state.active.name) >= int(reported[-1])
        assert set(reported) <= set(state.versions)
        assert all((version.token == int(name)).all() for name, version in state.versions.items())
        first = max(map(int, state.versions)) + 1


def test_two_processes_save_at_once_and_every_token_gets_its_own_version(tmp_path: Path) -> None:
    savers = [start_saver("loop", tmp_path, 20, first) for first in (1000, 2000)]
    names = [saver.communicate(timeout=60)[0].split() for saver in savers]
    state = TokenStore(tmp_path, keep=1000).read()
    assert sorted(names[0] + names[1]) == [f"{number:06d}" for number in range(1, 41)] == list(state.versions)
    assert state.problems == {}
    for first, own in zip((1000, 2000), names, strict=True):
        assert [state.versions[name].token[0, 0] for name in own] == list(range(first, first + 20))
    parents = [version.manifest.parent for version in state.versions.values()]
    assert parents == [None, *list(state.versions)[:-1]]
    assert state.active is not None
    assert state.active.name == "000040"


class FailingDisk:
    """Lets `steps` operations through, then fails one (`once`) or all that follow with ENOSPC."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: int, once: bool) -> None:
        self.failed = False
        self._left = steps
        self._once = once
        for name in ("mkdir", "rename", "replace", "fsync"):
            patch.setattr(os, name, self._guard(getattr(os, name)))
        real_open = open
        patch.setattr(durable, "open", self._guard(real_open), raising=False)

    def _guard(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self._left -= 1
            if self._left == -1 or (self._left < -1 and not self._once):
                self.failed = True
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments, **keywords)

        return call


Action = Callable[[TokenStore, Provenance, Float32Array], object]
ACTIONS: dict[str, Action] = {
    "save": lambda store, provenance, token: store.save(token, provenance),
    "roll_back": lambda store, provenance, token: store.roll_back(),
    "restore": lambda store, provenance, token: store.restore("000001"),
    "pin": lambda store, provenance, token: store.pin("000001"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_disk_that_fails_at_any_step_changes_nothing(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken, contents: Contents, action: str
) -> None:
    before = contents(filled)
    for steps in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, steps, once=True)
            if not _raises(lambda: ACTIONS[action](filled, provenance, make_token(4)), "No space left on device"):
                assert not disk.failed
                break
        assert contents(filled) == before, f"after failing at step {steps}"
    assert steps >= 3
    assert contents(filled) != before


def test_a_disk_that_stays_broken_leaves_a_valid_active_version(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken
) -> None:
    for steps in itertools.count():
        with pytest.MonkeyPatch.context() as patch:
            FailingDisk(patch, steps, once=False)
            if not _raises(lambda: filled.save(make_token(4), provenance), "No space left on device"):
                break
        state = filled.read()
        assert state.problems == {}
        assert state.active is not None
        filled.restore("000003")
    assert steps > 8


def _raises(action: Callable[[], object], text: str) -> bool:
    """Whether `action` raises a StoreError, which must then say `text`; any other exception is passed on."""
    try:
        action()
    except StoreError as error:
        message = str(error)
    else:
        return False
    assert text in message
    return True


def test_a_failed_prune_does_not_fail_the_save(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken, caplog: pytest.LogCaptureFixture
) -> None:
    (filled.root / "PINNED").write_text("not a version\n")
    saved = TokenStore(filled.root, keep=1).save(make_token(4), provenance)
    assert filled.read().active == saved
    assert list(filled.read().versions) == ["000001", "000002", "000003", "000004"]
    assert "cannot prune" in caplog.text


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that also an unprivileged user can enter (pytest's own is private)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_store_can_be_read_but_says_why_it_cannot_change(
    open_folder: Path, provenance: Provenance, make_token: MakeToken, contents: Contents
) -> None:
    store = TokenStore(open_folder / "store", keep=10)
    for value in (1, 2):
        store.save(make_token(value), provenance)
    before = contents(store)
    for path in [store.root, *store.root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # permission bits do not bind root
    try:
        assert store.read().active == store.load("000002")
        for action in ACTIONS.values():
            with pytest.raises(StoreError, match="Permission denied"):
                action(store, provenance, make_token(3))
        with pytest.raises(StoreError, match="Permission denied"):
            TokenStore(open_folder / "other", keep=1).save(make_token(1), provenance) if user == 0 else store.prune()
    finally:
        os.seteuid(user)
    assert contents(store) == before
    for path in [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]:
        path.chmod(0o755)


def test_a_file_where_the_store_should_be(tmp_path: Path, provenance: Provenance, make_token: MakeToken) -> None:
    store = TokenStore(tmp_path / "store", keep=10)
    store.root.write_text("a file")
    with pytest.raises(StoreError, match="cannot save a token"):
        store.save(make_token(1), provenance)
    with pytest.raises(StoreError, match="cannot read"):
        store.active()
    assert store.root.read_text() == "a file"
