"""The processes of the policy and of the checkpoint manager: both in one by default, so that an operator starts one
thing, or each in its own, as launch_ros's LifecycleNode needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import torch
from rclpy.node import Node

from vla_align_ros.ros import process
from vla_align_ros.ros.checkpoint_manager import CheckpointManager
from vla_align_ros.ros.vla_policy import VlaPolicy


def run(with_policy: bool, with_manager: bool) -> int:
    """Run until SIGINT or SIGTERM; the exit code."""
    torch.set_num_threads(1)  # inference and alignment run side by side; more threads only fight
    # Each of an alignment's thousands of tensor operations asks for the interpreter again, and would wait up to
    # Python's 5 ms for a callback that holds it.
    sys.setswitchinterval(0.0005)
    managed: list[VlaPolicy | CheckpointManager] = []

    def make() -> Sequence[Sequence[Node]]:
        policy = VlaPolicy() if with_policy else None
        if policy is not None:
            managed.append(policy)
        if with_manager:
            managed.append(CheckpointManager(None if policy is None else lambda: policy.params))
        sensors = [] if policy is None else [[policy.sensors]]
        return [*sensors, *([node] for node in managed)]

    def start() -> None:
        for node in managed:
            if node.get_parameter("autostart").value:
                node.start_up()

    def goodbye() -> None:
        for node in managed:
            node.shut_down()

    return process.run(make, goodbye, start)


def main(with_policy: bool = True, with_manager: bool = True) -> None:
    """Entry point of the process with both."""
    code = run(with_policy, with_manager)
    # Everything has ended in order, but an alignment may still compute. A thread inside torch must not meet a dying
    # interpreter (it aborts), and the store is safe against a process that ends at any point.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def policy_main() -> None:
    """Entry point of the policy alone."""
    main(with_manager=False)


def manager_main() -> None:
    """Entry point of the checkpoint manager alone."""
    main(with_policy=False)


if __name__ == "__main__":
    main()
