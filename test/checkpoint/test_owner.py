"""Who runs from a store, between real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vla_align_ros.checkpoint import StoreError, StoreOwned, StoreOwnership, owner_of

HOLDER = """
import sys
from pathlib import Path
from vla_align_ros.checkpoint import StoreOwnership
held = StoreOwnership.take(Path(sys.argv[1]), "arm1.vla_policy")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == "held"
    yield process
    process.kill()
    process.communicate()


def test_second_owner_is_refused_with_whose_the_store_is_until_the_first_is_killed(holder, tmp_path):
    store = tmp_path / "store"
    assert owner_of(store) == f"robot arm1.vla_policy (process {holder.pid})"
    with pytest.raises(StoreOwned, match=rf"robot arm1\.vla_policy \(process {holder.pid}\)") as refused:
        StoreOwnership.take(store, "arm2.vla_policy")
    for word in ("robot_id", "store", "namespace"):
        assert word in str(refused.value)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert owner_of(store) is None
    StoreOwnership.take(store, "arm2.vla_policy").release()


def test_owner_in_the_same_process_keeps_others_out_until_it_releases(tmp_path):
    first = StoreOwnership.take(tmp_path, "a_long_name_of_a_robot")
    with pytest.raises(StoreOwned):
        StoreOwnership.take(tmp_path, "b")
    first.release()
    second = StoreOwnership.take(tmp_path, "b")
    assert owner_of(tmp_path) == f"robot b (process {os.getpid()})"
    second.release()
    assert owner_of(tmp_path) is None


def test_asking_who_owns_a_store_never_keeps_an_owner_out(tmp_path):
    store = tmp_path / "store"
    asking = f"""
from pathlib import Path
from vla_align_ros.checkpoint import owner_of
print("asking", flush=True)
while True:
    owner_of(Path({str(store)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "asking"
        for _ in range(20):
            StoreOwnership.take(store, "a").release()
    finally:
        process.kill()
        process.communicate()


def test_store_without_an_owner_and_a_place_that_cannot_be_one(tmp_path):
    assert owner_of(tmp_path / "nowhere") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot own the token store"):
        StoreOwnership.take(tmp_path / "file" / "store", "a")
    (tmp_path / "OWNER").write_bytes(b"\xff{")
    held = os.open(tmp_path / "OWNER", os.O_RDONLY)
    import fcntl

    fcntl.flock(held, fcntl.LOCK_EX)
    assert owner_of(tmp_path) == "another process"
    os.close(held)
