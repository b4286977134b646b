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
    `pad_masks` (B, N) bool is True where a token is real.
    """
    if att_masks.dim() != 2 or pad_masks.shape != att_masks.shape:
        raise ValueError(f"masks must both be (B, N), got {tuple(pad_masks.shape)} and {tuple(att_masks.shape)}")
    block = torch.cumsum(att_masks.long(), dim=1)
    visible = block[:, None, :] <= block[:, :, None]
    visible = visible & pad_masks[:, None, :] & pad_masks[:, :, None]
    for a_start, a_end in block_diagonal_ranges:
        for b_start, b_end in block_diagonal_ranges:
            if a_end <= b_start or b_end <= a_start:
                visible[:, a_start:a_end, b_start:b_end] = False
    return visible


def additive_mask(visible: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, Q, K) bool -> (B, 1, Q, K): 0 where visible, ATTENTION_MASK_VALUE where not."""
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~visible, max(ATTENTION_MASK_VALUE, torch.finfo(dtype).min))[:, None]


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
