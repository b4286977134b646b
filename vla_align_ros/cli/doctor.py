"""`vla-align doctor`: is this machine ready to run the nodes, and if not, what to do."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from xml.etree import ElementTree

import typer
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vla_align_ros.cli.convert import ActionHorizon, NormStatsFile, Robot, StateInPrompt, TokenizerFile
from vla_align_ros.cli.doctor_model import Check, check_model

if TYPE_CHECKING:
    from vla_align_ros.policy.foreign_config import ForeignSettings

PACKAGE = "vla_align_ros"
OPENCV = "opencv-python-headless"
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILE_ADVICE = f"export {PROFILE_VARIABLE}=<share folder of {PACKAGE}>/config/fastdds_profile.xml"
FRAME_BYTES = 640 * 480 * 3  # a camera frame that shared memory must hold
STYLE = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    model: Annotated[str | None, typer.Option(help="Also load this model (folder or name).")] = None,
    store: Annotated[Path | None, typer.Option(help="Also verify this token store.")] = None,
    robot: Robot = None,
    tokenizer: TokenizerFile = None,
    norm_stats: NormStatsFile = None,
    action_horizon: ActionHorizon = None,
    state_in_prompt: StateInPrompt = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check Python, packages, device, ROS, DDS profile, model and token store. Exit code 1 when a check fails. A model
    of openpi or lerobot needs --robot, and may need what `vla-align convert` is told.

    Example: vla-align doctor --model models/so101
    """
    checks = [check_python(), *check_packages(), check_device(), check_rclpy(), check_profile()]
    if model is not None:
        settings = foreign_settings(robot, tokenizer, norm_stats, action_horizon, state_in_prompt)
        checks += [*check_model(model, settings), *check_commands(model), *check_limits(model), *check_own_token(model)]
    if store is not None:
        checks.append(check_store(store))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        table = Table("check", "")
        table.add_column("found", overflow="fold")
        table.add_column("what to do", overflow="fold")
        for check in checks:
            status = f"[{STYLE[check.status]}]{check.status}[/]"
            table.add_row(check.name, status, escape(check.found), escape(check.todo))
        Console().print(table)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


def foreign_settings(robot: Path | None, *said: Path | bool | int | None) -> ForeignSettings | None:
    """Of a folder of openpi or lerobot, which does not say them; None of one of the zoo. said: as `ForeignSettings` has
    it."""
    from vla_align_ros.policy.foreign_config import ForeignSettings
    from vla_align_ros.robot.description import DescriptionError, load_description

    if robot is None:
        if any(value is not None for value in said):
            raise typer.BadParameter("what is said of another project's folder needs --robot, too")
        return None
    try:
        return ForeignSettings(load_description(robot), *said)  # type: ignore[arg-type]
    except DescriptionError as error:
        raise typer.BadParameter(str(error)) from None


def check_python() -> Check:
    """Python 3.11 to 3.13."""
    found = f"{platform.python_version()} ({sys.executable})"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.11, 3.12 or 3.13")


def check_packages() -> list[Check]:
    """Every dependency of the package is installed in a version from its supported range."""
    try:
        needed = [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or []]
    except importlib.metadata.PackageNotFoundError:
        return [Check(PACKAGE, "fail", "not installed", "pip install -e . in the source folder")]
    base = [requirement for requirement in needed if requirement.marker is None or requirement.marker.evaluate()]
    return [_check_package(requirement) for requirement in base]


def _check_package(requirement: Requirement) -> Check:
    todo = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = _version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(requirement.name, "fail", "not installed", todo)
    if requirement.specifier.contains(version, prereleases=True):
        return Check(requirement.name, "ok", version)
    return Check(requirement.name, "fail", f"{version}, supported is {requirement.specifier}", todo)


def _version(name: str) -> str:
    """Of an installed package; of OpenCV whichever of its packages brought it (apt's has no metadata for pip)."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != OPENCV:
            raise
        try:
            import cv2
        except ImportError:
            raise importlib.metadata.PackageNotFoundError(name) from None
        return str(cv2.__version__)


def check_device() -> Check:
    """Where `device: auto` would run."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("device", "fail", f"torch does not import: {error}", "reinstall torch for this machine")
    if torch.cuda.is_available():
        return Check("device", "ok", f"cuda: {torch.cuda.get_device_name(0)}")
    return Check("device", "ok", f"cpu, {torch.get_num_threads()} threads")


def check_rclpy() -> Check:
    """rclpy imports, with which RMW."""
    try:
        from rclpy.utilities import get_rmw_implementation_identifier

        rmw = get_rmw_implementation_identifier()
    except (ImportError, RuntimeError) as error:
        todo = "source your ROS 2 installation, or pip install 'vla_align_ros[ros]'"
        return Check("rclpy", "fail", f"does not import: {error}", todo)
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    return Check("rclpy", "ok", f"{rmw}, domain {domain}")


def check_profile() -> Check:
    """The Fast DDS profile is set and its shared memory holds camera frames (else images are lost)."""
    path = os.environ.get(PROFILE_VARIABLE)
    if not path:
        found = f"{PROFILE_VARIABLE} is not set: images between processes get lost"
        return Check("dds profile", "warn", found, f"{PROFILE_ADVICE} (the launch files do)")
    try:
        segments = [
            int(element.text or 0)
            for element in ElementTree.parse(path).iter()
            if element.tag.rpartition("}")[2] == "segment_size"
        ]
    except (OSError, ElementTree.ParseError, ValueError) as error:
        return Check("dds profile", "fail", f"{path}: {error}", PROFILE_ADVICE)
    if max(segments, default=0) < 4 * FRAME_BYTES:
        found = f"{path}: shared-memory segments {segments} bytes, too small for camera images"
        return Check("dds profile", "warn", found, f"set segment_size to 33554432, or {PROFILE_ADVICE}")
    return Check("dds profile", "ok", path)


def check_commands(model: str) -> list[Check]:
    """Where the commands of the model's robot would go. Who hears them, the running node says."""
    from vla_align_ros.policy.config import ModelConfigError, load_model_config
    from vla_align_ros.zoo import find_model

    try:
        groups = load_model_config(find_model(model)).robot.command_groups
    except ModelConfigError:
        return []  # `check_model` says so
    asked = "who hears it: /diagnostics, status `commands`"
    return [
        Check(f"commands {group.topic}", "ok", f"{group.type} of {', '.join(group.wire_names)}; {asked}")
        for group in groups
    ] or [Check("commands", "ok", f"~/action_chunk alone, for the robot has no command_groups; {asked}")]


def check_limits(model: str) -> list[Check]:
    """The limits that an alignment is judged by, one each; none where the model does not align or load."""
    from vla_align_ros.limits import CHECKS
    from vla_align_ros.policy.statistics import STATS_FILE, AlignmentStatsError, load_alignment_stats
    from vla_align_ros.zoo import find_model

    try:
        limits = load_alignment_stats(find_model(model) / STATS_FILE).limits
    except (AlignmentStatsError, ValueError):
        return []
    found = []
    for check in CHECKS:
        limit = limits[check.name]
        share = check.share_of(limit.robots)
        may = (
            f"may {'keep' if check.of_aligned else 'refuse'} {share:.0%} of {'aligned' if check.of_aligned else 'good'}"
        )
        text = (
            f"refuses {check.refuses} {limit.value:.4g} ({check.statistic}); measured on {limit.robots} robots, {may} "
            f"ones; guard.{check.name} sets another"
        )
        enough = limit.robots >= check.robots_needed
        todo = "" if enough else f"measure it on {check.robots_needed} validation robots or more"
        found.append(Check(f"limit {check.name}", "ok" if enough else "warn", text, todo))
    return found


def check_own_token(model: str) -> list[Check]:
    """Whether the losses know the training robots by their tokens, by family of shifts; none where nobody asked."""
    from vla_align_ros.training.own_token import OWN_TOKEN_FILE, TOLD_AIM, read
    from vla_align_ros.zoo import find_model

    try:
        found = read(find_model(model) / OWN_TOKEN_FILE)
    except (OSError, ValueError):
        return []  # `check_model` says what a model lacks that it needs
    checks = []
    for family, tasks in found.items():
        best = max(tasks, key=lambda task: tasks[task].told)
        told = ", ".join(f"{task} {tasks[task].told:.0%}" for task in tasks)
        text = f"training robots told from others by their own token's loss ({told}; half is chance)"
        todo = "" if tasks[best].told >= TOLD_AIM else "an alignment will hardly find what is shifted so: train longer"
        checks.append(Check(f"own token {family}", "warn" if todo else "ok", text, todo))
    return checks


def check_store(store: Path) -> Check:
    """Every version in the store verifies."""
    from vla_align_ros.checkpoint import StoreError, TokenStore

    if not store.exists():
        return Check("store", "ok", f"{store}: not there yet, the first save makes it")
    try:
        state = TokenStore(store, keep=1).read()
    except StoreError as error:
        return Check("store", "fail", str(error), "check the folder's permissions, or name another with store:=")
    active = state.active.name if state.active else "none"
    found = f"{store}: {len(state.versions)} versions, active {active}"
    if state.problems:
        broken = "; ".join(f"{name}: {problem}" for name, problem in state.problems.items())
        return Check(
            "store", "warn", f"{found}; {broken}", "restore a valid version; remove the corrupted ones by hand"
        )
    return Check("store", "ok", found)
