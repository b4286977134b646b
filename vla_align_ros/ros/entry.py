"""Entry points of the nodes. Ctrl-C ends a process at once while it still imports: nothing has begun by then.

Nothing heavy may be imported here: torch and rclpy take seconds, in which Python would answer with a traceback.
`process.run` takes the signals over.
"""

from __future__ import annotations

import importlib
import os
import signal


def vla_align_node() -> None:
    """Policy and checkpoint manager in one process."""
    _start("vla_align_node", "main")


def vla_policy() -> None:
    """The policy alone."""
    _start("vla_align_node", "policy_main")


def checkpoint_manager() -> None:
    """The checkpoint manager alone."""
    _start("vla_align_node", "manager_main")


def sim_robot() -> None:
    """The simulated robot."""
    _start("sim_robot", "main")


def bag_recorder() -> None:
    """The recorder."""
    _start("bag_recorder", "main")


def bag_player() -> None:
    """The player."""
    _start("bag_player", "main")


def _start(module: str, function: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    getattr(importlib.import_module(f"vla_align_ros.ros.{module}"), function)()
