"""Whether the losses know a robot by its token, as the training log and `doctor` say it; and tokens made of shifts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vla_align_ros.bench.reach2.source import Reach2Source, open_sources
from vla_align_ros.bench.so101.embodiment import Embodiment
from vla_align_ros.bench.so101.source import So101Source
from vla_align_ros.bench.so101.tasks import Task
from vla_align_ros.cli.doctor import check_own_token
from vla_align_ros.experience.source import Labels, Shifts
from vla_align_ros.policy import Policy, load_policy
from vla_align_ros.training import own_token
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.own_token import Told
from vla_align_ros.zoo import find_model

NONE = TokenBank(1, 2, 8)  # of tokens that were each learned by itself nothing is asked


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_token, "ROBOTS", 2)
    monkeypatch.setattr(own_token, "COUNT", 24)


@pytest.fixture(scope="module")
def tiny() -> Policy:
    return load_policy(find_model("tiny"), "cpu")


@pytest.fixture(scope="module")
def source() -> Reach2Source:
    training = open_sources(0).training
    assert isinstance(training, Reach2Source)
    return training


def test_the_losses_know_a_robot_by_its_own_token_and_not_by_another_ones(
    tiny: Policy, source: Reach2Source, few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = own_token.measure(tiny, source, NONE, 0)["all (2)"]
    assert known["inverse_dynamics"].told > 0.9
    assert known["inverse_dynamics"].own < 0.7 * known["inverse_dynamics"].far
    monkeypatch.setattr(tiny, "_alignment", replace(tiny.alignment, bank=tiny.alignment.bank.roll(17, 0)))
    assert own_token.measure(tiny, source, NONE, 0)["all (2)"]["inverse_dynamics"].told < 0.9


def test_a_family_that_the_losses_do_not_see_is_not_told(tiny: Policy, source: Reach2Source, few: None) -> None:
    """The first number decides about the token; the second one decides about nothing that anybody sees."""
    rows = len(source.robots)
    values = np.stack([np.arange(rows) % 2, np.arange(rows)], 1).astype(np.float32)

    def exchanged(row: int, family: str, other: int) -> np.ndarray:
        column, found = ["turned", "painted"].index(family), values[row].copy()
        found[column] = values[other, column]
        return found

    families = tuple(("turned", "painted") if row % 2 else ("painted",) for row in range(rows))
    bank = TokenBank(rows, *tiny.e_0.shape, values)
    own = tiny.alignment.bank

    def of_shifts(shifts: np.ndarray) -> torch.Tensor:
        """Of row 1, and with the first number 0 another arm's."""
        return torch.stack([own[1] if one[0] else own[40] for one in shifts])

    bank.of_shifts = of_shifts  # type: ignore[method-assign]
    shifted = replace(source, shifts=Shifts(values, families, exchanged))
    policy_bank = own[[0, 1]]
    asked = Policy(tiny.model, tiny.robot, replace(tiny.alignment, bank=policy_bank), tiny.weights_sha256, tiny.device)
    known = own_token.measure(asked, shifted, bank, 0)
    assert set(known) == {"turned (1)", "painted (1)"}
    assert known["turned (1)"]["inverse_dynamics"].told == 1.0
    assert known["painted (1)"]["inverse_dynamics"].told == 0.0, "the very same token"
    assert known["painted (1)"]["inverse_dynamics"].own == pytest.approx(known["painted (1)"]["inverse_dynamics"].far)


def test_another_robots_shift_in_one_family_changes_nothing_else() -> None:
    arms = {
        "turned": Embodiment(wrist_roll_rad=1.0, zero_rad=np.full(6, 0.1)),
        "another": Embodiment(wrist_roll_rad=-2.0, tool_m=0.03),
        "as if": Embodiment(wrist_roll_rad=-2.0, zero_rad=np.full(6, 0.1)),
    }
    shifts = So101Source(arms, {Task.REACH: 1.0}, Labels((), lambda *_: None, lambda *_: None)).shifts  # type: ignore
    np.testing.assert_array_equal(shifts.exchanged(0, "wrist_roll", 1), shifts.values[2])
    np.testing.assert_array_equal(shifts.exchanged(2, "zeros", 0), shifts.values[2])


def test_doctor_warns_of_a_family_that_no_loss_tells(tmp_path: Path) -> None:
    assert not check_own_token(str(tmp_path))
    own_token.write(
        tmp_path,
        {
            "tool (6)": {"perception": Told(1.0, 1.0, 0.5), "inverse_dynamics": Told(0.3, 0.9, 0.98)},
            "delay (6)": {"perception": Told(1.0, 1.0, 0.5), "inverse_dynamics": Told(0.7, 0.7, 0.6)},
        },
    )
    tool, delay = check_own_token(str(tmp_path))
    assert (tool.name, tool.status) == ("own token tool (6)", "ok")
    assert "inverse_dynamics 98%" in tool.found
    assert (delay.name, delay.status) == ("own token delay (6)", "warn")
    assert "train longer" in delay.todo


def test_tokens_made_of_shifts_are_alike_for_robots_that_are_alike() -> None:
    torch.manual_seed(0)
    shifts = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [1.0, 5.0]], np.float32)  # the second number tells nothing
    bank = TokenBank(4, 2, 8, shifts)
    before = bank.offsets().detach()
    assert before.shape == (4, 2, 8)
    assert torch.equal(before[1], before[3])
    assert not torch.equal(before[1], before[2])
    optimizer = torch.optim.SGD(bank.parameters(), 0.1)
    bank.tokens(torch.zeros(2, 8), torch.tensor([1]), torch.ones(1)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(bank.offsets()[2], before[2])  # what robot 1 shows serves all
    assert torch.equal(bank.tokens(torch.ones(2, 8), torch.tensor([2]), torch.zeros(1))[0], torch.ones(2, 8))


def test_a_token_without_shifts_is_learned_from_its_own_robot_alone() -> None:
    bank = TokenBank(3, 2, 8)
    before = bank.offsets().detach().clone()
    bank.tokens(torch.zeros(2, 8), torch.tensor([1]), torch.ones(1)).square().sum().backward()
    torch.optim.SGD([p for p in bank.parameters() if p.requires_grad], 0.1).step()
    changed = (bank.offsets() != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]


def test_an_so101_says_how_it_is_shifted() -> None:
    arms = {
        "nominal": Embodiment(),
        "turned": Embodiment(wrist_roll_rad=math.pi),
        "turned the other way": Embodiment(wrist_roll_rad=-math.pi),
        "both": Embodiment(wrist_roll_rad=0.3, zero_rad=np.full(6, 0.1)),
    }
    labels = Labels((), lambda *_: None, lambda *_: None)  # type: ignore[arg-type, return-value]
    shifts = So101Source(arms, {Task.REACH: 1.0}, labels).shifts
    assert shifts.families == ((), ("wrist_roll",), ("wrist_roll",), ("wrist_roll", "zeros"))
    np.testing.assert_allclose(shifts.values[1], shifts.values[2], atol=1e-6)  # the same mount
    assert not np.allclose(shifts.values[0], shifts.values[1])
