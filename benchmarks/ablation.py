"""What does each check of the guard, and each rule of the proposal, buy? On validation arms, never on test arms.

    python benchmarks/ablation.py --arms 12 --json ablation.json

Each arm gives a clean buffer and one of each kind of corruption (`guard.py`). Every statistic is taken of every buffer,
also where an earlier check refuses, so that one pass tells what would be kept without each check. A rule is left out by
proposing again without it. Harmful and useful are as in `guard.py`.

`results/ablation_before.json` is the same for the checks and rules of before: what bought nothing there was deleted.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import arms
import numpy as np
import torch
import typer
from guard import HARM, HELD_OUT, KINDS, USE, Experiences, at_work, clean, in_buffer, one_in_ten_wrong, second_robot
from machine import write

from vla_align_ros import limits
from vla_align_ros.alignment import experience_check, guard
from vla_align_ros.alignment.align import limits_of
from vla_align_ros.alignment.evidence import collect, on_later
from vla_align_ros.alignment.pick import pick
from vla_align_ros.alignment.step import descend, known_tokens, propose
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments, sample_embodiments
from vla_align_ros.limits import BY_NAME, CHECKS
from vla_align_ros.params import AlignParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device
from vla_align_ros.seeds import Part, seed_of

ABLATION_SEED = 60_001  # of arms that are neither training's, nor those whose losses made the limits, nor any test's
WITHOUT = ("as it is", "nothing left out", "no gradient", "the best token alone")
ASKED_WITHOUT = (clean, one_in_ten_wrong, second_robot)  # kinds for which proposals are made again without each rule
VERDICT_MODULES: tuple[ModuleType, ...] = (limits, guard, experience_check)
BEFORE = (
    *("moved at all", "jumps", "joints that do not follow, of all", "of the newest quarter", "frozen frames"),
    *("least to learn from", "least to judge by", "a joint strays", "a part strays", "already aligned"),
    *("token near", "perception ceiling", "dynamics ceiling", "inverse-dynamics ceiling", "shuffled actions"),
    *("next actions", "last actions", "one token over two", "dynamics worse", "inverse dynamics worse"),
    *("dynamics better", "inverse dynamics better", "perception better", "blend", "an eighth of the way"),
    *("doubted tenth", "step shares"),
)
"""Every rule with a number of its own before the limits were measured."""


def one_buffer(
    policy: Policy, start: torch.Tensor, experiences: Experiences, seed: int, params: AlignParams, alone: bool
) -> dict[str, Any]:
    """The proposal, and the statistic of each check. `token` is None where nothing can be proposed. alone: the gradient
    starts at the single token that explains the experience best."""
    parts = arms.split_of(policy, experiences, params)
    found = experience_check.statistics(parts)
    if not parts.usable:
        return {"token": None, "statistics": found}
    everything = [*parts.learn, *parts.judged]
    losses = arms.losses_of(policy, everything, params)
    learn, judge = torch.arange(len(parts.learn)), torch.arange(len(parts.learn), len(losses))
    before = on_later(losses, start, judge, seed_of(seed, Part.JUDGING))
    proposal = propose(policy, losses, learn, start, params, seed)
    if alone:
        known = known_tokens(policy, start)
        best, _ = pick(losses.without_dynamics(), learn, known, seed_of(seed, Part.PICK))
        token, _ = descend(policy, losses, learn, known[best], params, seed)
        proposal = replace(proposal, best_known=known[best], token=token)
    evidence = collect(policy, losses, everything, judge, before, proposal, seed_of(seed, Part.JUDGING))
    return {"token": proposal.token, "statistics": {**found, **guard.statistics(evidence, losses.weights)}}


def one_arm(policy: Policy, arm: Embodiments, other_arm: Embodiments, seed: int) -> list[dict[str, Any]]:
    """Clean and corrupted buffers of one arm, from a fresh install's token and from an aligned one in turn."""
    shipped, params = arms.shipped_token(policy), arms.recommended(policy)
    without = dict(
        zip(WITHOUT, (params, _nothing_left_out(params), replace(params, align_learning_rate=0.0), params), strict=True)
    )
    mine, theirs = (at_work(policy, BENCH, which, seed) for which in (arm, other_arm))
    aligned = arms.aligned(policy, shipped, in_buffer(policy, mine), params, seed).proposed

    def error(token: torch.Tensor) -> float:
        return float(action_error(policy, BENCH, arm, token[None], seed_of(seed, Part.HELD_OUT), HELD_OUT)[0])

    starts = {"fresh": shipped, "aligned": aligned}
    before = {name: error(token) for name, token in starts.items()}
    cases = [("fresh", clean), ("aligned", clean)]
    cases += [(("fresh", "aligned")[(index + seed) % 2], kind) for index, kind in enumerate(KINDS)]
    model_limits, found = limits_of(policy, params), []
    for index, (start, kind) in enumerate(cases):
        experiences = in_buffer(policy, kind(mine, theirs, np.random.default_rng([seed, index])))
        for name in WITHOUT if kind in ASKED_WITHOUT else WITHOUT[:1]:
            made = one_buffer(policy, starts[start], experiences, seed, without[name], alone=name == WITHOUT[-1])
            token = made.pop("token")
            refused_by = [
                which
                for which, value in made["statistics"].items()
                if BY_NAME[which].beyond(value, model_limits[which])
            ]
            change = None if token is None else error(token) / before[start] - 1.0
            case = {"arm": seed, "kind": kind.__name__, "start": start, "rules": name, "change": change}
            found.append({**case, "refused_by": refused_by, **made})
    return found


def _nothing_left_out(params: AlignParams) -> AlignParams:
    return params.updated({"guard.joint_strays": BY_NAME["joint_strays"].most})


def of_checks(found: list[dict[str, Any]]) -> dict[str, Any]:
    """With all checks, and without each: what is kept of what would harm, refused of what would be of use, and of that
    left as it was since there is little to gain (`already_aligned` alone)."""
    judged = [item for item in found if item["rules"] == "as it is" and item["change"] is not None]
    rows = {}
    for left_out in ("nothing", *(check.name for check in CHECKS if check.name != "joint_strays")):
        against = [set(item["refused_by"]) - {left_out} for item in judged]
        harmful, useful, useful_tenth = (
            [by for by, item in zip(against, judged, strict=True) if item["kind"] in kinds and wanted(item["change"])]
            for kinds, wanted in (
                ({kind.__name__ for kind in KINDS}, lambda change: change > HARM),
                ({"clean"}, lambda change: change < -USE),
                ({"one_in_ten_wrong"}, lambda change: change < -USE),
            )
        )
        rows[left_out] = {
            "harmful": len(harmful),
            "harmful_kept": sum(not by for by in harmful),
            "useful": len(useful),
            "useful_refused": sum(bool(by - {"already_aligned"}) for by in useful),
            "useful_left": sum(by == {"already_aligned"} for by in useful),
            "useful_of_a_tenth_wrong": len(useful_tenth),
            "useful_of_a_tenth_wrong_refused": sum(bool(by - {"already_aligned"}) for by in useful_tenth),
            "refused_by_it_alone": sum(item["refused_by"] == [left_out] for item in judged),
        }
    return rows


def of_rules(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Action error after over before, for each rule that is left out, paired with what the rule makes of it."""
    rows: dict[str, Any] = {}
    for kind in ASKED_WITHOUT:
        for start in ("fresh", "aligned"):
            mine = [item for item in found if (item["kind"], item["start"]) == (kind.__name__, start)]
            by_rule = {
                name: {
                    item["arm"]: item["change"] for item in mine if item["rules"] == name and item["change"] is not None
                }
                for name in WITHOUT
            }
            for name, changes in by_rule.items():
                both = sorted(set(changes) & set(by_rule["as it is"]))
                if not both:
                    continue
                difference = np.array([changes[arm] - by_rule["as it is"][arm] for arm in both])
                rows.setdefault(name, {})[f"{kind.__name__}, {start}"] = {
                    "arms": len(both),
                    "after_over_before": 1.0 + float(np.mean([changes[arm] for arm in both])),
                    "worst": 1.0 + max(changes[arm] for arm in both),
                    "more_error_than_with_the_rule": arms.interval(difference),
                }
    return rows


def constants_by_hand(modules: tuple[ModuleType, ...] = VERDICT_MODULES) -> list[str]:
    """Every number but 0 and 1 that a comparison in the code of the verdict holds, with the line."""
    found = []
    for module in modules:
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Compare):
                numbers = [part for part in ast.walk(node) if isinstance(part, ast.Constant)]
                names = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
                constants = [getattr(module, name) for name in names if name.isupper() and hasattr(module, name)]
                values = [part.value for part in numbers] + constants
                if any(isinstance(value, int | float) and value not in (0, 1) for value in values):
                    found.append(f"{module.__name__}: {ast.unparse(node)}")
    return found


def main(
    model: Annotated[str, typer.Option(help="A folder of models/, or a path.")] = "tiny",
    number: Annotated[int, typer.Option("--arms", help="Validation arms.")] = 12,
    jobs: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
    device: Annotated[Device, typer.Option(help="Of the network.")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.")] = None,
) -> None:
    """Leave out each check and each rule, and say what it buys."""
    everyone = sample_embodiments(number, ABLATION_SEED)
    rows = [np.array([index]) for index in range(number)]
    work = [(everyone[row], everyone[(row + 1) % number], ABLATION_SEED + int(row[0])) for row in rows]
    found: list[dict[str, Any]] = []
    for index, items in enumerate(arms.each_arm(one_arm, model, work, jobs, device)):
        found += items
        print(f"arm {index}: {len(items)} proposals", flush=True)
    by_hand = constants_by_hand()
    result = {
        "arms": number,
        "rules": {"before": len(BEFORE), "after": len(CHECKS)},
        "constants": {"by_hand": len(by_hand), "which": by_hand},
        "without_check": of_checks(found),
        "without_rule": of_rules(found),
        "buffers": found,
    }
    print(json.dumps({name: value for name, value in result.items() if name != "buffers"}, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
