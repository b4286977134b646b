"""What may be claimed of a family, and a benchmark that goes on where it was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import alignment
import numpy as np
import pytest
from calibration import Lines
from gates import by_task, could_pass, gate, share, summary
from results_table import FAMILY_HEAD, family_rows
from resumable import pieces_file, resumed

from vla_align_ros.bench.so101.bench import So101

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


def test_each_task_has_its_own_numbers() -> None:
    rows = {"shipped": [1, 0, 1, 0], "after": [1, 1, 1, 0]}
    unit = a_unit(dict.fromkeys(ROWS, 0.0))
    unit["rows"] = {name: row | {"success": rows.get(name, [0, 0, 0, 0])} for name, row in unit["rows"].items()}
    reach, pick = (summary(part, ["least_squares"], cap=1.0) for part in by_task([unit] * 2, 2))
    assert [part["before"]["success"]["mean"] for part in (reach, pick)] == [1.0, 0.0]
    assert [part["after"]["success"]["mean"] for part in (reach, pick)] == [1.0, 0.5]
    assert summary([unit] * 2, ["least_squares"], cap=1.0)["after"]["success"]["mean"] == 0.75


def test_a_family_that_does_too_little_harm_is_listed_without_the_rows_that_cost_most() -> None:
    harmless = [a_unit({"e_0": 0.5, "shipped": 0.75, "least_squares": 0.6, "pick": 0.7, "after": 0.8})] * 3
    assert not could_pass(harmless)
    assert could_pass([a_unit({"e_0": 0.7, "shipped": 0.5})])
    found = summary(harmless, ["least_squares"], cap=1.0)
    assert not found["gate"]
    assert not found["won"]
    assert found["share"]["mean"] is None
    assert "too little harm" in found["labels"]
    (row,) = family_rows({"families": {"base": found}})
    assert len(row) == len(FAMILY_HEAD)
    assert dict(zip(FAMILY_HEAD, row, strict=True)) == {
        "family": "base",
        "before": "0.75",
        "best classical": "0.75",
        "randomised": "",
        "hand-eye": "",
        "pick alone": "0.70",
        "**`align()`**": "**0.80**",
        "5 demonstrations": "",
        "labels": "",
        "gate": "no",
        "share of the gap": "",
        "worse": "0%",
    }


def test_families_are_measured_one_by_one_and_a_rival_joins_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"base": 0.9, "wrist_camera": 0.4}
    asked = list[str]()

    def each_arm(work: Any, model: str, arguments: Any, jobs: int, device: str) -> Any:
        for given in arguments:
            asked.append(work.__name__)
            rate = next((rates[part] for part in given if isinstance(part, str)), 0.0)
            unit = {
                "own_token": {"own": 0.95},
                "one_unit": dict.fromkeys((*ROWS[:4], *alignment.CLASSICAL, "pick"), rate),
                "other_rows": {"demonstrations_5": 0.8, "labels": 0.95},
                "randomised": {"randomised": 0.5},
            }
            if work is alignment.answers_of:
                yield [Lines(*np.zeros((2, 3, 6)))] * alignment.AT_ONCE
            elif work in (alignment.one_unit, alignment.other_rows):
                yield a_unit(unit[work.__name__])
            else:
                (row,) = a_unit(unit[work.__name__])["rows"].values()
                yield row

    monkeypatch.setattr(alignment.arms, "each_arm", each_arm)
    monkeypatch.setattr(alignment, "training_arms", lambda folder, recipe: [None] * 12)

    def run(randomised: str | None) -> dict[str, Any]:
        names, file = ["base", "wrist_camera"], tmp_path / "so101.json"
        return alignment.run(names, "so101", randomised, 3, 2, 1.0, 20, 0.5, 1, "cpu", file)["families"]

    found = run(None)
    assert [asked.count(name) for name in ("one_unit", "other_rows", "randomised")] == [4, 2, 0]
    assert (found["base"]["gate"], found["wrist_camera"]["gate"]) == (False, True)
    assert found["wrist_camera"]["share"]["mean"] == pytest.approx(0.0)
    assert found["wrist_camera"]["cpu_seconds_a_unit"] == {"align": 2.0}
    asked.clear()
    later = run("so101")["wrist_camera"]
    assert asked == ["randomised"] * 4, "all else was kept"
    assert later["randomised"]["success"]["mean"] == 0.5
    assert later["share"] == found["wrist_camera"]["share"]


def test_of_a_model_of_two_tasks_each_stands_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def a_pick_that_fails(rows: list[str], rate: float) -> dict[str, Any]:
        unit = a_unit(dict.fromkeys(rows, rate), episodes=10)
        for row in unit["rows"].values():
            row["success"] = [done for pick in row["success"] for done in (True, pick)]  # reach, pick in turn
        return unit

    def each_arm(work: Any, model: str, arguments: Any, jobs: int, device: str) -> Any:
        for _ in arguments:
            asked.append(work.__name__)
            if work is alignment.answers_of:
                yield [Lines(*np.zeros((2, 3, 6)))] * alignment.AT_ONCE
            elif work is alignment.own_token:
                yield a_pick_that_fails(["own"], 0.9)["rows"]["own"]
            elif work is alignment.one_unit:
                yield a_pick_that_fails([*ROWS[:4], *alignment.CLASSICAL, "pick"], 0.6)
            else:
                yield a_pick_that_fails(["demonstrations_5", "labels"], 0.9)

    monkeypatch.setattr(alignment.arms, "each_arm", each_arm)
    monkeypatch.setattr(alignment, "training_arms", lambda folder, recipe: [None] * 12)
    monkeypatch.setattr(alignment, "bench_of", lambda recipe: So101().narrowed(["reach", "pick"], []))
    found = alignment.run(["base"], "so101", None, 3, 2, 1.0, 20, 0.5, 1, "cpu", tmp_path / "so101.json")
    assert asked.count("other_rows") == 2, "over both tasks it succeeds in 0.8"
    assert {task: told["own_token_cap"]["mean"] for task, told in found["by_task"].items()} == {"reach": 1, "pick": 0.9}
    rows = [dict(zip(FAMILY_HEAD, row, strict=True)) for row in family_rows(found)]
    assert [(row["family"], row["before"], row["labels"], row["gate"]) for row in rows] == [
        ("base, reach", "1.00", "1.00", "no"),
        ("base, pick", "0.60", "0.90", "passed"),
    ]


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
