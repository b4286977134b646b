"""Starts the nodes as real processes on the loopback interface, each with a log file, and ends them by their id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from vla_align_ros.zoo import shared_folders

STOP_TIMEOUT_S = 30.0  # on a busy machine rclpy and its last messages take their time


def loopback_environment(domain_id: int) -> dict[str, str]:
    """This process's environment, with ROS kept on this machine and to one domain."""
    ours = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(domain_id),
        "AMENT_PREFIX_PATH": sys.prefix,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    profiles = [folder / "fastdds_profile.xml" for folder in shared_folders("config")]
    fast_dds = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(profiles[0])} if profiles else {}
    return {**os.environ, **ours, **fast_dds}


class NodeProcess:
    """One node's process. A context manager: leaving it sends SIGINT and waits; `returncode` is 0 after a clean end."""

    def __init__(self, module: str, parameters: dict[str, object], log: Path, environment: dict[str, str]) -> None:
        self.module, self._log = module, log
        arguments = [part for name, value in parameters.items() for part in ("-p", f"{name}:={_as_yaml(value)}")]
        command = [sys.executable, "-m", f"vla_align_ros.ros.{module}", "--ros-args", *arguments]
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """SIGINT, then wait; a process that does not end in time is killed, and its code says so."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log, for an error message."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _as_yaml(value: object) -> str:
    """A parameter as the ROS command line reads it; text quoted, so that none becomes a number or a boolean."""
    if isinstance(value, (str, Path)):
        return "'" + str(value).replace("'", "''") + "'"
    return str(value).lower() if isinstance(value, bool) else str(value)
