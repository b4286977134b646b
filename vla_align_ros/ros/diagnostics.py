"""What `/diagnostics` says about the policy: one status a part, a level, a sentence, and counters by reason code."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_align_ros.runtime import Runtime

OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN


class Health:
    """What has happened lately. Written by the node's threads, read by its timer."""

    def __init__(self) -> None:
        self.latencies_ms: deque[float] = deque(maxlen=300)
        self.chunks = 0
        self.problem = ""
        self.aligns = {"attempted": 0, "accepted": 0, "refused": 0}
        self.last_align = "none yet"
        self.joints: dict[
            str, str
        ] = {}  # what the last attempt's experience says of each, by commands and joint states

    def chunk_sent(self, latency_ms: float) -> None:
        """A chunk went out."""
        self.latencies_ms.append(latency_ms)
        self.chunks += 1
        self.problem = ""


@dataclass(frozen=True)
class SourceStatus:
    """Where experience comes from. problem: what keeps experience away, or empty. waiting: bags that are not closed
    yet. total: experiences so far. refused: what cost experience."""

    sentence: str
    problem: str
    waiting: str
    total: int
    refused: Mapping[Enum, int]


@dataclass(frozen=True)
class CommandStatus:
    """Where commands go. problem: why they do not arrive, or empty. outputs: by topic its type, and who hears it."""

    problem: str
    outputs: Mapping[str, str]


def build(
    name: str,
    runtime: Runtime,
    health: Health,
    source: SourceStatus,
    commands: CommandStatus | None,
    active: bool,
    now_ns: int,
    clock_problem: str,
    deaf: Sequence[str],
    waiting: str,
) -> DiagnosticArray:
    """All statuses of one policy. Stamp and hardware_id are left to the publisher.

    commands: None of a node that sends none. now_ns: ROS time. clock_problem: what is wrong with it. deaf: why messages
    do not arrive, a sentence each. waiting: why periodic alignment cannot begin.
    """
    controller, assembler = runtime.controller, runtime.assembler
    latencies = np.array(health.latencies_ms or [0.0])
    inference = {
        "chunks": health.chunks,
        "latency_ms_p50": round(float(np.percentile(latencies, 50)), 2),
        "latency_ms_p99": round(float(np.percentile(latencies, 99)), 2),
        "queue_ran_empty": controller.queue.ran_dry,
        "late_chunks": controller.late,
    }
    stamp_problem, ages = assembler.diagnose(now_ns)
    problem = clock_problem or stamp_problem or (health.problem if active else "")
    level = WARN if problem else OK
    running = "running" if commands is not None else f"observing: experience from {source.sentence}"
    if controller.excitation is not None:
        running = "excites the robot, in place of the policy"
    message = problem or (running if active else "inactive")
    held = runtime.buffer.snapshot()
    newest_ns = held[-1].next_observation.stamp_ns if held else 0
    experience = {
        "buffer": len(held),
        "total": source.total,
        "newest_stamp_ns": newest_ns,
        "waiting": source.waiting,
        **_counts(source.refused),
    }
    gathered = source.problem or f"{len(held)} experiences from {source.sentence}"
    alignment = {**health.aligns, **health.joints, "last": health.last_align, "token_version": runtime.version_name}
    aligned = runtime.policy.align_problem or waiting or health.last_align
    array = DiagnosticArray(
        status=[
            _status(name, "inference", level, message, inference | _counts(controller.refused)),
            _status(
                name,
                "observation",
                WARN if deaf else level,
                "; ".join([message, *deaf]),
                ages | _counts(assembler.refused),
            ),
            _status(name, "experience", WARN if source.problem else OK, gathered, experience),
            _status(name, "alignment", WARN if waiting else OK, aligned, alignment),
        ]
    )
    if commands is not None:
        heard = commands.problem or "every command is heard"
        array.status.append(_status(name, "commands", WARN if commands.problem else OK, heard, commands.outputs))
    return array


def build_unconfigured(name: str, state: str, clock_problem: str) -> DiagnosticArray:
    """What there is to say without a model."""
    message = "; ".join(filter(None, [f"{state}: no model is loaded", clock_problem]))
    return DiagnosticArray(status=[_status(name, "inference", WARN, message, {})])


def _counts(counter: Mapping[Enum, int]) -> dict[str, int]:
    return {f"refused.{reason.value}": count for reason, count in counter.items()}


def _status(node: str, part: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(level=level, name=f"{node}: {part}", message=message, values=pairs)
