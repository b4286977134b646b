"""`make_att_2d_masks`: who sees whom."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vla_align_ros.policy.attention import additive_mask, make_att_2d_masks


def table(att: list[int], pads: list[int] | None = None, ranges: list[tuple[int, int]] | None = None) -> list[str]:
    """Rows ask, columns answer: x where visible."""
    pad_masks = torch.tensor([pads or [1] * len(att)]).bool()
    visible = make_att_2d_masks(pad_masks, torch.tensor([att]).bool(), ranges or ())
    return ["".join("x" if seen else "." for seen in row) for row in visible[0].tolist()]


def test_zeros_are_one_bidirectional_block() -> None:
    assert table([0, 0, 0]) == ["xxx", "xxx", "xxx"]


def test_ones_are_causal() -> None:
    assert table([1, 1, 1]) == ["x..", "xx.", "xxx"]


def test_a_one_opens_a_block_that_earlier_tokens_do_not_see() -> None:
    assert table([0, 0, 1, 0, 1]) == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]


def test_padding_neither_asks_nor_answers() -> None:
    assert table([0, 0, 0], pads=[1, 0, 1]) == ["x.x", "...", "x.x"]


def test_block_diagonal_ranges_do_not_see_each_other() -> None:
    assert table([0] * 5, ranges=[(1, 3), (3, 5)]) == ["xxxxx", "xxx..", "xxx..", "x..xx", "x..xx"]


def test_a_range_sees_the_ranges_inside_it() -> None:
    assert table([0] * 4, ranges=[(0, 4), (0, 2), (2, 4)]) == ["xx..", "xx..", "..xx", "..xx"]
    assert table([0] * 4, ranges=[(0, 4), (1, 2)]) == ["xxxx"] * 4


def test_masks_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must both be \(B, N\), got \(1, 3\) and \(1, 4\)"):
        make_att_2d_masks(torch.ones(1, 3).bool(), torch.ones(1, 4).bool())
    with pytest.raises(ValueError, match="must both be"):
        make_att_2d_masks(torch.ones(3).bool(), torch.ones(3).bool())


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_the_rule_of_openpi_in_words(tokens: list[tuple[bool, bool]]) -> None:
    pads, att = (torch.tensor([list(flags)]) for flags in zip(*tokens, strict=True))
    visible = make_att_2d_masks(pads, att)[0]
    for query in range(len(tokens)):
        for key in range(len(tokens)):
            block = [int(att[0, : index + 1].sum()) for index in (query, key)]
            assert bool(visible[query, key]) == bool(pads[0, query] and pads[0, key] and block[1] <= block[0])


def test_the_additive_mask_is_finite_in_every_float_type() -> None:
    visible: Tensor = torch.tensor([[[True, False]]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        mask = additive_mask(visible, dtype)
        assert mask.shape == (1, 1, 1, 2)
        assert torch.isfinite(mask).all()
        assert mask[0, 0, 0].tolist()[0] == 0
        assert mask[0, 0, 0].tolist()[1] < -6e4
