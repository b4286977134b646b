"""Tokens that a small network makes of how robots differ: a bank is learned so, and an alignment moves in its input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

HIDDEN = 128


@dataclass(frozen=True)
class MadeTokens:
    """How a bank's offsets were made: `network(shifts)` is the bank. shifts: (robots, P), of each robot how it differs
    from the others, each number over its spread among those of training. Nobody has to know what a number means."""

    network: nn.Sequential
    shifts: Tensor

    def offsets(self, shifts: Tensor) -> Tensor:
        """(N, P) -> (N, n, W), with a gradient."""
        found: Tensor = self.network(shifts)
        return found


def network(numbers: int, num_tokens: int, width: int) -> nn.Sequential:
    """(N, numbers) -> (N, num_tokens, width)."""
    return nn.Sequential(
        nn.Linear(numbers, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, num_tokens * width),
        nn.Unflatten(1, (num_tokens, width)),
    )


def to_tensors(made: MadeTokens, robots: slice) -> dict[str, Tensor]:
    """What is written beside the offsets of a bank, of some robots."""
    weights = {f"network.{name}": value for name, value in made.network.state_dict().items()}
    return {"shifts": made.shifts[robots], **weights}


def from_tensors(tensors: dict[str, Tensor], num_tokens: int, width: int, device: torch.device) -> MadeTokens | None:
    """What `to_tensors` wrote; None where a bank's tokens were each learned by itself. Raises ValueError for tensors
    that do not fit each other, or are not finite."""
    if "shifts" not in tensors:
        return None
    shifts, prefix = tensors["shifts"], "network."
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if shifts.dim() != 2 or not all(bool(value.isfinite().all()) for value in (shifts, *found.values())):
        raise ValueError(f"expected finite `shifts` of shape (robots, P) and a finite network, got {shifts.shape}")
    made = network(shifts.shape[1], num_tokens, width)
    try:
        made.load_state_dict(found)
    except RuntimeError as error:
        raise ValueError(
            f"`network` does not make ({num_tokens}, {width}) of {shifts.shape[1]} numbers: {error}"
        ) from None
    return MadeTokens(made.to(device, torch.float32).requires_grad_(False), shifts.to(device, torch.float32))
