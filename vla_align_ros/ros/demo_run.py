"""The demo, step by step: live run with alignments -> save -> restart -> replays -> success rates -> report."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.live import Live
from rich.table import Table

from vla_align_ros.alignment.diagnosis import FieldDiagnosis
from vla_align_ros.bench.evaluate import acting, finished, run
from vla_align_ros.bench.port import Bench, find_bench
from vla_align_ros.bench.sampling import begin
from vla_align_ros.checkpoint.store import TokenStore
from vla_align_ros.checkpoint.version import TokenVersion
from vla_align_ros.demo.agreement import align_again, differences, from_bag, from_folder
from vla_align_ros.demo.calibrated import calibrated
from vla_align_ros.demo.pictures import planned_motion
from vla_align_ros.demo.processes import NodeProcess
from vla_align_ros.demo.report import summary_rows, write_report
from vla_align_ros.demo.subject import BENCH_NAME, SHIFTS, SIMULATED, TASKS
from vla_align_ros.params import ManagerParams, PolicyParams
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.ros.demo_replay import DemoError, replay_by_topic
from vla_align_ros.ros.listener import Listener, listening
from vla_align_ros.zoo import find_model

START_TIMEOUT_S, STALL_TIMEOUT_S, ANSWER_TIMEOUT_S = 30.0, 90.0, 10.0
EXPLORATION_FRACTION = 0.5
ALIGN_FREQUENCY_HZ = 0.02
EXPERIENCE_LAG_S = 1.0  # a message that a busy machine brings later is in the bag, but not in the live experience
IMAGES, JOINT_STATES = 2.0, 5.0  # a control tick: two cores do everything
HEARD_S = 4.0  # of every topic must be in the bag before experience counts: longer than its chunks, horizon and lag
EPISODE_SEED = 404
NODE_LOG = "vla_align_node.log"


@dataclass(frozen=True)
class DemoSettings:
    """What the shell command asks for."""

    model: str
    out: Path
    embodiment_seed: int
    aligns: int
    episodes: int


def make_empty(out: Path) -> None:
    """Make a folder for a demo, in place of an earlier one's. Raises DemoError where anything else is there."""
    try:
        if out.is_dir() and any(out.iterdir()):
            if not (out / NODE_LOG).exists():
                raise DemoError(f"{out}: expected a new folder or that of an earlier demo, other files are in it")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DemoError(f"{out}: {error.strerror}: name another folder by --out") from error


def run_demo(settings: DemoSettings, console: Console) -> dict[str, Any]:
    """Run everything; returns the numbers of the report. Raises DemoError, and as `load_policy`."""
    torch.set_num_threads(1)
    folder, out = find_model(settings.model), settings.out.resolve()
    policy = load_policy(folder)
    make_empty(out)
    parameters = {
        "model": str(folder),
        "store": str(out / "store"),
        "exploration_fraction": EXPLORATION_FRACTION,
        "experience_lag_s": EXPERIENCE_LAG_S,
        "align_frequency_hz": ALIGN_FREQUENCY_HZ,
    }
    with listening() as listener:
        travelled = _live_run(settings, policy.config.robot, out, parameters, listener, console)
        restored = _restart(out, parameters, listener, console)
        attempts, params = list(listener.reports), _policy_params(policy, parameters)
        experiences = from_bag(policy, attempts[0], out / "bag", params)
        count, robot = len(experiences), policy.config.robot
        replayed = replay_by_topic(robot, out, parameters, attempts[0], count, EXPERIENCE_LAG_S, listener)
    versions = TokenStore(out / "store", ManagerParams().keep_versions).versions()
    start_ns = versions[0].manifest.created_ns
    start = torch.from_numpy(versions[0].token.copy())
    watched = from_folder(policy, attempts[0], out / "bag", params.updated({"store": str(out / "store_bag")}))
    apart = {
        "offline": differences(attempts[0], align_again(policy, experiences, start, params)),
        "topic": differences(attempts[0], replayed),
        "bag": differences(attempts[0], align_again(policy, watched, start, params)),
    }
    timeline = success_over_time(policy, versions, settings)
    rates = {point["token_version"]: point["success"] for point in timeline}
    numbers: dict[str, Any] = {
        "chunks_published": len(listener.latencies_ms),
        "chunk_latency_ms": {f"p{q}": float(np.percentile(listener.latencies_ms, q)) for q in (50, 99)},
        "chunk_period_ms": policy.config.robot.execute * policy.config.robot.period_ns * 1e-6,
        "aligns": {
            "attempted": len(attempts),
            "accepted": sum(item["accepted"] for item in attempts),
            "refused": sum(not item["accepted"] for item in attempts),
        },
        "success_before": rates[versions[0].name],
        "success_after": rates[restored.name],
        "success_calibrated": success_calibrated(policy, start, attempts[0]["diagnosis"], settings),
        "success_over_time": timeline,
        "success_is": f"share of {settings.episodes} paired episodes of the batched bench, in process",
        "token_version": restored.name,
        **{f"live_{way}_identical": not found for way, found in apart.items()},
        "differences": {way: found for way, found in apart.items() if found},
        "joint_travel_rad": travelled,
        "bag_path": str(out / "bag"),
        "report_path": str(out / "report.html"),
    }
    ends = (start, torch.from_numpy(restored.token.copy()))
    bench = _bench()
    arm = bench.embodiment(settings.embodiment_seed)
    pictures = planned_motion(policy, out / "bag", params, bench, arm, ends)
    write_report(out / "report.html", numbers, attempts, pictures, listener.latencies_ms, start_ns)
    console.print(_summary(numbers))
    if numbers["differences"]:
        raise DemoError(f"live and replayed alignment differ: {numbers['differences']}; see {numbers['report_path']}")
    return numbers


def _bench() -> Bench[Any]:
    return find_bench(BENCH_NAME).narrowed(TASKS.split(), SHIFTS.split())


def success_over_time(policy: Policy, versions: Sequence[TokenVersion], settings: DemoSettings) -> list[dict[str, Any]]:
    """For each token version, when it came (s after the first one) and its share of successes in paired episodes."""
    bench = _bench()
    arms = [bench.embodiment(settings.embodiment_seed)] * settings.episodes
    start_ns, timeline = versions[0].manifest.created_ns, []
    for version in versions:
        tokens = torch.from_numpy(version.token.copy()).expand(settings.episodes, -1, -1)
        success = float(finished(policy, bench, arms, tokens, EPISODE_SEED).succeeded.mean())
        seconds = (version.manifest.created_ns - start_ns) * 1e-9
        timeline.append({"t_s": seconds, "token_version": version.name, "success": success})
    return timeline


def success_calibrated(
    policy: Policy, token: torch.Tensor, diagnosis: Sequence[Mapping[str, Any]], settings: DemoSettings
) -> float:
    """Share of successes in the same episodes with one token, its commands wrapped by a diagnosis (as JSON)."""
    bench, robot = _bench(), policy.config.robot
    arms = [bench.embodiment(settings.embodiment_seed)] * settings.episodes
    episodes = begin(policy, bench, arms, EPISODE_SEED)
    act = acting(policy, token.expand(settings.episodes, -1, -1), EPISODE_SEED)
    found = [FieldDiagnosis(**field) for field in diagnosis]
    return float(run(episodes, calibrated(act, found, robot), robot.execute).mean())


def _live_run(
    settings: DemoSettings,
    robot: RobotDescription,
    out: Path,
    parameters: dict[str, object],
    listener: Listener,
    console: Console,
) -> float:
    """Robot, recorder and policy until enough alignments were judged; then save. Returns how far the joints went
    (rad).
    """
    environment = dict(os.environ)
    rate_hz = robot.control_rate_hz
    simulated = SIMULATED | {"embodiment_seed": settings.embodiment_seed}
    simulated |= {"image_hz": IMAGES * rate_hz, "joint_hz": JOINT_STATES * rate_hz}
    sim_robot = NodeProcess("sim_robot", simulated, out / "sim_robot.log", environment)
    recorded = {"path": str(out / "bag"), "model": parameters["model"]}
    recorder = NodeProcess("bag_recorder", recorded, out / "bag_recorder.log", environment)
    policy = NodeProcess("vla_align_node", parameters, out / NODE_LOG, environment)
    processes = (sim_robot, recorder, policy)
    with sim_robot, recorder, policy, Live(console=console, refresh_per_second=4) as live:
        _wait(live, listener, processes, lambda: _recorder_hears(listener.recorded, robot))
        # The bag has all of the experience that comes now: DDS may have matched the recorder seconds after the others.
        listener.call("/vla_policy/clear_buffer", ANSWER_TIMEOUT_S)
        _wait(live, listener, processes, lambda: len(listener.reports) >= settings.aligns)
        answer = listener.call("/checkpoint_manager/save", ANSWER_TIMEOUT_S)
        if answer is None or not answer.success:
            raise DemoError(f"~/save did not work: {answer.message if answer else 'no answer'}")
        listener.saved = json.loads(answer.message)
        codes = {process.module: process.stop() for process in (policy, recorder, sim_robot)}
    if any(codes.values()):
        raise DemoError(f"not every process ended with 0: {codes}; logs are in {out}")
    moved = listener.joint_travel_rad
    if not listener.latencies_ms or moved < 0.5:
        raise DemoError(f"{len(listener.latencies_ms)} chunks moved the joints by {moved:.2f} rad only")
    return moved


def _wait(live: Live, listener: Listener, processes: Sequence[NodeProcess], done: Callable[[], bool]) -> None:
    """Until `done`, with the table on the screen. DemoError when a process ends by itself, or when for STALL_TIMEOUT_S
    neither experience came nor an alignment went on."""
    progress, since = _progress(listener), time.monotonic()
    while not done():
        live.update(_table(listener))
        for process in processes:
            if process.returncode is not None:
                raise DemoError(f"{process.module} ended by itself:\n{process.log_tail()}")
        if progress != (now := _progress(listener)):
            progress, since = now, time.monotonic()
        if time.monotonic() - since > STALL_TIMEOUT_S:
            logs = "\n".join(process.log_tail(5) for process in processes)
            had = f"{_experiences(listener)} experiences, {len(listener.reports)} alignments judged"
            raise DemoError(f"nothing happened for {STALL_TIMEOUT_S:.0f} s, after {had}:\n{logs}")
        threading.Event().wait(0.25)
    live.update(_table(listener))


def _progress(listener: Listener) -> tuple[object, ...]:
    """Changes as long as the run goes on."""
    chunks = listener.recorded.get("/vla_policy/action_chunk", 0)
    return chunks, _experiences(listener), len(listener.reports), dict(listener.losses)


def _recorder_hears(recorded: Mapping[str, int], robot: RobotDescription) -> bool:
    """Whether the bag has HEARD_S of everything that experience is made from."""
    each_tick = {"/joint_states": JOINT_STATES, "/vla_policy/action_chunk": 1.0 / robot.execute}
    each_tick |= {f"/{topic}": IMAGES for topic in robot.cameras.values()}
    ticks = HEARD_S * robot.control_rate_hz
    return all(recorded.get(topic, 0) >= rate * ticks for topic, rate in each_tick.items())


def _experiences(listener: Listener) -> int:
    return int(listener.statuses.get("vla_policy: experience", {}).get("buffer", "0"))


def _restart(out: Path, parameters: dict[str, object], listener: Listener, console: Console) -> TokenVersion:
    """Start the policy anew on the same store; the version that it announces must be the saved one."""
    listener.active = {}
    quiet = {**parameters, "align_frequency_hz": 0.0}
    with NodeProcess("vla_align_node", quiet, out / "vla_align_node_restarted.log", dict(os.environ)) as policy:
        deadline = time.monotonic() + START_TIMEOUT_S
        running = ""
        while running != listener.saved["version"] or not listener.active:
            if time.monotonic() > deadline or policy.returncode is not None:
                raise DemoError(f"restarted with {running or 'nothing'}, not {listener.saved}:\n{policy.log_tail()}")
            threading.Event().wait(0.1)
            running = (
                listener.statuses.get("vla_policy: alignment", {}).get("token_version", "") if listener.active else ""
            )
        if listener.active["sha256"] != listener.saved["sha256"]:
            raise DemoError(f"the restored version {listener.active} is not the saved one {listener.saved}")
    console.print(f"restarted with token version {running}, the saved one")
    return TokenStore(out / "store", ManagerParams().keep_versions).load(running)


def _policy_params(policy: Policy, parameters: dict[str, object]) -> PolicyParams:
    """The parameters that the node ran with: the model's recommendations, then what was set."""
    return PolicyParams.from_mapping({**asdict(policy.config.recommended), **parameters})


def _table(listener: Listener) -> Table:
    table = Table("what", "now", title="vla_align_ros, live")
    inference = listener.statuses.get("vla_policy: inference", {})
    experience = listener.statuses.get("vla_policy: experience", {})
    alignment = listener.statuses.get("vla_policy: alignment", {})
    latency = f"{np.median(listener.latencies_ms[-50:]):.1f} ms" if listener.latencies_ms else "-"
    rows = {
        "policy": inference.get("message", "starting"),
        "chunks": f"{len(listener.latencies_ms)} at {listener.chunk_rate_hz():.2f} Hz, from tick to chunk {latency}",
        "experiences": experience.get("buffer", "0"),
        "losses": ", ".join(f"{task} {loss:.3f}" for task, loss in listener.losses.items()) or "-",
        "token version": alignment.get("token_version", "-"),
        "last alignment": alignment.get("message", "none yet"),
    }
    for what, now in rows.items():
        table.add_row(what, now)
    return table


def _summary(numbers: dict[str, Any]) -> Table:
    table = Table("what", "value", title="summary")
    for row in summary_rows(numbers):
        table.add_row(*row)
    return table
