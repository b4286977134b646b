"""A token for every training robot: E_i = E_0 + d_i, with d_i dropped now and then so that E_0 alone is a start."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from vla_align_ros.policy.made_tokens import MadeTokens, network
from vla_align_ros.types import Float32Array


class TokenBank(nn.Module):
    """The d_i of `robots`, each (num_tokens, width). E_0 is the model's own `peft_prefix_token`.

    shifts: (robots, P), what a source knows of how its robots differ: then a small network makes the tokens of it, and
    what one robot shows serves all that are like it. With None each d_i is learned from its own robot alone.
    """

    def __init__(self, robots: int, num_tokens: int, width: int, shifts: Float32Array | None = None) -> None:
        super().__init__()
        self.robots, self.free = robots, shifts is None
        self.shifts: Tensor
        if shifts is None:
            self.each = nn.Parameter(torch.randn(robots, num_tokens, width) * 0.02)
            return
        self._differ = np.ptp(shifts, axis=0) > 0
        known = np.asarray(shifts)[:, self._differ]
        self._middle, self._spread = known.mean(axis=0), known.std(axis=0)
        self.register_buffer("shifts", self._numbers(shifts), persistent=False)
        self.network = network(known.shape[1], num_tokens, width)

    @property
    def made(self) -> MadeTokens | None:
        """How the tokens are made; None where each is learned by itself."""
        return None if self.free else MadeTokens(self.network, self.shifts)

    def offsets(self) -> Tensor:
        """All d_i, (robots, num_tokens, width)."""
        everyone = torch.arange(self.robots, device=next(self.parameters()).device)
        return self._of(everyone)

    @torch.no_grad()
    def of_shifts(self, shifts: Float32Array) -> Tensor:
        """The d of any robots that differ so, (N, P) -> (N, num_tokens, width), of a bank that has `shifts`."""
        found: Tensor = self.network(self._numbers(shifts).to(self.shifts.device))
        return found

    def _numbers(self, shifts: Float32Array) -> Tensor:
        """Each over its spread."""
        numbers = (np.asarray(shifts)[:, self._differ] - self._middle) / self._spread
        return torch.from_numpy(numbers.astype(np.float32))

    def tokens(self, e_token: Tensor, robot: Tensor, keep: Tensor) -> Tensor:
        """E of each row (B, num_tokens, width). robot: (B,) int64; keep: (B,) float, 0 where d_i is dropped."""
        return e_token + self._of(robot) * keep[:, None, None]

    def _of(self, robot: Tensor) -> Tensor:
        found: Tensor = self.each[robot] if self.free else self.network(self.shifts[robot])
        return found
