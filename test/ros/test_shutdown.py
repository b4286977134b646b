"""SIGINT and SIGTERM in every state: the process ends within 5 s with exit code 0, and leaves a whole store."""

import signal
from pathlib import Path

import pytest
from policy_live import ALIGN_QUICKLY, MANAGER, POLICY, Feed, PolicyProcess

from vla_align_ros.checkpoint.store import TokenStore

pytestmark = [pytest.mark.ros, pytest.mark.slow]

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def assert_ends_well(node, number):
    assert node.process.stop(number, timeout_s=5.0) == 0, node.process.output
    assert "Traceback" not in node.process.output
    assert not list(node.store.glob("**/.saving-*"))
    assert not TokenStore(node.store, 20).read().problems


@SIGNALS
@pytest.mark.parametrize("state", ["unconfigured", "inactive"])
def test_signal_while_nothing_runs(ros, tmp_path, state, number):
    node = PolicyProcess(ros, tmp_path, autostart=False)
    node.bring_to(state, POLICY)
    node.bring_to(state, MANAGER)
    assert_ends_well(node, number)
    assert not node.chunks.messages


def shared_segments() -> set[str]:
    """Names of Fast DDS's segments in /dev/shm, 34 MB a participant."""
    return {path.name for path in Path("/dev/shm").glob("fastrtps_" + 16 * "[0-9a-f]")}


def test_a_process_that_has_ended_leaves_no_shared_memory(ros, tmp_path):
    others = shared_segments()
    node = PolicyProcess(ros, tmp_path, autostart=False)
    node.bring_to("inactive", POLICY)
    mapped = Path(f"/proc/{node.process.pid}/maps").read_text()
    own = {name for name in shared_segments() - others if name in mapped}
    assert own
    assert_ends_well(node, signal.SIGINT)
    assert not own & shared_segments()


@SIGNALS
def test_signal_while_active_leaves_a_hold_as_the_last_word(ros, tmp_path, number):
    Feed(ros)
    node = PolicyProcess(ros, tmp_path)
    node.chunks.wait()
    assert_ends_well(node, number)
    node.chunks.wait(lambda chunk: len(chunk.points) == 1)
    hold = node.chunks.messages[-1]
    assert len(hold.points) == 1
    assert not any(hold.points[0].velocities)


@SIGNALS
def test_signal_while_aligning(ros, tmp_path, number):
    """While it goes through the token bank, where nothing stops it: the process doesn't wait for the end of it."""
    Feed(ros)
    node = PolicyProcess(ros, tmp_path, **{**ALIGN_QUICKLY, "align_steps": 1000})
    node.wait_for_experience(20)
    node.call_async("align")
    node.wait_for_status("alignment", lambda status: status.number("attempted") == 1)
    assert_ends_well(node, number)
    assert [version.name for version in TokenStore(node.store, 20).versions()] == ["000001"]
    node.chunks.wait(lambda chunk: len(chunk.points) == 1)
