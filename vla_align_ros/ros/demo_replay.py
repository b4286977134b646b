"""A part of the demo: its bag played to a node that only listens, which then repeats the first alignment."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vla_align_ros.demo.processes import NodeProcess
from vla_align_ros.experience.bag_topics import bag_topics
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.ros.listener import Listener

RATE = 2.0  # what two cores manage without losing an image
BEFORE_S = 5.0  # of the bag before the first experience: more than the assembler's history
TIMEOUT_S, PLAY_TIMEOUT_S, SETTLE_TIMEOUT_S = 60.0, 240.0, 5.0


class DemoError(RuntimeError):
    """A part of the demo did not work; the message says which, and what its log says."""


def replay_by_topic(
    robot: RobotDescription,
    out: Path,
    parameters: Mapping[str, object],
    live: Mapping[str, Any],
    count: int,
    lag_s: float,
    listener: Listener,
) -> dict[str, Any]:
    """The report of an alignment on the `count` newest experiences at the time of the live attempt `live`.

    The clock stops where the last of them became complete, so that there are no newer ones. Raises DemoError.
    """
    observing = {
        **parameters,
        "store": str(out / "store_topic"),
        "experience_source": "topic",
        "use_sim_time": True,
        "align_frequency_hz": 0.0,
        "align_max_experiences": max(8, count),
    }
    played = {
        "path": str(out / "bag"),
        "rate": RATE,
        "commands": True,
        "topics": " ".join(bag_topics(robot).needed),
        "from_ns": live["first_stamp_ns"] - round(BEFORE_S * 1e9),
        "until_ns": live["last_stamp_ns"] + round(lag_s * 1e9),
    }
    environment, last = dict(os.environ), str(live["last_stamp_ns"])
    listener.statuses.clear()
    with NodeProcess("vla_align_node", observing, out / "vla_align_node_topic.log", environment) as policy:
        if not _wait(lambda: "the commands on" in _message(listener, "experience"), TIMEOUT_S, policy):
            raise DemoError(f"the node does not observe: {_message(listener, 'inference')}:\n{policy.log_tail()}")
        with NodeProcess("bag_player", played, out / "bag_player.log", environment) as player:
            if not _wait(lambda: player.returncode is not None, PLAY_TIMEOUT_S, policy) or player.returncode:
                raise DemoError(f"the bag was not played:\n{player.log_tail()}")
        # Where the last one does not come, the report shows that it lacks.
        _wait(lambda: listener.statuses["vla_policy: experience"]["newest_stamp_ns"] == last, SETTLE_TIMEOUT_S, policy)
        known = len(listener.reports)
        answer = listener.call("/vla_policy/align", TIMEOUT_S)
        if not _wait(lambda: len(listener.reports) > known, TIMEOUT_S, policy):
            raise DemoError(f"no report of the replayed alignment: {answer.message if answer else 'no answer'}")
        return listener.reports[-1]


def _message(listener: Listener, part: str) -> str:
    return listener.statuses.get(f"vla_policy: {part}", {}).get("message", "nothing")


def _wait(done: Callable[[], bool], timeout_s: float, policy: NodeProcess) -> bool:
    """Whether `done` came true in time. Raises DemoError when the policy's process ends."""
    deadline_s = time.monotonic() + timeout_s
    while not done():
        if policy.returncode is not None:
            raise DemoError(f"{policy.module} ended by itself:\n{policy.log_tail()}")
        if time.monotonic() > deadline_s:
            return False
        threading.Event().wait(0.1)
    return True
