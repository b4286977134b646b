"""What it costs to have and to try this project: set-up, demo and test time, size, memory of the policy's process.

    python benchmarks/project.py --size --setup --tests --demo --json project.json

Without a flag for a part, all parts run: about a quarter of an hour. Size and set-up are of a clean clone of the last
commit (what is not committed doesn't count) in a temporary folder; set-up starts with an empty pip cache. Tests and
demo run in that clone when --setup made one, else here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import machine
import typer
from rich.console import Console
from rich.table import Table

NODE = "vla_align_ros.ros.vla_align_node"
POLL_S = 0.2
COUNTED = ("vla_align_ros", "benchmarks")
BEFORE = "ed130ae6e215423cd369d21198398ea0d4bf6266"  # the last one that knew one robot and one source of experience


def clone(folder: Path) -> None:
    """A clean clone as from a server: packed, without hard links to this one."""
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(machine.ROOT), str(folder)], check=True)


def size_bytes(paths: Iterable[Path]) -> int:
    """Of all plain files below."""
    return sum(path.lstat().st_size for path in paths if path.is_file() or path.is_symlink())


def measure_size(folder: Path) -> dict[str, Any]:
    """Of a clean clone: history, working tree, and its biggest parts."""
    parts = {item.name: size_bytes([item, *item.rglob("*")]) for item in folder.iterdir()}
    history = parts.pop(".git")
    biggest = sorted(parts.items(), key=lambda part: -part[1])[:5]
    return {
        "lines": {"now": count_lines(folder, "HEAD"), "before": count_lines(folder, BEFORE)},
        "git_mb": history / 1e6,
        "working_tree_mb": sum(parts.values()) / 1e6,
        "biggest_mb": {name: size / 1e6 for name, size in biggest},
    }


def count_lines(folder: Path, commit: str) -> dict[str, Any]:
    """Python's lines in the clone at a commit, empty ones and comments too, and the longest file."""
    patterns = [f"{name}/*.py" for name in COUNTED]
    counts = subprocess.run(
        ["git", "grep", "--count", "", commit, "--", *patterns], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    lines = {path: int(count) for _, path, count in (line.split(":") for line in counts.splitlines())}
    longest = max(lines, key=lambda path: lines[path])
    by_folder = {name: sum(lines[path] for path in lines if path.startswith(f"{name}/")) for name in COUNTED}
    return {**by_folder, "longest": {longest: lines[longest]}}


def measure_command(command: list[str], folder: Path) -> dict[str, Any]:
    """Run to the end; its output is shown. `ok` is whether it ended with 0."""
    started = time.perf_counter()
    code = subprocess.run(command, cwd=folder).returncode
    shown = " ".join(command).replace(f"{sys.base_prefix}/bin/", "")  # no path of this machine in a result
    return {"command": shown, "seconds": time.perf_counter() - started, "ok": code == 0}


def measure_demo(folder: Path) -> dict[str, Any]:
    """The demo of `folder`, with the largest resident memory that its policy's process (VmHWM) ever had."""
    peak_mib, started = 0.0, time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        numbers_file = Path(out) / "numbers.json"
        command = [".venv/bin/vla-align", "demo", "--out", f"{out}/demo", "--json", str(numbers_file)]
        with subprocess.Popen(command, cwd=folder) as demo:
            while demo.poll() is None:
                sizes_mib = [machine.memory_mib("VmHWM", child) for child in children(demo.pid) if runs_node(child)]
                peak_mib = max([peak_mib, *sizes_mib])
                time.sleep(POLL_S)
        found = {
            "seconds": time.perf_counter() - started,
            "ok": demo.returncode == 0,
            "policy_process_peak_mib": peak_mib,
        }
        if numbers_file.exists():
            numbers = json.loads(numbers_file.read_text())
            found["numbers"] = {name: value for name, value in numbers.items() if not name.endswith("_path")}
    return found


def children(process_id: int) -> list[int]:
    """Processes that a process has started; none when it has ended."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{process_id}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for line in lists for child in line.split()]


def runs_node(process_id: int) -> bool:
    """Whether a process is the one of policy and checkpoint manager."""
    try:
        return NODE.encode() in Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def show(found: dict[str, Any]) -> None:
    """The numbers as a table."""
    table = Table("what", "number")
    if "size" in found:
        for when, lines in found["size"]["lines"].items():
            table.add_row(f"lines of {' and '.join(COUNTED)}, {when}", ", ".join(str(lines[name]) for name in COUNTED))
        table.add_row("history (.git), packed", f"{found['size']['git_mb']:.1f} MB")
        table.add_row("working tree", f"{found['size']['working_tree_mb']:.1f} MB")
    for part in ("setup", "tests", "fast_tests", "demo"):
        if part in found:
            table.add_row(
                part.replace("_", " "), f"{found[part]['seconds']:.0f} s{'' if found[part]['ok'] else ', FAILED'}"
            )
    if "demo" in found:
        table.add_row("peak memory of the policy's process", f"{found['demo']['policy_process_peak_mib']:.0f} MiB")
    Console().print(table)


def main(
    size: Annotated[bool, typer.Option("--size", help="Size and lines of a clean clone.")] = False,
    setup: Annotated[bool, typer.Option("--setup", help="`make setup` in a clean clone, empty pip cache.")] = False,
    tests: Annotated[bool, typer.Option("--tests", help="`make test` and `make test-fast`.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="The demo, and its policy's memory.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure the parts that are asked for, or all. Exit code 1 when one of them failed."""
    everything = not (size or setup or tests or demo)
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = machine.ROOT
        if everything or size or setup:
            fresh = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "vla_align_ros"
            clone(fresh)
            found["size"] = measure_size(fresh)
        if everything or setup:
            folder, os.environ["PIP_NO_CACHE_DIR"] = fresh, "1"
            found["setup"] = measure_command(["make", "setup", f"PYTHON={sys.base_prefix}/bin/python3"], folder)
        if everything or tests:
            found["fast_tests"] = measure_command(["make", "test-fast"], folder)
            found["tests"] = measure_command(["make", "test"], folder)
        if everything or demo:
            found["demo"] = measure_demo(folder)
    show(found)
    machine.write(json_file, found)
    if not all(part.get("ok", True) for part in found.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
