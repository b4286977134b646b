"""The arms of several results of `alignment.py` as one: success and paired gains, with intervals over all arms.

    python benchmarks/pooled.py benchmarks/results/alignment_beyond_range.json other.json

For differences so small that the arms of one result say little.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import typer
from machine import write


def of_intervals(parts: list[dict[str, float]], arms_of_each: list[int]) -> dict[str, float]:
    """Mean over all arms, and its 95 % interval, from the means of the results and the widths of their intervals, as if
    each were normal: of the action error no result says each arm's."""
    shares = np.array(arms_of_each) / sum(arms_of_each)
    mean = float(shares @ [part["mean"] for part in parts])
    half = float(np.hypot.reduce(shares * [(part["high"] - part["low"]) / 2 for part in parts]))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def pooled(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of all arms together. results: what `alignment.py --json` writes."""
    each = [result["numbers"]["success"]["each_arm"] for result in results]
    if len({str(arm) for arm in each}) < len(each):
        raise typer.BadParameter("two of these results have the same arms")
    success = {stage: np.array([rate for arm in each for rate in arm[stage]]) for stage in each[0]}
    errors = [result["numbers"]["action_error"]["gain_of_gradient_over_pick"] for result in results]
    return {
        "commands": [result["about"]["command"] for result in results],
        "commits": [result["about"]["commit"] for result in results],
        "arms": len(success["best_known"]),
        "success": {
            **{stage: arms.interval(rates) for stage, rates in success.items()},
            "gain_of_gradient_over_pick": arms.interval(success["proposed"] - success["best_known"]),
            "gain_of_labels_over_pick": arms.interval(success["oracle"] - success["best_known"]),
        },
        "action_error": {"gain_of_gradient_over_pick": of_intervals(errors, [len(arm["best_known"]) for arm in each])},
    }


def main(
    files: Annotated[list[Path], typer.Argument(help="Results of alignment.py.")],
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Put the arms of several results together."""
    results = [json.loads(file.read_text()) for file in files]
    for file, result in zip(files, results, strict=True):
        if "each_arm" not in result["numbers"].get("success", {}):
            raise typer.BadParameter(f"{file} has no success.each_arm: make it again with alignment.py")
    result = pooled(results)
    print(json.dumps(result, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
