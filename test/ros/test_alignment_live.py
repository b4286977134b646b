"""Policy, manager and simulated robot as real processes, aligning while the robot moves."""

import signal

import numpy as np
import pytest
from live import Listener
from policy_live import ALIGN_QUICKLY, FITTING, PolicyProcess, lenient_model, start_of

from vla_align_ros.checkpoint.store import TokenStore

CONTROL_RATE_HZ = 5.0  # half of the model's own: a busy machine must pass too; benchmarks/late_chunks.py measures 10 Hz

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture(scope="module")
def node(shared_ros, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    shared_ros.run_node("vla_align_ros.ros.sim_robot", {"bench": "reach2", "embodiment_seed": 3, "episode_s": 5.0})
    model = str(lenient_model(folder, CONTROL_RATE_HZ, FITTING))
    # At half the rate the arm goes twice as far in a tick, and the policy alone would drive it from stop to stop.
    own = {"jump_max_s": 0.5, "exploration_fraction": 0.8, "align_steps": 300}
    made = PolicyProcess(shared_ros, folder, **{"model": model, **ALIGN_QUICKLY, **own})
    made.wait_for_experience(64)
    return made


def begin_alignment(node) -> tuple[Listener, int]:
    """Where the answer of an alignment comes that has made its first gradient step, and how many calls that took: what
    the arm just did may be refused before that (`joints_do_not_follow`). Then from new experience."""
    steps, answers = len(node.learning_rates.messages), Listener("align")

    def stepped() -> bool:
        return len(node.learning_rates.messages) > steps

    for calls in range(1, 5):
        answers = node.call_async("align")
        node.ros.wait_until(lambda heard=answers: stepped() or heard.messages, "a gradient step or an answer")
        if stepped():
            return answers, calls
        assert node.trigger("clear_buffer").success
        node.wait_for_experience(64)
    raise AssertionError(f"no gradient step was made: {answers.messages[-1].message}")


def test_two_alignments_while_the_robot_moves_cost_no_chunk(node):
    start = node.wait_for_status("inference")
    before = start_of(node.chunks.wait_for_new())
    attempted = 0
    for _ in range(2):
        answers, calls = begin_alignment(node)
        attempted, chunks = attempted + calls, len(node.chunks.messages)
        assert "alignment" in answers.wait().message
        assert len(node.chunks.messages) > chunks, "no chunk came meanwhile"
    after = start_of(node.chunks.wait_for_new())
    alignment = node.wait_for_status("alignment", lambda status: status.number("attempted") == attempted).values
    assert alignment["joint.shoulder"].startswith("shoulder"), "what the joints do, by commands and joint states alone"
    end = node.wait_for_status("inference")
    observed = node.wait_for_status("observation").values
    assert end.number("late_chunks") == start.number("late_chunks"), f"{start.values} -> {end.values}, {observed}"
    assert np.abs(after - before).max() > 0.01, "the arm moves"


def test_signal_during_an_alignment_ends_the_process_at_once_with_the_token_as_it_was(node):
    versions = [version.name for version in TokenStore(node.store, 20).versions()]
    begin_alignment(node)
    assert node.process.stop(signal.SIGINT, timeout_s=5.0) == 0, node.process.output
    state = TokenStore(node.store, 20).read()
    assert list(state.versions) == versions
    assert not state.problems
    assert "Traceback" not in node.process.output
    node.chunks.wait(lambda chunk: len(chunk.points) == 1)
    assert len(node.chunks.messages[-1].points) == 1, "the last word is a hold"
