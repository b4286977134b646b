"""SIGINT and SIGTERM in every state: the process ends within 5 s with exit code 0, and leaves a whole store."""

import signal
from pathlib import Path

import numpy as np
import pytest
from policy_live import ALIGN_QUICKLY, MANAGER, POLICY, Feed, PolicyProcess, lenient_model
from safetensors.numpy import load_file, save_file

from vla_align_ros.checkpoint.store import TokenStore

pytestmark = [pytest.mark.ros, pytest.mark.slow]

# A hold is where the joints are: on a busy machine their states come late.
PATIENT = {"joint_stale_s": 10.0}
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
    node = PolicyProcess(ros, tmp_path, **PATIENT)
    node.chunks.wait()
    assert_ends_well(node, number)
    node.chunks.wait(lambda chunk: len(chunk.points) == 1)
    hold = node.chunks.messages[-1]
    assert len(hold.points) == 1
    assert not any(hold.points[0].velocities)


EAR = """
import rclpy
from trajectory_msgs.msg import JointTrajectory
rclpy.init()
node = rclpy.create_node("ear")
node.create_subscription(JointTrajectory, "/vla_policy/action_chunk", lambda chunk: print("heard", flush=True), 10)
rclpy.spin(node)
"""


def test_a_hold_that_somebody_does_not_confirm_is_said_again_and_the_process_ends(ros, tmp_path):
    """What a process has sent goes with it, where it ends before the others have taken it."""
    Feed(ros)
    script = tmp_path / "ear.py"
    script.write_text(EAR)
    ear = ros.run_script(script)
    node = PolicyProcess(ros, tmp_path, **PATIENT)
    ros.wait_until(lambda: "heard" in ear.output, "the ear hears")
    ear.send(signal.SIGSTOP)
    try:
        assert_ends_well(node, signal.SIGINT)
    finally:
        ear.send(signal.SIGCONT)
    assert "nobody confirms the last command" in node.process.output
    holds = [chunk for chunk in node.chunks.messages if len(chunk.points) == 1]
    assert len(holds) > 1
    assert all(hold == holds[0] for hold in holds)


@SIGNALS
def test_signal_while_aligning(ros, tmp_path, number):
    """While it goes through the token bank, where nothing stops it: the process doesn't wait for the end of it."""
    Feed(ros)
    bank = (model := lenient_model(tmp_path)) / "token_bank.safetensors"
    tensors = load_file(bank)
    save_file({**tensors, "offsets": np.tile(tensors["offsets"], (2000, 1, 1))}, bank)  # for minutes
    node = PolicyProcess(ros, tmp_path, **{**ALIGN_QUICKLY, **PATIENT, "model": str(model)})
    node.wait_for_experience(30)
    answers = node.call_async("align")
    node.wait_for_status("alignment", lambda status: status.number("attempted") == 1)
    assert_ends_well(node, number)
    assert "a worker is still busy" in node.process.output
    assert not answers.messages
    assert not node.learning_rates.messages
    assert [version.name for version in TokenStore(node.store, 20).versions()] == ["000001"]
    node.chunks.wait(lambda chunk: len(chunk.points) == 1)
