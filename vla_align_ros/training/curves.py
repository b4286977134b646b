"""The training's curves, from `log.jsonl` to one picture for the model card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMOOTHED_STEPS = 50


def draw_curves(log: Path, picture: Path) -> None:
    """Every loss of the policy stage, and the E-Token's norm and gradient, as running means over 50 steps.

    A step that was run twice (before and after a cut) counts as it was run last.
    """
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    steps = {line["step"]: line for line in lines if line.get("stage") == "policy"}
    records = [steps[step] for step in sorted(steps)]
    figure = Figure(figsize=(10, 3.5))
    FigureCanvasAgg(figure)
    losses, token = figure.subplots(1, 2)
    for name in records[0]:
        axes = (
            losses
            if name.endswith("_loss")
            else token
            if name.startswith("e_token") and name.endswith("norm")
            else None
        )
        if axes is not None:
            window = min(SMOOTHED_STEPS, len(records))
            values = np.convolve([record[name] for record in records], np.ones(window) / window, "valid")
            axes.semilogy(values, label=name)
    for axes in (losses, token):
        axes.set_xlabel("step")
        axes.legend(fontsize=7)
    figure.savefig(picture, dpi=90, bbox_inches="tight")
