"""`vla-align doctor --model`: is a folder whole, does it fit this machine, and is it fast enough for its robot."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from vla_align_ros.policy import Policy
    from vla_align_ros.policy.foreign_config import ForeignModel, ForeignSettings
    from vla_align_ros.policy.load import Dtype
    from vla_align_ros.robot.description import RobotDescription

TIMED_CHUNKS = 3
OVERHEAD = 1.15  # of the weights: activations, plans and what Python takes


@dataclass(frozen=True)
class Check:
    """One finding. todo: what to do about it, empty when it is ok."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    todo: str = ""


def check_model(model: str, settings: ForeignSettings | None = None) -> list[Check]:
    """From the folder's small files to the weights' header, then the memory; what fits is loaded and timed."""
    from vla_align_ros.policy.load import find_device, read_folder
    from vla_align_ros.zoo import find_model

    try:
        folder = find_model(model)
        read = read_folder(folder, settings)
    except (ValueError, OSError) as error:
        return [Check("model", "fail", f"{model}: {error}", "see the model's README.md, or name another folder")]
    checks = [
        check_weights(folder, read),
        check_tokenizer(read),
        check_statistics(read),
        check_joints(read.config.robot),
    ]
    device = find_device("auto")
    dtype, memory = check_memory(read, device)
    checks.append(memory)
    if dtype is None or any(check.status == "fail" for check in checks):
        return checks
    try:
        from vla_align_ros.policy import load_policy

        policy = load_policy(folder, device, dtype, settings)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the doctor says so
        return [
            *checks,
            Check("model", "fail", f"{model}: {error}", "see the model's README.md, or name another folder"),
        ]
    return [*checks, check_alignment(model, policy), check_rate(policy)]


def check_weights(folder: Path, read: ForeignModel) -> Check:
    """They fit the description, by their header, and are the ones that it names, by their hash."""
    from vla_align_ros.policy.load import check_network
    from vla_align_ros.policy.weights import WeightsError, open_tensors, sha256_of_weights, weights_files

    described = read.config.weights
    path = folder / described.file
    try:
        check_network(read.config.architecture, path)
        tensors, files = open_tensors(path), weights_files(path)
        sha256 = sha256_of_weights(path)
    except (WeightsError, OSError) as error:
        return Check("weights", "fail", str(error), "see the model's README.md, or copy the file again")
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors.values()}))
    size = sum(file.stat().st_size for file in files)
    found = f"{len(tensors)} tensors in {dtypes}, {size / 1e9:.2f} GB in {len(files)} file(s), sha256 {sha256}"
    if described.sha256 is None:
        return Check("weights", "ok", f"{found}; nothing says which it should be")
    if described.sha256 != sha256:
        found = f"{found}, described is {described.sha256}"
        return Check("weights", "fail", found, "they changed since they were described: copy the file again")
    return Check("weights", "ok", f"{found}, as described")


def check_tokenizer(read: ForeignModel) -> Check:
    """It is there and the one of these weights."""
    from vla_align_ros.policy.tokenizer import PromptTokenizer

    try:
        PromptTokenizer(read.tokenizer, read.config.architecture)
    except ValueError as error:
        return Check("tokenizer", "fail", str(error), "name the file that the weights were trained with")
    return Check("tokenizer", "ok", str(read.tokenizer))


def check_statistics(read: ForeignModel) -> Check:
    """Every field has a spread, in the numbers that are divided by and in those that are not."""
    from vla_align_ros.policy.prepare import make_robot

    todo = "take the statistics from data in which all joints move"
    try:
        remarks = make_robot(read.config, read.stats, read.stats_path, read.tokenizer, read.remarks).remarks
    except ValueError as error:
        return Check("statistics", "fail", str(error), todo)
    if remarks:
        return Check("statistics", "warn", "; ".join(remarks), todo)
    return Check("statistics", "ok", f"{read.stats_path}, by {read.config.normalisation}")


def check_joints(robot: RobotDescription) -> Check:
    """What JointState must have. Whether it has, the running node says."""
    entries = {field.entry for field in robot.state}
    sources = [f"{source.topic}: {', '.join(robot.names_on(source))}" for source in robot.joint_states]
    found = f"JointState must have {' and '.join(sorted(entries))} of these joints on {'; '.join(sources)}"
    return Check("joints", "ok", f"{found}; which are missing: /diagnostics, status `observation`")


def check_memory(read: ForeignModel, device: torch.device) -> tuple[Dtype | None, Check]:
    """The dtype to use on this machine, None where none fits."""
    from vla_align_ros.policy.load import check_dtype, memory_of
    from vla_align_ros.policy.prepare import PolicyError

    architecture, free = read.config.architecture, free_bytes(device)
    needed: dict[Dtype, float] = {"float32": 0.0, "bfloat16": 0.0}
    offered: list[Dtype] = []
    for dtype in needed:
        needed[dtype] = memory_of(architecture, dtype) * OVERHEAD
        try:
            check_dtype(dtype, device, architecture)
        except PolicyError:
            continue
        offered.append(dtype)
    said = ", ".join(f"{dtype} takes {size / 1e9:.1f} GB" for dtype, size in needed.items())
    found = f"{said}; {free / 1e9:.1f} GB are free on {device}"
    fitting = [dtype for dtype in offered if needed[dtype] <= free]
    if not fitting:
        todo = f"of use on {device}: {' and '.join(offered)}; stop what else takes memory, or use a larger machine"
        return None, Check("memory", "fail", found, todo)
    best = fitting[-1]  # bfloat16 is offered where it is the faster one
    return best, Check("memory", "ok", f"{found}; dtype:={best} suits it")


def free_bytes(device: torch.device) -> int:
    """Memory that a new program may take, on the CPU what Linux calls available."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def check_alignment(model: str, policy: Policy) -> Check:
    """It loads, whole, and its features see a robot move."""
    from vla_align_ros.training.probe import MOTION_R2_AIM

    found, todo = model, ""
    if policy.align_problem:
        return Check("model", "ok", f"{found}, {policy.align_problem}")
    r2 = policy.alignment.stats.motion_r2
    found = f"{found}, linear R2 of joint motion from its features {r2:.2f}, as measured in training"
    if r2 < MOTION_R2_AIM:
        todo = f"alignment learns little from features that hardly see the robot move: aim for {MOTION_R2_AIM}"
    return Check("model", "warn" if todo else "ok", found, todo)


def check_rate(policy: Policy) -> Check:
    """The next chunk is there before the part of the last one that is executed runs out. Timed with new pictures: one
    that was seen before costs less."""
    from vla_align_ros.speed.whole import random_experiences

    robot, steps = policy.config.robot, policy.config.recommended.num_steps
    policy.warm_up(steps)
    times = []
    for item in random_experiences(policy, TIMED_CHUNKS):
        start = time.perf_counter()
        policy.infer(item.observation, num_steps=steps)
        times.append(time.perf_counter() - start)
    chunk_s, executed_s = statistics.median(times), robot.execute / robot.control_rate_hz
    found = (
        f"a chunk takes {chunk_s * 1e3:.0f} ms here, and {robot.execute} commands at {robot.control_rate_hz:g} Hz last "
        f"{executed_s * 1e3:.0f} ms"
    )
    todo = list(policy.config.remarks)
    if chunk_s > executed_s:
        todo.append("the robot stops between chunks: use a GPU, fewer num_steps, or a larger robot.execute")
    return Check("rate", "warn" if todo else "ok", found, "; ".join(todo))
