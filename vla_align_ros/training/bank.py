"""A token for every training robot: E_i = E_0 + d_i, with d_i dropped now and then so that E_0 alone is a start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vla_align_ros.types import Float32Array

HIDDEN = 128


class TokenBank(nn.Module):
    """The d_i of `robots`, each (num_tokens, width). E_0 is the model's own `peft_prefix_token`.

    shifts: (robots, P), what a source knows of how its robots differ: then a small network makes the tokens of it, and
    what one robot shows serves all that are like it. With None each d_i is learned from its own robot alone.
    """

    def __init__(self, robots: int, num_tokens: int, width: int, shifts: Float32Array | None = None) -> None:
        super().__init__()
        self.robots, self.shape, self.free = robots, (num_tokens, width), shifts is None
        if shifts is None:
            start = torch.randn(robots, num_tokens * width) * 0.02
            self.offset_of: nn.Module = nn.Embedding.from_pretrained(start, freeze=False)
            return
        self._differ = np.ptp(shifts, axis=0) > 0
        known = np.asarray(shifts)[:, self._differ]
        self._middle, self._spread = known.mean(axis=0), known.std(axis=0)
        self.offset_of = nn.Sequential(
            nn.Embedding.from_pretrained(self._inputs(shifts)),
            nn.Linear(known.shape[1], HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, num_tokens * width),
        )

    def offsets(self) -> Tensor:
        """All d_i, (robots, num_tokens, width)."""
        everyone = torch.arange(self.robots, device=next(self.parameters()).device)
        return self._of(everyone)

    @torch.no_grad()
    def of_shifts(self, shifts: Float32Array) -> Tensor:
        """The d of any robots that differ so, (N, P) -> (N, num_tokens, width), of a bank that has `shifts`."""
        assert isinstance(self.offset_of, nn.Sequential), "each token was learned by itself"
        inputs = self._inputs(shifts).to(next(self.parameters()).device)
        found: Tensor = self.offset_of[1:](inputs).unflatten(1, self.shape)
        return found

    def _inputs(self, shifts: Float32Array) -> Tensor:
        inputs = (np.asarray(shifts)[:, self._differ] - self._middle) / self._spread
        return torch.from_numpy(inputs.astype(np.float32))

    def tokens(self, e_token: Tensor, robot: Tensor, keep: Tensor) -> Tensor:
        """E of each row (B, num_tokens, width). robot: (B,) int64; keep: (B,) float, 0 where d_i is dropped."""
        return e_token + self._of(robot) * keep[:, None, None]

    def _of(self, robot: Tensor) -> Tensor:
        found: Tensor = self.offset_of(robot).unflatten(1, self.shape)
        return found
