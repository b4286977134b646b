"""What a simulated robot is to everybody else. A further one is a folder with a `bench.py` whose `BENCH` is a `Bench`.

Commands and states are in ROS's units, in the order of the description's `action` and `state`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from vla_align_ros.params import ParameterError
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Float32Array, Observation, Trajectory

FloatArray = NDArray[np.float64]
Embodiment = TypeVar("Embodiment")  # what makes one arm differ from another: each bench has a type of its own
Arm_co = TypeVar("Arm_co", covariant=True)


class Arms(Protocol[Arm_co]):
    """Several embodiments: a list, or a bench's own kind of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Arm_co: ...


class Episodes(Protocol):
    """n arms, each before its own table, at work on their tasks."""

    def __len__(self) -> int: ...

    @property
    def succeeded(self) -> NDArray[np.bool_]:
        """Whose task was done in time, (n,)."""

    @property
    def over(self) -> NDArray[np.bool_]:
        """Who has nothing left to do, or no time, (n,)."""

    def at_work(self) -> tuple[NDArray[np.intp], Episodes]:
        """Which rows are not over, and those arms as episodes: the same arms go on in both."""

    def observe(self) -> list[Observation]:
        """What each arm sees and feels now."""

    def execute(self, commands: FloatArray | Float32Array) -> None:
        """Send commands (n, ticks, A), one a control tick."""

    def expert_chunks(self, horizon: int) -> FloatArray:
        """What somebody who knows each arm would send in the next ticks, (n, horizon, A)."""

    def distance_m(self) -> FloatArray:
        """How far what is to be moved is from where it shall be, (n,)."""


class Body(Protocol):
    """One arm before its table on a clock of its own, behind its controllers."""

    @property
    def now_ns(self) -> int:
        """Until when time has gone on."""

    @property
    def prompt(self) -> str:
        """What it is asked for."""

    def follow(self, trajectory: Trajectory) -> None:
        """A trajectory that arrives now, of all commanded joints or of a command group's."""

    def advance(self, to_ns: int) -> None:
        """Let time go on to `to_ns`, not before `now_ns`."""

    def reading(self) -> FloatArray:
        """The joints' positions as its encoders say, (S,)."""

    def pictures(self) -> NDArray[np.uint8]:
        """What its cameras see, (C, size, size, 3) RGB, without sensor noise."""

    def distance_m(self) -> float:
        """How far what is to be moved is from where it shall be."""

    def done(self) -> bool:
        """Whether the task is done now."""

    def next_task(self) -> None:
        """Another table and another prompt; the arm stays where it is."""


class Bench(Protocol[Embodiment]):
    """A kind of simulated robot, and its tasks."""

    @property
    def robot(self) -> RobotDescription:
        """As a model that shall drive it describes it. Every field of the state is a position."""

    def narrowed(self, tasks: Sequence[str], shifts: Sequence[str]) -> Bench[Embodiment]:
        """The same with some of its tasks, and arms that differ in some ways alone, by their names; empty: all of them.
        Raises ParameterError for one that it does not have."""

    def embodiment(self, number: int, scale: float = 1.0) -> Embodiment:
        """One arm by its number: 0 is the unshifted one. scale: width of every shift, relative to training's."""

    def embodiments(self, count: int, seed: int, scale: float = 1.0) -> Arms[Embodiment]:
        """`count` arms, others for each seed."""

    def episodes(self, arms: Arms[Embodiment], seed: int, image_size: int) -> Episodes:
        """Arms at the start of an episode. The same seed gives the same tables, poses, prompts and sensor noise."""

    def body(self, arm: Embodiment, start_ns: int, seed: int, image_size: int) -> Body:
        """One arm on a clock that begins at `start_ns`."""

    def carried_out(self, arm: Embodiment, now: FloatArray, trajectory: Trajectory) -> FloatArray:
        """What the encoders say, (K, S), at the start and after each control tick of a trajectory, of an arm that is at
        rest at `now` (S,) and has nothing in its way. To be drawn: without noise and load."""

    def tips_in_picture(self, arm: Embodiment, camera: str, now: FloatArray, readings: FloatArray) -> FloatArray:
        """Where the picture that a camera takes at `now` (S,) has the places that the arm's tip comes to when the
        encoders say `readings` (K, S): (K, 2) in picture widths from its top left."""


def check_names(parameter: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raises ParameterError unless all `wanted` are `known`."""
    if unknown := [name for name in wanted if name not in known]:
        raise ParameterError(f"{parameter}: expected some of {', '.join(known) or 'none'}, got {' '.join(unknown)!r}")


def bench_names() -> list[str]:
    """Of all benches: the folders that have a `bench.py`."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/bench.py"))


def find_bench(name: str) -> Bench[Any]:
    """A bench by its name. Raises ParameterError where there is none, or where what it needs is not installed."""
    if name not in bench_names():
        raise ParameterError(f"bench: expected one of {', '.join(bench_names())}, got {name!r}")
    try:
        found: Bench[Any] = importlib.import_module(f"vla_align_ros.bench.{name}.bench").BENCH
    except ModuleNotFoundError as error:
        needs = f"needs {error.name}, which is not installed: pip install 'vla_align_ros[bench]'"
        raise ParameterError(f"bench: {name} {needs}") from error
    return found
