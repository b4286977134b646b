"""A node with use_sim_time, over DDS: a clock that never comes, falls back or stands silences nothing."""

import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from live import RELIABLE
from policy_live import ALIGN_QUICKLY, PERIOD_NS, Feed, ParameterClient, PolicyProcess, stamp_ns
from rosgraph_msgs.msg import Clock

from vla_align_ros.bench.robot import make_robot
from vla_align_ros.params import SimParams

pytestmark = [pytest.mark.ros, pytest.mark.slow]


class SimulatedWorld(Feed):
    """A robot in a simulation that publishes /clock, can stand and can be reset."""

    def __init__(self, ros):
        self._offset_ns = 1_000 * 10**9 - time.monotonic_ns()
        self._stands_at_ns = None
        self._clock = ros.node.create_publisher(Clock, "/clock", RELIABLE)
        super().__init__(ros)

    def _now_ns(self):
        return time.monotonic_ns() + self._offset_ns if self._stands_at_ns is None else self._stands_at_ns

    def _send(self):
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(self._now_ns(), 10**9)
        self._clock.publish(clock)
        if self._stands_at_ns is None:
            super()._send()

    def fall_back(self, seconds):
        """Returns the new time in ns."""
        self._offset_ns -= seconds * 10**9
        now_ns = self._now_ns()
        self._robot = make_robot(
            SimParams(bench="reach2", embodiment_seed=3, episode_s=600.0, image_hz=20.0, joint_hz=50.0), now_ns
        )
        return now_ns

    def stand(self):
        self._stands_at_ns = self._now_ns()

    def go_on(self):
        self._offset_ns = self._stands_at_ns - time.monotonic_ns()
        self._stands_at_ns = None


def test_a_clock_that_never_comes_stands_or_falls_back_silences_nothing(ros, tmp_path):
    node = PolicyProcess(ros, tmp_path, use_sim_time=True, **{**ALIGN_QUICKLY, "exploration_fraction": 0.9})
    parameters = ParameterClient(ros, "vla_policy")
    for part in ("inference", "observation"):
        status = node.wait_for_status(part, lambda status: "waiting for /clock" in status.message)
        assert status.level == DiagnosticStatus.WARN
    node.logged("waiting for /clock")
    assert "too_little_experience" in node.trigger("align").message

    world = SimulatedWorld(ros)
    node.wait_for_status("inference", lambda status: status.message == "running")
    for seconds in (2, 300):
        before = node.wait_for_status("experience").number("total")
        new_ns = world.fall_back(seconds)
        node.chunks.wait_for_new(
            lambda chunk, new_ns=new_ns, s=seconds: new_ns - PERIOD_NS <= stamp_ns(chunk) < new_ns + s * 10**9
        )
        node.wait_for_status("experience", lambda status, before=before: status.number("total") > before)
    assert node.wait_for_status("observation").refused("clock_jump") >= 2
    assert not parameters.set(align_frequency_hz=1.0)
    node.wait_for_status("alignment", lambda status: status.number("attempted") >= 2)
    attempted = node.wait_for_status("alignment").number("attempted")
    world.fall_back(200)
    node.wait_for_status("alignment", lambda status: status.number("attempted") > attempted + 1)
    assert not parameters.set(align_frequency_hz=0.0)
    for _ in range(2):  # one may have begun behind the first report
        node.wait_for_status("alignment", lambda s: s.number("attempted") == s.number("accepted") + s.number("refused"))

    world.stand()
    status = node.wait_for_status("inference", lambda status: "/clock stands at " in status.message)
    assert status.level == DiagnosticStatus.WARN
    node.trigger("clear_buffer")
    assert "too_little_experience" in node.trigger("align").message
    world.go_on()
    node.chunks.wait_for_new()
