"""How far a training is: bars with the time left in a terminal, now and then a line in a file, or JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vla_align_ros.training.progress import Log

LINE_EVERY_S = 30.0


@contextmanager
def shown(totals: Mapping[str, int], as_json: bool) -> Iterator[Log]:
    """What to call with each log line. totals: steps of each stage."""
    console = Console(stderr=True)
    if as_json:
        yield lambda line: typer.echo(json.dumps(line))
    elif console.is_terminal:
        with _bars(totals, console) as log:
            yield log
    else:
        yield Lines(totals, console)


@contextmanager
def _bars(totals: Mapping[str, int], console: Console) -> Iterator[Log]:
    count = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=total, start=False) for name, total in totals.items()}
        begun: set[str] = set()

        def log(line: dict[str, object]) -> None:
            stage, step = str(line["stage"]), line.get("step")
            if not isinstance(step, int) or stage not in tasks:
                progress.console.print(line)
                return
            if stage not in begun:  # steps of an earlier call say nothing about how fast this one is
                progress.reset(tasks[stage], completed=step)
                begun.add(stage)
            progress.update(tasks[stage], completed=step + 1, description=" ".join([stage, *_loss(line)]))

        yield log


class Lines:
    """A line of a stage at its first and last step, and every LINE_EVERY_S between."""

    def __init__(self, totals: Mapping[str, int], console: Console) -> None:
        self._totals, self._console = totals, console
        self._begun: dict[str, tuple[int, float]] = {}  # first step, and when
        self._said_s = 0.0

    def __call__(self, line: dict[str, object]) -> None:
        stage, step, now = str(line["stage"]), line.get("step"), time.monotonic()
        if not isinstance(step, int) or stage not in self._totals:
            self._console.print(line, soft_wrap=True)
            return
        is_first, total = stage not in self._begun, self._totals[stage]
        first, since = self._begun.setdefault(stage, (step, now))
        if not (is_first or step + 1 == total or now - self._said_s >= LINE_EVERY_S):
            return
        self._said_s = now
        left_s = 0.0 if is_first else (now - since) / (step - first) * (total - step - 1)
        left = "" if is_first else f"{timedelta(seconds=round(left_s))} left"
        text = " ".join(filter(None, [stage, f"{step + 1}/{total}", *_loss(line), left]))
        self._console.print(text, soft_wrap=True, highlight=False)


def _loss(line: Mapping[str, object]) -> list[str]:
    found = [line[name] for name in ("total_loss", "presence_loss", "distillation_loss") if name in line]
    return [f"loss {value:.3f}" for value in found[:1] if isinstance(value, float)]
