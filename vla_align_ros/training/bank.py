"""A token for every training arm: E_i = E_0 + d_i, with d_i dropped now and then so that E_0 alone is a start."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenBank(nn.Module):
    """offsets: (arms, peft_num_tokens, W), the d_i. E_0 is the model's own `peft_prefix_token`."""

    def __init__(self, arms: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.randn(arms, num_tokens, width) * 0.02)

    def tokens(self, e_token: Tensor, arm: Tensor, keep: Tensor) -> Tensor:
        """E of each row (B, n, W). arm (B,) int64; keep (B,) float, 0 where d_i is dropped."""
        return e_token + self.offsets[arm] * keep[:, None, None]
