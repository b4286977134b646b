"""The rivals of an alignment find what they claim to: lines by joints alone, and shifted parameters by landmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from calibration import Calibration, calibration, lines, mean_of, most_alike
from families import FAMILIES, units
from landmarks import FORMULAS, Undone, hand_eye

from vla_align_ros.bench.so101.bench import BENCH
from vla_align_ros.bench.so101.collect import Behaviour, record
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.joints import DELTA, HOME_RAD
from vla_align_ros.bench.so101.pictures import draw
from vla_align_ros.bench.so101.recording import Recording
from vla_align_ros.bench.so101.scene import CAMERAS
from vla_align_ros.bench.so101.skeleton import skeletons
from vla_align_ros.bench.so101.state import State
from vla_align_ros.bench.so101.tasks import Task, assign, start
from vla_align_ros.types import Experience, Observation

ROBOT, HORIZON, EXECUTE = BENCH.robot, 16, BENCH.robot.execute
NOMINAL_LINE = (np.ones(6), np.zeros(6), 0)


def experiences(readings: Any, commands: Any, episode: int) -> list[Experience]:
    """Of readings (T + 1, 6) and targets (T, 6) of one episode, every EXECUTE ticks."""
    found = []
    for tick in range(0, len(commands) - HORIZON + 1, EXECUTE):
        origin = np.where(DELTA, readings[tick], 0.0)
        before, after = (
            Observation({}, np.asarray(readings[at], np.float32), "go", (10_000 * episode + at) * ROBOT.period_ns)
            for at in (tick, tick + HORIZON)
        )
        found.append(
            Experience(before, np.asarray(commands[tick : tick + HORIZON] - origin, np.float32), after, episode)
        )
    return found


def scripted(gain: Any, offset: Any, delay_ticks: int, seed: int = 0) -> list[Experience]:
    """Joints that end up at gain * command + offset, so many ticks late."""
    rng, found = np.random.default_rng(seed), []
    for episode in range(4):
        commands = np.cumsum(np.repeat(rng.uniform(-0.08, 0.08, (40, 6)), 8, axis=0), axis=0)
        late = np.concatenate([np.repeat(commands[:1], delay_ticks + 1, axis=0), commands])[: len(commands) + 1]
        found += experiences(gain * late + offset + 0.001 * rng.standard_normal(late.shape), commands, episode)
    return found


def test_least_squares_finds_a_sign_a_gain_an_offset_and_a_delay_and_the_wrapper_undoes_them() -> None:
    gain, offset = np.array([1.0, -1.0, 0.7, 1.2, 1.0, 1.0]), np.array([0.0, 0.0, 0.1, 0.0, -0.05, 0.0])
    nominal, mine = (lines(scripted(*line), ROBOT) for line in (NOMINAL_LINE, (gain, offset, 3)))
    np.testing.assert_allclose(mine.value[0], gain, atol=0.03)
    wrapper = calibration(mine, nominal, ROBOT, with_delay=True)
    assert wrapper.early_ticks == pytest.approx(3, abs=0.5)
    wanted = np.random.default_rng(1).uniform(-0.5, 0.5, (5, HORIZON, 6))
    measured = np.random.default_rng(2).uniform(-0.5, 0.5, (5, 6))
    origin = np.where(DELTA, measured, 0.0)[:, None]
    sent = calibration(mine, nominal, ROBOT, with_delay=False)(wanted - origin, measured) + origin
    np.testing.assert_allclose(gain * sent + offset, wanted, atol=0.05)
    at_once = Calibration(np.ones(6), np.zeros(6), 2.5, DELTA)(wanted, measured)
    np.testing.assert_allclose(at_once[:, 0], (wanted[:, 2] + wanted[:, 3]) / 2)
    np.testing.assert_allclose(at_once[:, -2:], wanted[:, [-1, -1]])


def test_the_wrapper_leaves_a_nominal_robot_alone_and_what_nobody_knows() -> None:
    nominal, again = (lines(scripted(*NOMINAL_LINE, seed=seed), ROBOT) for seed in (0, 1))
    wrapper = calibration(again, mean_of([nominal, nominal]), ROBOT, with_delay=True)
    wanted = np.ones((1, HORIZON, 6))
    at_rest = np.zeros((1, 6))
    np.testing.assert_array_equal(wrapper(wanted, at_rest), wanted)
    unknown = lines(scripted(np.ones(6), np.zeros(6), 0)[:2], ROBOT)
    assert np.isnan(unknown.value).all()
    np.testing.assert_array_equal(calibration(unknown, nominal, ROBOT, with_delay=True)(wanted, at_rest), wanted)
    assert most_alike(unknown, [nominal, again]) == 0


def test_the_robot_that_answers_most_alike_is_found() -> None:
    kinds = [NOMINAL_LINE, (np.full(6, 0.8), np.zeros(6), 0), (np.ones(6), np.zeros(6), 3)]
    others = [lines(scripted(*kind, seed=3), ROBOT) for kind in kinds]
    assert [most_alike(lines(scripted(*kind, seed=4), ROBOT), others) for kind in kinds] == [0, 1, 2]


def moving(arm: Embodiment) -> Recording:
    return record([arm] * 4, [Task.REACH] * 4, range(4), [Behaviour.BABBLE] * 4, [arm] * 4, 136)


@pytest.fixture(scope="module")
def nominal_lines() -> Any:
    return lines_of(moving(Embodiment()))


def lines_of(recording: Recording) -> Any:
    return lines(
        [
            item
            for row in range(recording.commands.shape[1])
            for item in experiences(recording.readings[:, row], recording.commands[:, row], row)
        ],
        ROBOT,
    )


def test_on_the_bench_command_scale_and_delay_are_found_and_zeros_are_not(nominal_lines: Any) -> None:
    scale = np.array([0.85, 1.0, 1.0, 1.0, 1.15, 1.0])
    late = calibration(lines_of(moving(Embodiment(command_scale=scale, delay_s=0.2))), nominal_lines, ROBOT, True)
    assert 1 / late.factor[[0, 4]] == pytest.approx(scale[[0, 4]], abs=0.06)
    assert late.early_ticks == pytest.approx(0.2 * ROBOT.control_rate_hz, abs=0.8)
    pan_zero = np.array([0.12, 0.0, 0.0, 0.0, 0.0, 0.0])
    shifted = calibration(lines_of(moving(Embodiment(zero_rad=pan_zero))), nominal_lines, ROBOT, True)
    assert shifted.factor[0] == pytest.approx(1.0, abs=0.05)
    assert shifted.shift[0] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("family", ["camera", "wrist_camera", "base", "zeros"])
def test_who_knows_what_shifted_fits_it_to_landmarks(family: str) -> None:
    (arm,) = units(family, 1, 5)
    recording = moving(arm)
    made = [
        item for row in range(4) for item in experiences(recording.readings[:, row], recording.commands[:, row], row)
    ]
    found = hand_eye(family, arm, made, CAMERAS if family == "camera" else ("wrist",), seed=0)
    for field, most in {
        "front_position_m": 0.005,
        "front_rotation_rad": 0.005,
        "wrist_position_m": 0.002,
        "wrist_tilt_rad": 0.01,
        "base_position_m": 0.002,
        "base_yaw_rad": 0.005,
        "zero_rad": 0.005,
    }.items():
        np.testing.assert_allclose(getattr(found, field), getattr(arm, field), atol=most)
    assert found.wrist_mirrored == arm.wrist_mirrored
    turn = found.wrist_roll_rad - arm.wrist_roll_rad
    assert abs((turn + np.pi) % (2 * np.pi) - np.pi) < 0.01


def test_what_is_known_is_undone_in_pictures_states_and_commands() -> None:
    zero = np.array([0.1, -0.1, 0.05, 0.0, 0.1, 0.0])
    arm = Embodiment(front_rotation_rad=np.array([0.05, -0.1, 0.1]), wrist_roll_rad=1.2, zero_rad=zero)
    tables = start([Embodiment()], assign([Task.REACH], [3]), [3])
    state = State(HOME_RAD[None], tables.cube_m, tables.cube_quat, tables.pad_m)
    seen, wanted = (draw(skeletons([one]), state, 96)[0] for one in (arm, Embodiment()))
    reading = arm.reading(HOME_RAD).astype(np.float32)
    undone = Undone(arm).observation(Observation(dict(zip(("front", "wrist"), seen, strict=True)), reading, "go", 0))
    np.testing.assert_allclose(undone.state, HOME_RAD, atol=1e-6)
    chunk = np.where(DELTA, 0.1, HOME_RAD + 0.1) + np.zeros((1, HORIZON, 6))
    there = Undone(arm).commands(chunk, reading[None].astype(float)) + np.where(DELTA, reading, 0.0)
    np.testing.assert_allclose(there, arm.command_for(HOME_RAD + 0.1) + 0 * chunk, atol=1e-6)
    for camera, name in enumerate(("front", "wrist")):
        off, was_off = (
            np.abs(image.astype(float) - wanted[camera])[24:72, 24:72].mean()
            for image in (undone.images[name], seen[camera])
        )
        assert off < 0.4 * was_off


def test_each_family_is_one_kind_of_shift_and_its_units_are_the_same_in_any_number() -> None:
    assert set(FORMULAS) <= set(FAMILIES)
    few, more = units("zeros", 2, 9), units("zeros", 4, 9)
    assert [a.vector().tolist() for a in few] == [a.vector().tolist() for a in more[:2]]
    assert not np.array_equal(units("zeros", 1, 10)[0].vector(), few[0].vector())
    changed = [name for name, value in vars(few[0]).items() if not np.array_equal(value, getattr(Embodiment(), name))]
    assert changed == ["zero_rad"]
