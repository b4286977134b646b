"""What a number was measured on: machine, versions, date, command. Benchmarks write their results through here."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "rosbags",
    "opencv-python-headless",
    "mujoco",
    "numba",
    "ros-rclpy",
    "ros-fastrtps",
)


def about(command: list[str]) -> dict[str, Any]:
    """The circumstances of a measurement that `command` makes."""
    return {
        "command": " ".join(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "load_1min": round(os.getloadavg()[0], 2),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "commit": commit(),
    }


def write(json_file: Path | None, numbers: dict[str, Any]) -> None:
    """`{"about": ..., "numbers": ...}` of the running script; nothing without a file. A NaN is written as null. Of the
    paths in its command no folder above the last one is written."""
    if json_file is not None:
        short = {str(json_file): json_file.name}
        arguments = [short.get(item, "/".join(item.split("/")[-2:])) for item in sys.argv[1:]]
        command = [f"benchmarks/{Path(sys.argv[0]).name}", *arguments]
        write_json(json_file, {"about": about(["python", *command]), "numbers": numbers})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """JSON that every parser reads: no NaN, no infinity."""
    path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n")


def cpu_model() -> str:
    """As the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def memory_mib(line: str, process_id: int | str = "self") -> float:
    """A line of /proc/<process>/status: VmRSS is resident memory, VmHWM its peak; 0 when the process has ended."""
    try:
        lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(text.split()[1]) / 1024 for text in lines if text.startswith(f"{line}:")), 0.0)


def commit() -> str | None:
    """The checkout's commit, with `-dirty` when it was changed since; None outside a git checkout."""
    command = ["git", "--no-optional-locks", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
