"""What may be claimed of a family, and a benchmark that goes on where it was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gates import gate, share, summary
from resumable import pieces_file, resumed

ROWS = ("e_0", "shipped", "least_squares", "after", "labels")


@pytest.mark.parametrize(
    ("before", "classical", "labels", "cap", "failing"),
    [
        (0.5, 0.5, 0.9, 0.95, set()),
        (0.70, 0.70, 0.85, 0.94, set()),
        (0.71, 0.71, 0.95, 0.95, {"harmful_enough"}),
        (0.5, 0.5, 0.8, 0.95, {"a_token_can"}),
        (0.5, 0.76, 0.9, 0.95, {"nothing_simpler_does"}),
        (0.9, 0.9, 0.5, 0.95, {"harmful_enough", "a_token_can", "nothing_simpler_does"}),
    ],
)
def test_a_family_passes_the_gate_if_all_three_parts_hold(
    before: float, classical: float, labels: float, cap: float, failing: set[str]
) -> None:
    parts = gate(before, classical, labels, cap)
    assert {name for name, passed in parts.items() if not passed} == failing


def test_the_share_is_of_the_gap_that_nothing_simpler_closes() -> None:
    classical, labels = np.full(24, 0.5), np.full(24, 0.9)
    assert share(np.full(24, 0.7), classical, labels) == pytest.approx({"mean": 0.5, "low": 0.5, "high": 0.5})
    assert share(np.full(24, 0.4), classical, labels)["mean"] == pytest.approx(-0.25)
    spread = share(np.tile([0.3, 0.9], 12), classical, labels)
    assert spread["mean"] == pytest.approx(0.25)
    assert spread["low"] < 0.2 < 0.3 < spread["high"]
    assert share(labels, labels, labels) == {"mean": None, "low": None, "high": None}
    unsure = share(labels, np.tile([0.0, 1.0], 12), np.tile([1.0, 0.1], 12))
    assert unsure["mean"] is not None
    assert unsure["low"] is None


def a_unit(rates: dict[str, float], accepted: bool = True, episodes: int = 20) -> dict[str, Any]:
    """As `one_unit` finds it."""
    rows = {
        name: {"success": [place < round(rate * episodes) for place in range(episodes)], "action_error": 1.0 - rate}
        for name, rate in rates.items()
    }
    report = {"accepted": accepted, "reason": "kept" if accepted else "frames_late"}
    return {"rows": rows, "report": report, "seconds": {"align": 2.0}}


def test_the_best_row_of_each_kind_counts_and_what_got_worse_is_said() -> None:
    good = dict(zip(ROWS, (0.2, 0.4, 0.5, 0.8, 1.0), strict=True))
    bad = dict(zip(ROWS, (0.2, 0.4, 0.5, 0.0, 1.0), strict=True))
    found = summary([*[a_unit(good)] * 3, a_unit(bad, accepted=False)], ["least_squares"], cap=1.0)
    assert (found["before"]["is"], found["classical"]["is"]) == ("shipped", "least_squares")
    assert found["gate"]
    assert found["share"]["mean"] == pytest.approx((0.6 - 0.5) / 0.5)
    assert not found["won"]
    assert found["worse_fraction"] == 0.25
    assert found["accepted_fraction"] == 0.75
    assert "not measured" in found["randomised"]
    assert found["rows"]["after"]["each_unit"] == [0.8, 0.8, 0.8, 0.0]


def test_a_classical_row_that_does_harm_is_no_weaker_rival_than_doing_nothing() -> None:
    rates = dict(zip(ROWS, (0.2, 0.6, 0.1, 0.8, 1.0), strict=True))
    assert summary([a_unit(rates)] * 2, ["least_squares"], cap=1.0)["classical"]["is"] == "shipped"


def test_a_benchmark_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path, keys, asked = pieces_file(tmp_path / "a.json"), [{"unit": place} for place in range(4)], list[int]()

    def work(places: list[int]) -> Any:
        for place in places:
            if place == 2 and not asked.count(2):
                asked.append(place)
                raise KeyboardInterrupt
            asked.append(place)
            yield {"square": place**2}

    with pytest.raises(KeyboardInterrupt):
        resumed(path, keys, work)
    assert path is not None
    path.write_text(path.read_text() + '{"key": {"unit": 2}, "fou')  # cut off while it was written
    asked.clear()
    asked.append(2)
    assert resumed(path, keys, work) == [{"square": place**2} for place in range(4)]
    assert asked[1:] == [2, 3]
    assert resumed(path, keys, lambda places: pytest.fail("all was done"))[3] == {"square": 9}
    assert resumed(path, [{"unit": 0, "seed": 2}], lambda places: [{"square": 7}]) == [{"square": 7}]
    assert resumed(None, keys[:1], lambda places: [{"square": 0}]) == [{"square": 0}]
