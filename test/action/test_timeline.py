from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.action.timeline import Timeline


def timeline(*starts: int) -> Timeline[int]:
    """Items that are called after their starts."""
    made = Timeline[int]()
    for start in starts:
        made.put(start, start)
    return made


def test_the_item_that_started_last_is_in_force() -> None:
    assert [timeline(10, 20).at(t) for t in (9, 10, 19, 20, 10**18)] == [None, 10, 10, 20, 20]


def test_the_latest_word_wins_over_all_that_does_not_start_before_it() -> None:
    assert list(timeline(10, 20, 30, 20)) == [10, 20]
    assert list(timeline(10, 20, 5)) == [5], "after a clock that jumped back nothing old comes to life again"


def test_between_covers_a_time_with_what_is_in_force() -> None:
    made = timeline(10, 20, 30)
    assert made.between(5, 30) == [(5, 10, None), (10, 20, 10), (20, 30, 20)]
    assert made.between(20, 40) == [(20, 30, 20), (30, 40, 30)]
    assert made.between(12, 13) == [(12, 13, 10)]
    assert made.between(12, 12) == []


def test_what_is_forgotten() -> None:
    made = timeline(10, 20, 30, 40)
    made.forget_before(25)
    assert list(made) == [20, 30, 40]
    made.forget_after(30)
    assert list(made) == [20, 30]
    made.keep_newest(1)
    assert list(made) == [30]
    made.forget_before(0)
    assert len(made) == 1


@given(st.lists(st.integers(0, 20), max_size=8), st.integers(-1, 21), st.integers(0, 22))
def test_between_says_what_at_says(starts: list[int], start: int, length: int) -> None:
    made = timeline(*starts)
    pieces = made.between(start, start + length)
    assert [t for from_ns, until_ns, _ in pieces for t in range(from_ns, until_ns)] == list(
        range(start, start + length)
    )
    assert all(made.at(t) == item for from_ns, until_ns, item in pieces for t in range(from_ns, until_ns))
