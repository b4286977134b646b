"""Many robots at the desk: a folder of recordings each, aligned side by side on Ray, and one table.

DIR/left/monday, DIR/left/tuesday      bags, or LeRobotDatasets, of the robot `left`, in the order of their names
DIR/right                              a bag itself
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from vla_align_ros.cli.align_robot import DeskError, Job, Outcome, params_of, run

RETRIES: Final = 3  # of a robot whose worker was killed
OBJECT_STORE_BYTES: Final = 100 * 2**20  # of Ray on this machine: paths go in, reports come out
FAILED: Final = "failed"
TOKEN_HINT: Final = (
    "Where `ray start` said that token authentication is enabled: set RAY_AUTH_MODE=token, with the head's "
    "~/.ray/auth_token on this machine"
)


def fleet_jobs(folder: Path, job: Job) -> dict[str, Job]:
    """The job of each robot, by its name, from one for all: `store` is the folder of their stores, which have the
    robots' names; empty for the nodes' own. Raises DeskError for what is wrong with all of them."""
    from vla_align_ros.params import ParameterError
    from vla_align_ros.policy.config import ModelConfigError
    from vla_align_ros.zoo import find_model

    try:
        model = str(find_model(job.model).resolve())
        params_of(job, {})
        robots = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DeskError(f"--fleet: {error}") from None
    except (ModelConfigError, ParameterError) as error:
        raise DeskError(str(error)) from None
    if not robots:
        raise DeskError(f"--fleet: expected a folder for each robot in {folder}, got none")
    stores = Path(job.store).expanduser().resolve() if job.store else None
    return {
        robot.name: replace(
            job,
            model=model,
            sources=recordings_of(robot.resolve()),
            store=str(stores / robot.name) if stores else "",
            robot_id=robot.name,
        )
        for robot in robots
    }


def recordings_of(robot: Path) -> tuple[Path, ...]:
    """A robot's folder where it is a bag or a dataset itself, or cannot be read, which its own alignment says; else all
    folders and storage files in it."""
    try:
        found = sorted(path for path in robot.iterdir() if not path.name.startswith("."))
        if any((robot / name).is_file() for name in ("metadata.yaml", "meta/info.json")):
            return (robot,)
        return tuple(path for path in found if path.is_dir() or {".mcap", ".db3"} & set(path.suffixes))
    except OSError:
        return (robot,)


def attempt(job: Job) -> Outcome:
    """One robot, in a process of its own. What is wrong with it alone is its outcome."""
    try:
        if not job.sources:
            raise DeskError("no bag and no dataset in its folder")
        return run(job)
    except (DeskError, OSError) as error:
        return failed(str(error))


def failed(why: str) -> Outcome:
    """Where an alignment could not be tried."""
    return Outcome(FAILED, why, {"error": why})


def on_ray(
    jobs: Mapping[str, Job],
    work: Callable[[Job], Outcome],
    cluster: str,
    done: Callable[[str, Outcome], None],
) -> dict[str, Outcome]:
    """Each job in a process of Ray's, one a core: here, or on the cluster at an address. A worker that is killed is
    replaced; what one job raises is that one's outcome. done: called as they end. Raises DeskError without Ray."""
    with redirect_stdout(sys.stderr):  # Ray says there what it retries
        ray = _started(cluster)
        try:
            remote = ray.remote(num_cpus=1, max_retries=RETRIES)(work)
            waiting = {remote.remote(job): name for name, job in jobs.items()}
            found: dict[str, Outcome] = {}
            while waiting:
                (ready,), _ = ray.wait(list(waiting), num_returns=1)
                name = waiting.pop(ready)
                found[name] = _outcome(ray, ready)
                done(name, found[name])
        finally:
            ray.shutdown()
    return {name: found[name] for name in jobs}


def _started(cluster: str) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))  # Ray's own default is for ever
    try:
        import ray
    except ImportError:
        raise DeskError("--fleet needs Ray: pip install 'vla_align_ros[fleet]'") from None
    here: dict[str, Any] = {} if cluster else {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    try:
        ray.init(address=cluster or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:  # noqa: BLE001 (no less is what Ray raises where a machine is too busy to start it in time)
        with_what = f" with the cluster {cluster}" if cluster else ""
        # A head turns tokens on by itself where ~/.ray/auth_token is, which a fleet without a cluster writes.
        asked = f". {TOKEN_HINT}" if cluster and os.environ.get("RAY_AUTH_MODE", "").lower() != "token" else ""
        raise DeskError(f"Ray does not start{with_what}: {error}{asked}") from None
    return ray


def _outcome(ray: Any, ready: Any) -> Outcome:
    try:
        outcome: Outcome = ray.get(ready)
    except ray.exceptions.WorkerCrashedError:
        return failed(f"its worker was killed {RETRIES + 1} times: is there enough memory for one?")
    except ray.exceptions.OutOfMemoryError:
        return failed(f"its worker was ended {RETRIES + 1} times, since this machine's memory was nearly full")
    except ray.exceptions.RayTaskError as error:
        return failed(f"internal error: {error.cause!r}")
    except ray.exceptions.RayError as error:
        return failed(f"Ray: {error}")
    return outcome


def as_table(outcomes: Mapping[str, Outcome]) -> str:
    """A line for each robot: verdict, token version where one was kept, the sentence; and how many there are."""
    rows = [("robot", "verdict", "token", "")]
    for name, outcome in outcomes.items():
        rows.append((name, outcome.verdict, outcome.result.get("token_version") or "-", outcome.sentence))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*map(str.ljust, row[:3], widths), row[3]]).rstrip() for row in rows]
    verdicts = [outcome.verdict for outcome in outcomes.values()]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(verdicts)))
    return "\n".join([*lines, f"{len(outcomes)} robots: {counts}"])


def as_json(outcomes: Mapping[str, Outcome]) -> str:
    """By robot: `verdict`, and what `vla-align align --json` says of one, or `error`."""
    return json.dumps({name: {"verdict": each.verdict, **each.to_json()} for name, each in outcomes.items()}, indent=2)
