"""Runs nodes until SIGINT or SIGTERM, each group in a single-threaded executor of its own, and ends them in order.

rclpy's own signal handlers kill the context before a last message can be sent, so they are off: ours set an event, the
main thread lets every node say goodbye, stops the executors, joins their threads, and only then shuts the context down.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Sequence

import rclpy
from rclpy._rclpy_pybind11 import RCLError, UnknownROSArgsError
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from vla_align_ros.params import ParameterError

JOIN_TIMEOUT_S = 3.0


def run(
    make_groups: Callable[[], Sequence[Sequence[Node]]],
    goodbye: Callable[[], None],
    started: Callable[[], None],
    stop: threading.Event | None = None,
) -> int:
    """Spin the nodes of each group until a signal, or until somebody else sets `stop`; exit code 0, or 2 when ROS
    arguments or parameters are wrong.

    make_groups: makes the nodes, one list for each executor. started: called when all spin, in a thread of its own, so
    that a signal need not wait for it. goodbye: called, with the executors still spinning, before anything is
    destroyed.
    """
    stop = stop or threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        if strangers := remove_ros_args(sys.argv)[1:]:
            return _refused(f"an argument is wrong: {strangers[0]}: expected --ros-args, and all others after it")
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        groups = make_groups()
    except (RCLError, UnknownROSArgsError) as error:
        return _refused(f"a ROS argument is wrong: {str(error).partition(' Error: ')[0]}")
    except (ParameterError, rclpy.exceptions.ParameterException) as error:
        return _refused(f"a parameter is wrong: {error}")
    executors = []
    for nodes in groups:
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
        executors.append(executor)
    threads = [threading.Thread(target=_spin, args=(executor, stop), daemon=True) for executor in executors]
    threads.append(threading.Thread(target=started, daemon=True))
    for thread in threads:
        thread.start()
    try:
        stop.wait()
        goodbye()
    finally:
        _end(executors, threads, groups)
        gc.freeze()  # else Python searches all that torch has made for garbage before it ends: a second
    return 0


def _refused(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    rclpy.try_shutdown()
    return 2


def _end(
    executors: list[SingleThreadedExecutor], threads: list[threading.Thread], groups: Sequence[Sequence[Node]]
) -> None:
    for executor in executors:
        executor.shutdown(timeout_sec=JOIN_TIMEOUT_S)
    for thread in threads:
        thread.join(JOIN_TIMEOUT_S)
    if any(thread.is_alive() for thread in threads):
        return  # it still loads a model; what it uses must not be destroyed under it, and the process ends anyway
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
