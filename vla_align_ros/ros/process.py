"""Runs nodes until SIGINT or SIGTERM, each group in a single-threaded executor of its own, and ends them in order.

rclpy's own signal handlers kill the context before a last message can be sent, so they are off: ours set an event, the
main thread lets every node say goodbye, stops the executors, joins their threads, and only then shuts the context down.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vla_align_ros.params import ParameterError

JOIN_TIMEOUT_S = 3.0


def run(
    make_groups: Callable[[], Sequence[Sequence[Node]]], goodbye: Callable[[], None], started: Callable[[], None]
) -> int:
    """Spin the nodes of each group until a signal; exit code 0, or 2 when a node cannot be made from its parameters.

    make_groups: makes the nodes, one list for each executor. started: called when all spin. goodbye: called, with the
    executors still spinning, before anything is destroyed.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        groups = make_groups()
    except (ParameterError, rclpy.exceptions.ParameterException) as error:
        print(f"a parameter is wrong: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executors = []
    for nodes in groups:
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
        executors.append(executor)
    threads = [threading.Thread(target=_spin, args=(executor, stop), daemon=True) for executor in executors]
    for thread in threads:
        thread.start()
    try:
        started()
        stop.wait()
        goodbye()
    finally:
        _end(executors, threads, groups)
    return 0


def _end(
    executors: list[SingleThreadedExecutor], threads: list[threading.Thread], groups: Sequence[Sequence[Node]]
) -> None:
    for executor in executors:
        executor.shutdown(timeout_sec=JOIN_TIMEOUT_S)
    for thread in threads:
        thread.join(JOIN_TIMEOUT_S)
    for nodes in groups:
        for node in nodes:
            node.destroy_node()
    rclpy.try_shutdown()


def _spin(executor: SingleThreadedExecutor, stop: threading.Event) -> None:
    """Spin; an exception that a callback let through is logged, and the node goes on."""
    while not stop.is_set():
        try:
            executor.spin()
            return
        except rclpy.executors.ExternalShutdownException:
            return
        except Exception as error:  # noqa: BLE001 (a running node goes on)
            if stop.is_set():
                return
            rclpy.logging.get_logger("vla_align_ros").error(f"a callback failed: {error!r}")
