"""Who sees whom: attention masks, positions, and the rotation that carries a position into keys and queries."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ATTENTION_MASK_VALUE = -2.3819763e38  # openpi's; finite, so that a row with nothing to see stays finite


def make_att_2d_masks(
    pad_masks: Tensor, att_masks: Tensor, block_diagonal_ranges: Sequence[tuple[int, int]] = ()
) -> Tensor:
    """(B, N, N) bool, rows ask and columns answer.

    Query i sees key j iff both are valid and cumsum(att_masks)[j] <= cumsum(att_masks)[i] (big_vision's rule): a 1 in
    `att_masks` (B, N) opens a block that everything before it cannot see. Tokens in one of `block_diagonal_ranges`
    (half-open [start, end)) see no token of another range, unless one of both lies inside the other.
    `pad_masks` (B, N) bool is True where a token is real. `att_masks` of shape (1, N) are those of every row.
    """
    if pad_masks.dim() != 2 or att_masks.shape not in (pad_masks.shape, (1, pad_masks.shape[1])):
        raise ValueError(f"masks must both be (B, N), got {tuple(pad_masks.shape)} and {tuple(att_masks.shape)}")
    block = torch.cumsum(att_masks.long(), dim=1)
    visible = block[:, None, :] <= block[:, :, None]
    for a_start, a_end in block_diagonal_ranges:
        for b_start, b_end in block_diagonal_ranges:
            if a_end <= b_start or b_end <= a_start:
                visible[:, a_start:a_end, b_start:b_end] = False
    return visible & pad_masks[:, None, :] & pad_masks[:, :, None]


def suffix_mask(
    prefix_pad_masks: Tensor, pad_masks: Tensor, att_masks: Tensor, ranges: list[tuple[int, int]] | None = None
) -> Tensor:
    """(B, N, P + N) bool: the suffix sees every valid prefix token, and itself as its att masks say."""
    own = make_att_2d_masks(pad_masks, att_masks[None], ranges or ())
    prefix = prefix_pad_masks[:, None, :] & pad_masks[:, :, None]
    return torch.cat([prefix, own], dim=2)


def additive_mask(visible: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, Q, K) bool -> (B, 1, Q, K): 0 where visible, ATTENTION_MASK_VALUE where not."""
    hidden = max(ATTENTION_MASK_VALUE, torch.finfo(dtype).min)
    values = torch.tensor([0.0, hidden], dtype=dtype, device=visible.device)
    return torch.where(visible, values[0], values[1])[:, None]


def prefix_positions(pad_masks: Tensor) -> Tensor:
    """cumsum - 1 (B, P): padding repeats the last position, a missing first camera gets -1."""
    return torch.cumsum(pad_masks.long(), dim=1) - 1


def suffix_positions(prefix_pad_masks: Tensor, suffix_pad_masks: Tensor, num_e_rows: int) -> Tensor:
    """(B, N) from the number of valid prefix tokens on. E's rows share the first position."""
    counted = suffix_pad_masks[:, num_e_rows:].long()
    positions = torch.cumsum(counted, dim=1) - 1
    positions = torch.cat([torch.zeros_like(suffix_pad_masks[:, :num_e_rows], dtype=torch.long), positions], dim=1)
    return positions + prefix_pad_masks.long().sum(dim=1, keepdim=True)


def rotary_tables(position_ids: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and signed sin, each (B, 1, N, head_dim) float32, base 10000 (RoPE, Su et al. 2021, halves rotated)."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    angle = position_ids.float()[..., None] * (1.0 / 10000.0**exponent)
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def apply_rotary(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate (B, heads, N, head_dim) by the tables of its positions."""
    cos, signed_sin = tables
    first, second = x.chunk(2, dim=-1)
    swapped = torch.cat([second, first], dim=-1)
    return torch.addcmul(x * cos.to(x.dtype), swapped, signed_sin.to(x.dtype))
