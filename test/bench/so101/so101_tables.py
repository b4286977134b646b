"""Tables and arms that the tests of this folder set up."""

import numpy as np

from vla_align_ros.bench.so101 import tasks
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import HOME_RAD
from vla_align_ros.bench.so101.shifts import Split, draw_embodiment
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.tasks import Task


def table(angle_rad=HOME_RAD, seed=0, task=Task.PICK) -> State:
    """One table of the nominal arm, the arm in a pose of our own."""
    asked = tasks.assign([task], [seed])
    state = tasks.start([Embodiment()], asked, [seed])
    return State(np.asarray(angle_rad, float)[None], state.cube_m, state.cube_quat, state.pad_m)


def tables(count: int) -> State:
    """Tables and start poses of nominal arms."""
    seeds = list(range(count))
    return tasks.start([Embodiment()] * count, tasks.assign([Task.PICK] * count, seeds), seeds)


def drawn(count: int, *families) -> list[Embodiment]:
    """Test arms, shifted in some families or in all."""
    more = {"families": families} if families else {}
    return [draw_embodiment(seed, Split.TEST, **more) for seed in range(count)]
