"""Tables that can be worked on, prompts that name things, and what counts as done."""

from dataclasses import replace

import numpy as np
import pytest
from so101_tables import drawn, table

from vla_align_ros.bench.so101 import tasks
from vla_align_ros.bench.so101.scene import CUBES, PADS
from vla_align_ros.bench.so101.tasks import Task


@pytest.mark.parametrize("task", Task)
def test_prompts_name_what_is_asked_for(task):
    asked = tasks.assign([task] * 40, range(40))
    assert set(asked.cube) == {0, 1, 2}
    for row, prompt in enumerate(asked.prompts):
        assert [name for name in CUBES if name in prompt] == [list(CUBES)[asked.cube[row]]]
        named = [name for name in PADS if name in prompt]
        assert named == ([] if task is Task.REACH else [list(PADS)[asked.pad[row]]])


@pytest.mark.parametrize("task", Task)
def test_things_lie_apart_and_within_reach_wherever_the_base_stands(task):
    arms = drawn(60)
    state = tasks.start(arms, tasks.assign([task] * 60, range(60)), range(60))
    things = np.concatenate([state.cube_m[..., :2], state.pad_m], axis=1)
    pan = np.stack([arm.base_position_m[:2] for arm in arms]) + np.array([0.0388, 0.0])
    radius = np.linalg.norm(things - pan[:, None], axis=-1)
    assert radius.min() > 0.135
    assert radius.max() < 0.24
    distance = np.linalg.norm(things[:, :, None] - things[:, None], axis=-1)
    assert distance[:, ~np.eye(6, dtype=bool)].min() > 0.059


def test_a_table_depends_on_its_seed_alone():
    first, again = (tasks.start(drawn(1), tasks.assign([Task.PUSH], [7]), [7]).flat() for _ in range(2))
    other = tasks.start(drawn(1), tasks.assign([Task.PUSH], [8]), [8]).flat()
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_what_counts_as_done():
    asked = {task: tasks.assign([task], [0]) for task in Task}
    state = table()
    cube, pad = asked[Task.PICK].cube[0], asked[Task.PICK].pad[0]
    over = state.cube_m[:, cube] + [0.0, 0.0, tasks.REACH_HEIGHT_M]
    assert tasks.done(asked[Task.REACH], state, over)
    assert not tasks.done(asked[Task.REACH], state, over + np.array([0.0, 0.021, 0.0]))
    away = over + np.array([0.0, 0.0, 0.1])
    assert not tasks.done(asked[Task.PICK], state, away)
    cube_m = state.cube_m.copy()
    cube_m[0, cube, :2] = state.pad_m[0, pad] + [0.025, 0.0]
    placed = replace(state, cube_m=cube_m)
    for task in (Task.PICK, Task.PUSH):
        assert tasks.done(asked[task], placed, away)
    assert not tasks.done(asked[Task.PICK], placed, cube_m[:, cube])  # still in the jaw
    assert tasks.done(asked[Task.PUSH], placed, cube_m[:, cube])
    cube_m = cube_m.copy()
    cube_m[0, cube, 2] = 0.05  # held over the pad
    assert not tasks.done(asked[Task.PICK], replace(placed, cube_m=cube_m), away)
