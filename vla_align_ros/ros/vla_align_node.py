"""The process: policy and checkpoint manager together, so that weights exist once. Entry point `vla_align_node`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from rclpy.node import Node

from vla_align_ros.ros import process
from vla_align_ros.ros.checkpoint_manager import CheckpointManager
from vla_align_ros.ros.sensors import SensorNode
from vla_align_ros.ros.vla_policy import NAME, VlaPolicy


def run() -> int:
    """Run until SIGINT or SIGTERM; the exit code."""
    torch.set_num_threads(1)  # inference and alignment run side by side; more threads only fight
    # Each of an alignment's thousands of tensor operations asks for the interpreter again, and would wait up to
    # Python's 5 ms for a callback that holds it (docs/decisions.md).
    sys.setswitchinterval(0.0005)
    managed: list[VlaPolicy | CheckpointManager] = []

    def make() -> Sequence[Sequence[Node]]:
        sensors = SensorNode(NAME)
        managed.extend([VlaPolicy(sensors), CheckpointManager()])
        return [[sensors], *([node] for node in managed)]

    def start() -> None:
        for node in managed:
            if node.get_parameter("autostart").value:
                node.start_up()

    def goodbye() -> None:
        for node in managed:
            node.shut_down()

    return process.run(make, goodbye, start)


def main() -> None:
    """Entry point of the process."""
    code = run()
    # Everything has ended in order, but an alignment may still compute. A thread inside torch must not meet a dying
    # interpreter (it aborts), and the store is safe against a process that ends at any point.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
