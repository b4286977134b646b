"""The diagnosis finds what a robot does with its commands, from commands and joint states alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.alignment.diagnosis import FieldDiagnosis, diagnose, measured_ranges
from vla_align_ros.robot.description import ActionField, Joint, RobotDescription, StateField
from vla_align_ros.types import Experience, Observation

HORIZON, STRIDE, PERIOD_S = 8, 4, 0.1


def robot(kind: str) -> RobotDescription:
    names = ("shoulder", "elbow")
    return RobotDescription(
        joints={name: Joint(position=(-9.0, 9.0), velocity_max=4.0) for name in names},
        state=tuple(StateField(joint=name) for name in names),
        action=tuple(ActionField(joint=name, kind=kind) for name in names),  # type: ignore[arg-type]
        cameras={"base": "base"},
        control_rate_hz=1 / PERIOD_S,
        execute=4,
    )


def lived(
    kind: str,
    gain: Any,
    delay_ticks: int = 0,
    noise: float = 0.003,
    seed: int = 0,
    ticks: int = 400,
    offset: float = 0.0,
) -> list[Experience]:
    """A robot that does gain * command after a delay, in two episodes."""
    rng, made = np.random.default_rng(seed), []
    gain = np.asarray(gain)
    for episode in range(2):
        velocity = np.repeat(rng.uniform(-1, 1, (ticks // HORIZON + 1, 2)), HORIZON, axis=0)[:ticks]
        velocity += 0.2 * rng.standard_normal(velocity.shape)
        commanded = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity * PERIOD_S, axis=0)])
        late = np.concatenate([np.zeros((delay_ticks, 2)), commanded])[: len(commanded)]
        measured = gain * late + offset + noise * rng.standard_normal(late.shape)
        for k in range(0, ticks - HORIZON, STRIDE):
            stamp_ns = round((episode * 10_000 + k) * PERIOD_S * 1e9)
            ends = [
                Observation({}, measured[t].astype(np.float32), "go", stamp_ns + round((t - k) * PERIOD_S * 1e9))
                for t in (k, k + HORIZON)
            ]
            sent = {
                "velocity": velocity[k : k + HORIZON],
                "position": commanded[k + 1 : k + 1 + HORIZON],
                "delta_position": commanded[k + 1 : k + 1 + HORIZON] - measured[k].astype(np.float32),
            }[kind]
            made.append(Experience(ends[0], sent.astype(np.float32), ends[1], episode))
    return made


KINDS = ["velocity", "position", "delta_position"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_reversed_and_a_weak_joint_are_told_with_intervals(kind: str) -> None:
    shoulder, elbow = diagnose(lived(kind, [0.7, -1.02]), robot(kind))
    assert shoulder.gain == pytest.approx(0.7, abs=0.02)
    assert elbow.gain == pytest.approx(-1.02, abs=0.02)
    assert elbow.gain_interval is not None
    assert elbow.gain_interval[0] <= elbow.gain <= elbow.gain_interval[1] < 0
    assert "moves less than commanded" in shoulder.sentence()
    assert "elbow moves against its command" in elbow.sentence()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay_ticks", [0, 1, 3])
def test_a_delay_is_told_apart_from_a_gain(kind: str, delay_ticks: int) -> None:
    for found in diagnose(lived(kind, [1.0, 1.0], delay_ticks), robot(kind)):
        assert found.delay_s == pytest.approx(delay_ticks * PERIOD_S, abs=0.026)
        assert found.gain == pytest.approx(1.0, abs=0.03)
        assert "moves as commanded" in found.sentence()


def test_an_offset_is_told_of_position_commands_alone() -> None:
    shoulder, _ = diagnose(lived("position", [1.0, 1.0], offset=0.25), robot("position"))
    assert shoulder.offset == pytest.approx(0.25, abs=0.01)
    assert diagnose(lived("velocity", [1.0, 1.0], offset=0.25), robot("velocity"))[0].offset is None


def test_a_joint_that_stands_still_is_called_so() -> None:
    shoulder, elbow = diagnose(lived("velocity", [1.0, 0.0]), robot("velocity"))
    assert elbow.still > 0.9
    assert shoulder.still < 0.05
    assert "stands still" in elbow.sentence()


def test_a_joint_that_follows_somebody_elses_commands_does_not_follow() -> None:
    mine, others = lived("velocity", [1.0, 1.0]), lived("velocity", [1.0, 1.0], seed=1)
    mixed = [
        Experience(a.observation, b.commands, a.next_observation, a.episode) for a, b in zip(mine, others, strict=True)
    ]
    found = diagnose(mixed, robot("velocity"))[0]
    assert found.strayed > 0.5
    assert "does not follow its command" in found.sentence()


@pytest.mark.parametrize("experiences", [[], lived("velocity", [1.0, 1.0], ticks=24)])
def test_too_little_says_nothing_instead_of_something_wrong(experiences: list[Experience]) -> None:
    for found in diagnose(experiences, robot("velocity")):
        assert found.gain is None
        assert "nothing can be said" in found.sentence()


def covered(found: FieldDiagnosis, gain: float) -> bool:
    assert found.gain_interval is not None
    return found.gain_interval[0] <= gain <= found.gain_interval[1]


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    hits = [
        covered(field, 0.9)
        for seed in range(30)
        for field in diagnose(lived("velocity", [0.9, 0.9], noise=0.03, seed=seed), robot("velocity"))
    ]
    assert np.mean(hits) > 0.85


@given(st.floats(0.2, 2.0), st.sampled_from([-1, 1]), st.integers(0, 1000))
def test_every_gain_is_found(size: float, sign: int, seed: int) -> None:
    found = diagnose(lived("velocity", [sign * size, 1.0], seed=seed), robot("velocity"))[0]
    assert found.gain == pytest.approx(sign * size, abs=0.03 + 0.02 * size)


def test_each_state_field_says_from_where_to_where_it_went_in_which_unit() -> None:
    joints = {"arm": Joint((-1.0, 1.0), 1.0), "finger": Joint((0.0, 0.05), 1.0, unit="m")}
    fields = [("arm", "position"), ("arm", "velocity"), ("finger", "position"), ("finger", "effort")]
    described = RobotDescription(
        joints=joints,
        state=tuple(
            StateField(joint=name, entry=entry, name=f"{name}.{entry}", unit=joints[name].unit)
            for name, entry in fields
        ),
        action=(ActionField(joint="arm", kind="position"),),
        cameras={"base": "base"},
        control_rate_hz=10.0,
        execute=1,
    )
    ends = [
        Observation({}, np.array(state, np.float32), "go", 0) for state in ((57.0, 0, 0.01, -5), (58.0, 1, 0.02, 5))
    ]
    found = measured_ranges([Experience(ends[0], np.zeros((1, 1), np.float32), ends[1], 0)], described)
    assert [item.sentence() for item in found] == [
        "arm.position from 57.000 to 58.000 rad (position of arm), beyond the limits [-1.0, 1.0]: "
        "are they this joint's, and is it in rad?",
        "arm.velocity from 0.000 to 1.000 rad/s (velocity of arm)",
        "finger.position from 0.010 to 0.020 m (position of finger)",
        "finger.effort from -5.000 to 5.000 N (effort of finger)",
    ]
    assert measured_ranges([], described)[0].sentence() == "arm.position: nothing measured (position of arm, rad)"
