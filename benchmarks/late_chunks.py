"""Does an alignment make the running policy late? Chunks of a live node at its model's own rate, without and with it.

    python benchmarks/late_chunks.py --json late_chunks.json

Robot and policy are real processes over DDS on loopback. A chunk is late when the queue had run empty before it came;
it also runs empty where the bench puts the arm back and asks for something else. `slack_ms` is how long after its
control tick a chunk of this model may come.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import machine
import typer
from timing import percentile

from vla_align_ros.demo.processes import NodeProcess, loopback_environment
from vla_align_ros.demo.subject import MODEL, SIMULATED
from vla_align_ros.policy.config import load_model_config
from vla_align_ros.zoo import find_model

DOMAIN, TIMEOUT_S = 87, 180.0


def measure(model: str, seconds: float, aligns: int, experiences: int) -> dict[str, Any]:
    """`seconds` of both: the policy alone, and with `aligns` alignments, evenly spread."""
    os.environ.update(loopback_environment(DOMAIN))
    from vla_align_ros.ros.listener import Listener, listening  # reads the environment

    def count(listener: Listener, name: str) -> int:
        return int(listener.statuses.get("vla_policy: inference", {}).get(name, "0"))

    def watch(listener: Listener, during: Callable[[], None]) -> dict[str, Any]:
        names = ("late_chunks", "queue_ran_empty")
        first, before = len(listener.latencies_ms), {name: count(listener, name) for name in names}
        during()
        threading.Event().wait(1.5)  # diagnostics come once a second
        latencies = listener.latencies_ms[first:]
        found = {f"p{percent}": percentile(latencies, percent) for percent in (50, 99, 100)}
        return {"latency_ms": found, "chunks": len(latencies)} | {
            name: count(listener, name) - before[name] for name in names
        }

    took_s = list[float]()

    def align(listener: Listener) -> None:
        started = time.monotonic()
        for number in range(aligns):
            threading.Event().wait(max(0.0, started + number * seconds / aligns - time.monotonic()))
            called = time.monotonic()
            answer = listener.call("/vla_policy/align", TIMEOUT_S)
            took_s.append(time.monotonic() - called)
            assert answer is not None, "an alignment did not answer"
            print(f"{took_s[-1]:.1f} s: {answer.message}", flush=True)
        threading.Event().wait(max(0.0, started + seconds - time.monotonic()))

    config = load_model_config(find_model(model))
    robot = config.robot
    with tempfile.TemporaryDirectory() as folder, listening(joints=False) as listener:
        out, environment = Path(folder), dict(os.environ)
        parameters = {"model": model, "store": str(out / "store"), "exploration_fraction": 0.5}
        parameters["align_max_experiences"] = experiences
        sim = NodeProcess("sim_robot", SIMULATED, out / "sim.log", environment)
        node = NodeProcess("vla_align_node", parameters, out / "node.log", environment)
        with sim, node:
            deadline = time.monotonic() + TIMEOUT_S
            while int(listener.statuses.get("vla_policy: experience", {}).get("buffer", "0")) < experiences:
                assert time.monotonic() < deadline, f"no experience:\n{node.log_tail()}"
                threading.Event().wait(0.5)
            found = {
                "alone": watch(listener, lambda: threading.Event().wait(seconds) and None),
                "aligning": watch(listener, lambda: align(listener)),
            }
    rows = config.architecture.action_horizon - robot.execute
    about = {"slack_ms": rows * robot.period_ns * 1e-6, "seconds": seconds, "experiences": experiences}
    return {**about, "alignments_s": took_s, **found}


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path, of the demo's robot.")] = MODEL,
    seconds: Annotated[float, typer.Option(help="Of each part.")] = 60.0,
    aligns: Annotated[int, typer.Option(help="Alignments in the second part.")] = 2,
    experiences: Annotated[int, typer.Option(help="That an alignment learns and is judged by.", min=1)] = 128,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Measure. Exit code 1 when a chunk was late."""
    found = measure(model, seconds, aligns, experiences)
    for part in ("alone", "aligning"):
        print(part, found[part])
    machine.write(json_file, found)
    if found["aligning"]["late_chunks"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
