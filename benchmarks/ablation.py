"""What does each check of the guard, and each rule of pick and step, buy? On validation arms, never on test arms.

    python benchmarks/ablation.py --arms 12 --json ablation.json

Each arm gives a clean buffer and one of each kind of corruption (`guard.py`). Every check is asked of every buffer,
also where an earlier one refuses, so that one pass tells what would be kept without each. A rule is left out by
proposing again without it. Harmful and useful are as in `guard.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import arms
import numpy as np
import torch
import typer
from guard import HARM, HELD_OUT, KINDS, USE, Experiences, at_work, clean, in_buffer, one_in_ten_wrong, second_robot
from machine import write

from vla_align_ros.alignment import experience_check, guard
from vla_align_ros.alignment.evidence import collect, on_later
from vla_align_ros.alignment.rules import RULES, Rules
from vla_align_ros.alignment.split import split
from vla_align_ros.alignment.step import propose
from vla_align_ros.bench.evaluate import action_error
from vla_align_ros.bench.reach2.bench import BENCH
from vla_align_ros.bench.reach2.embodiment import Embodiments, sample_embodiments
from vla_align_ros.policy import Policy
from vla_align_ros.policy.load import Device

ABLATION_SEED = 60_001  # of arms that are neither training's, nor those whose losses made the limits, nor any test's
WITHOUT = {
    "as it is": RULES,
    "no blend: the best bank token alone": Rules(blended=1.0),
    "no part of the way: always all of it": Rules(near_share=1.0),
    "nothing doubted": Rules(doubted=0.0),
    "the whole gradient step or none": Rules(step_shares=(0.0, 1.0)),
    "no gradient": Rules(step_shares=(0.0,)),
}
ASKED_WITHOUT = (clean, one_in_ten_wrong, second_robot)  # kinds for which proposals are made again without each rule


def one_buffer(
    policy: Policy, start: torch.Tensor, experiences: Experiences, seed: int, rules: Rules
) -> dict[str, Any]:
    """The proposal, and what each check says: a reason, or None. `token` is None where nothing can be proposed."""
    params, stats = arms.recommended(policy), policy.alignment.stats
    parts = split(experiences, policy.config.robot)
    says = {check.__name__: check(policy, experiences, parts, params) for check in experience_check.CHECKS}
    if not parts.enough:
        return {"token": None, "refused_by": [name for name, verdict in says.items() if verdict is not None]}
    losses = arms.losses_of(policy, [*parts.learn, *parts.judged], params)
    learn = torch.arange(len(parts.learn))
    before = on_later(losses, start, torch.arange(len(learn), len(losses)), seed + 1)
    says["already aligned"] = guard.within_usual(before, stats)
    proposal = propose(policy, losses, learn, start, params, seed, None, rules)
    evidence = collect(policy, losses, parts.learn, parts.judged, before, proposal, seed + 1)
    says |= {check.__name__: check(evidence, stats) for check in guard.CHECKS}
    return {"token": proposal.token, "refused_by": [name for name, verdict in says.items() if verdict is not None]}


def one_arm(policy: Policy, arm: Embodiments, other_arm: Embodiments, seed: int) -> list[dict[str, Any]]:
    """Clean and corrupted buffers of one arm, from a fresh install's token and from an aligned one in turn."""
    shipped = arms.shipped_token(policy)
    mine, theirs = (at_work(policy, which, seed) for which in (arm, other_arm))
    aligned = arms.aligned(policy, shipped, in_buffer(policy, mine), arms.recommended(policy), seed).proposed

    def error(token: torch.Tensor) -> float:
        return float(action_error(policy, BENCH, arm, token[None], seed + 7, HELD_OUT)[0])

    starts = {"fresh": shipped, "aligned": aligned}
    before = {name: error(token) for name, token in starts.items()}
    cases = [("fresh", clean), ("aligned", clean)]
    cases += [(("fresh", "aligned")[(index + seed) % 2], kind) for index, kind in enumerate(KINDS)]
    found = []
    for index, (start, kind) in enumerate(cases):
        experiences = in_buffer(policy, kind(mine, theirs, np.random.default_rng([seed, index])))
        for name, rules in WITHOUT.items() if kind in ASKED_WITHOUT else [("as it is", RULES)]:
            made = one_buffer(policy, starts[start], experiences, seed, rules)
            token = made.pop("token")
            change = None if token is None else error(token) / before[start] - 1.0
            found.append({"arm": seed, "kind": kind.__name__, "start": start, "rules": name, "change": change, **made})
    return found


def of_checks(found: list[dict[str, Any]]) -> dict[str, Any]:
    """With all checks, and without each: what is kept of what would harm, and refused of what would be of use."""
    judged = [item for item in found if item["rules"] == "as it is" and item["change"] is not None]
    names = sorted({name for item in judged for name in item["refused_by"]})
    rows = {}
    for left_out in ("nothing", *names):
        kept = [not set(item["refused_by"]) - {left_out} for item in judged]
        harmful = [
            ok for ok, item in zip(kept, judged, strict=True) if item["change"] > HARM and item["kind"] != "clean"
        ]
        useful = [
            ok for ok, item in zip(kept, judged, strict=True) if item["change"] < -USE and item["kind"] == "clean"
        ]
        alone = [item["refused_by"] == [left_out] for item in judged]
        rows[left_out] = {
            "harmful": len(harmful),
            "harmful_kept": sum(harmful),
            "useful": len(useful),
            "useful_refused": len(useful) - sum(useful),
            "refused_by_it_alone": sum(alone),
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
    result = {"arms": number, "without_check": of_checks(found), "without_rule": of_rules(found), "buffers": found}
    print(json.dumps({name: value for name, value in result.items() if name != "buffers"}, indent=2))
    write(json_file, result)


if __name__ == "__main__":
    typer.run(main)
