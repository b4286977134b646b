"""Seconds of experience, and when most of a gain is there."""

import pytest
from robot_seconds import robot_seconds, seconds_for

from vla_align_ros.types import Experience, Observation


def seen(at_s: float) -> Observation:
    return Observation({}, None, "", round(at_s * 1e9))  # type: ignore[arg-type]


def test_seconds_are_those_of_the_episodes_without_the_pauses_between() -> None:
    made = [
        Experience(seen(start), None, seen(start + 1.0), episode)  # type: ignore[arg-type]
        for start, episode in ((0.0, 0), (0.5, 0), (2.0, 0), (100.0, 1))
    ]
    assert robot_seconds(made) == pytest.approx(4.0)
    assert robot_seconds(made[:1]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rates", "wanted"),
    [
        ([0.8, 0.9, 1.0], 10.0),
        ([0.4, 0.6, 1.0], 32.0),
        ([0.0, 0.0, 0.5], 36.0),
        ([0.9, 0.9, 0.9], 8.0),
        ([0.2, 0.3, 0.0], None),
    ],
)
def test_when_most_of_the_gain_is_there(rates: list[float], wanted: float | None) -> None:
    before = 0.0
    if rates == [0.4, 0.6, 1.0]:
        before = 0.2
    found = seconds_for(0.8, before, [10.0, 20.0, 40.0], rates)
    assert found == (None if wanted is None else pytest.approx(wanted))
