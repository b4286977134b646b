"""The share of a real bank's gain that a bank of virtual robots gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from virtual_robots import summary


def an_arm(before: float, after: float | None = None) -> dict[str, Any]:
    stages = {"before": before} if after is None else {"before": before, "proposed": after + 0.05, "after": after}
    found: dict[str, Any] = {"success": stages, "action_error": dict.fromkeys(stages, 0.1)}
    return found if after is None else {**found, "accepted": True}


def test_gains_are_over_the_model_that_learned_of_no_bank_where_there_is_one() -> None:
    found = {"virtual": [an_arm(0.5, 0.7)] * 3, "real": [an_arm(0.6, 0.9)] * 3}
    assert summary(found, exact=True)["share"]["mean"] == pytest.approx(0.2 / 0.4)
    found["none"] = [an_arm(0.4)] * 3
    told = summary(found, exact=True)
    assert told["share"]["mean"] == pytest.approx(0.3 / 0.5)
    assert told["share_without_guard"]["mean"] == pytest.approx(0.35 / 0.55)
    assert told["none"]["success"]["before"]["mean"] == pytest.approx(0.4)
    assert list(told["none"]["success"]) == ["before"]
    assert told["real"]["accepted"] == 3


def test_there_is_no_share_of_hardly_any_gain() -> None:
    found = {"virtual": [an_arm(0.9, 0.9)] * 3, "real": [an_arm(0.9, 0.93)] * 3}
    assert np.isnan(summary(found, exact=False)["share"]["mean"])
