"""Tokens that are made of shifts: written, read, refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vla_align_ros.policy.made_tokens import from_tensors, to_tensors
from vla_align_ros.training.bank import TokenBank

CPU, SHAPE = torch.device("cpu"), (2, 8)


@pytest.fixture
def bank() -> TokenBank:
    torch.manual_seed(0)
    return TokenBank(5, *SHAPE, np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))


def test_what_is_read_makes_the_bank_that_was_written(bank: TokenBank) -> None:
    assert bank.made is not None
    found = from_tensors(to_tensors(bank.made, slice(3)), *SHAPE, CPU)
    assert found is not None
    torch.testing.assert_close(found.offsets(found.shifts), bank.offsets()[:3].detach())
    assert not any(p.requires_grad for p in found.network.parameters())


def test_tokens_that_were_each_learned_by_itself_are_made_of_nothing() -> None:
    assert TokenBank(3, *SHAPE).made is None
    assert from_tensors({"offsets": torch.zeros(3, *SHAPE)}, *SHAPE, CPU) is None


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("network.0.weight"), "does not make"),
        (lambda tensors: tensors.update({"network.0.weight": torch.ones(7, 7)}), "does not make"),
        (lambda tensors: tensors.update({"network.9.weight": torch.ones(7)}), "does not make"),
        (lambda tensors: tensors["network.2.bias"].fill_(torch.nan), "finite"),
        (lambda tensors: tensors["shifts"].fill_(torch.inf), "finite"),
        (lambda tensors: tensors.update(shifts=torch.zeros(3)), "shape"),
    ],
)
def test_what_does_not_fit_is_refused(bank: TokenBank, change: Change, said: str) -> None:
    assert bank.made is not None
    tensors = {name: value.detach().clone() for name, value in to_tensors(bank.made, slice(3)).items()}
    change(tensors)
    with pytest.raises(ValueError, match=said):
        from_tensors(tensors, *SHAPE, CPU)
