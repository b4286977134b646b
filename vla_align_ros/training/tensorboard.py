"""A run's log lines as TensorBoard events: a folder a stage, a curve for every number of its steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vla_align_ros.training.recipe import RecipeError

FLUSH_S = 10  # what a kill loses of the curves; log.jsonl has it all


class TensorBoard:
    """Call it with each line. Curves of a run that goes on continue where it was cut off."""

    def __init__(self, folder: Path) -> None:
        """Raises RecipeError where tensorboardX is not installed."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            text = "--tensorboard needs tensorboardX, which is not installed"
            raise RecipeError(f"{text}: pip install 'vla_align_ros[scale]'") from None
        self._make, self._folder = SummaryWriter, folder
        self._writers: dict[str, Any] = {}

    def __call__(self, line: dict[str, object]) -> None:
        step, stage = line.get("step"), str(line["stage"])
        if not isinstance(step, int):
            return
        if stage not in self._writers:  # what was written from this step on, before a kill, is hidden
            folder, suffix = str(self._folder / stage), f".{step}"  # two files of one second need two names
            self._writers[stage] = self._make(folder, purge_step=step, flush_secs=FLUSH_S, filename_suffix=suffix)
        for name, value in line.items():
            if isinstance(value, float):
                self._writers[stage].add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        for writer in self._writers.values():
            writer.close()
