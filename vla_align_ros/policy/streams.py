"""On a GPU, inference goes before alignment: each has a CUDA stream of its own. Not run on a GPU yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

FIRST, LAST = -1, 0  # CUDA's priorities: what is lower goes first


@contextmanager
def own_stream(device: torch.device, priority: int) -> Iterator[None]:
    """Work inside starts after what the caller's stream has been given, and that one waits for it afterwards. Nothing
    on a CPU."""
    if device.type != "cuda":
        yield
        return
    stream, callers = torch.cuda.Stream(device, priority=priority), torch.cuda.current_stream(device)
    stream.wait_stream(callers)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        callers.wait_stream(stream)
