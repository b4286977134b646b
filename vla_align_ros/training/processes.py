"""One process that trains alone, or several that `accelerate launch` started, which train one model together.

A batch has `batch_parts` parts, each with its own samples and draws; a process computes its share of them and gradients
are averaged, so that many processes do what one does.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Final

import torch
from torch import Tensor, nn

from vla_align_ros.training.recipe import RecipeError

PREPARING: Final = timedelta(hours=12)  # the others wait for the main one's pretraining; NCCL gives up after 10 minutes


def is_main() -> bool:
    """Whether this is the one that writes files and says how far it is."""
    return os.environ.get("RANK", "0") == "0"


class Processes:
    """device: where this process computes; with several on GPUs, each has its own."""

    def __init__(self, device: torch.device) -> None:
        """Raises RecipeError where several were started and accelerate is not there."""
        self._accelerator: Any = None
        self.device, self.index, self.count = device, 0, 1
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # as a launcher says
            return
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
        except ImportError:
            text = "several processes need accelerate, which is not installed"
            raise RecipeError(f"{text}: pip install 'vla_align_ros[scale]'") from None
        # Of the VLM's last layer keys and values alone are used.
        parts_may_be_unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        handlers = [parts_may_be_unused, InitProcessGroupKwargs(timeout=PREPARING)]
        self._accelerator = Accelerator(cpu=device.type == "cpu", kwargs_handlers=handlers)
        if not str(self._accelerator.distributed_type.value).startswith("MULTI_"):
            kind = self._accelerator.distributed_type.value
            text = "`e_token_attention_bias` is one number, which FSDP2 does not take"
            raise RecipeError(f"each process holds the whole model (DDP), not a shard of it by {kind}: {text}")
        self.device = self._accelerator.device
        self.index, self.count = self._accelerator.process_index, self._accelerator.num_processes

    def own_parts(self, batch_parts: int) -> range:
        """Which parts of each batch this process computes. Raises RecipeError where they cannot be shared evenly."""
        if batch_parts % self.count:
            raise RecipeError(
                f"{self.count} processes cannot share a batch of {batch_parts} parts: set batch_parts to a multiple"
            )
        return range(self.index, batch_parts, self.count)

    def main_first(self) -> AbstractContextManager[None]:
        """The main process goes through it before the others do, which find the files that it made."""
        context: AbstractContextManager[None] = (
            nullcontext() if self._accelerator is None else self._accelerator.main_process_first()
        )
        return context

    def together(self, objective: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:
        """Both, so that a backward pass averages gradients over the processes."""
        if self._accelerator is None:
            return objective, optimizer
        prepared: tuple[nn.Module, Any] = self._accelerator.prepare(objective, optimizer)
        return prepared

    def not_yet(self, objective: nn.Module, waiting: bool) -> AbstractContextManager[Any]:
        """While `waiting`, gradients add up in this process alone."""
        context: AbstractContextManager[Any] = (
            self._accelerator.no_sync(objective) if waiting and self._accelerator is not None else nullcontext()
        )
        return context

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, in each of them."""
        found: Tensor = values if self._accelerator is None else self._accelerator.reduce(values, "mean")
        return found

    def end(self) -> None:
        """Leave the others in order."""
        if self._accelerator is not None:
            self._accelerator.end_training()
