"""Write the tables of docs/results.md and docs/performance.md, between their markers, from benchmarks/results/*.json.

    python benchmarks/results_table.py

Run it after any benchmark was run anew. A row whose result is not there says so.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from speed_tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
BEGIN, END = "<!-- begin: benchmarks/results_table.py -->", "<!-- end -->"
NOT_MEASURED = "not measured"


def load(name: str) -> dict[str, Any] | None:
    """One result, `about` and `numbers`; None where it was not made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def interval(part: dict[str, float], digits: int = 3) -> str:
    """A mean with its 95 % interval."""
    return f"{part['mean']:.{digits}f} ({part['low']:.{digits}f} to {part['high']:.{digits}f})"


def quantiles(part: dict[str, float | None]) -> str:
    """p50 / p99 in ms."""
    return " / ".join("busy" if part[name] is None else f"{part[name]:.1f}" for name in ("p50", "p99")) + " ms"


def family_rows(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """Success by family, and by task where there are several, and what may be claimed."""

    def rate(part: Any) -> str:
        return "" if part is None or isinstance(part, str) else f"{part['success']['mean']:.2f}"

    def share(part: dict[str, float | None]) -> str:
        low, high = part["low"], part["high"]
        if part["mean"] is None:
            return "no gap"
        return f"{part['mean']:.2f}" if low is None or high is None else f"{part['mean']:.2f} ({low:.2f} to {high:.2f})"

    parts = numbers["families"]
    if "by_task" in numbers:
        tasks = numbers["by_task"].items()
        parts = {f"{name}, {task}": told["families"][name] for name in parts for task, told in tasks}
    found = []
    for name, part in parts.items():
        rates = (*(part[key] for key in ("before", "classical", "randomised")), part["rows"].get("hand_eye"))
        gate = "**won**" if part["won"] else "passed" if part["gate"] else "no"
        pick, after, taught, labels = (
            rate(part["rows"].get(key)) for key in ("pick", "after", "demonstrations_5", "labels")
        )
        worse = f"{part['worse_fraction']:.0%}"
        of_gap = share(part["share"]) if labels else ""
        found.append((name, *map(rate, rates), pick, f"**{after}**", taught, labels, gate, of_gap, worse))
    return found


FAMILY_HEAD = (
    *(
        "family",
        "before",
        "best classical",
        "randomised",
        "hand-eye",
        "pick alone",
        "**`align()`**",
        "5 demonstrations",
        "labels",
    ),
    *("gate", "share of the gap", "worse"),
)


def guard(numbers: dict[str, Any]) -> str:
    refused = numbers["useful_refused_fraction"]
    return (
        f"{numbers['harmful_kept']} of {numbers['would_harm']} harmful updates kept, of {numbers['buffers']} buffers; "
        f"{refused:.0%} of {numbers['useful_clean']} useful ones refused"
    )


def seconds(numbers: dict[str, Any]) -> str:
    (part,) = numbers["families"].values()
    most, last = part["robot_seconds_for_80%_of_the_gain, after"], list(part["by_experiences"].values())[-1]
    took = "no gain" if most is None else f"{most:.0f} s"
    return f"{took}; {part['before']['mean']:.2f} to {interval(last['after'], 2)}"


def beyond(numbers: dict[str, Any]) -> str:
    (part,) = numbers["families"].values()
    classical, after = (part[row]["success"] for row in ("classical", "after"))
    told, labels = (part["rows"][row]["success"]["mean"] for row in ("hand_eye", "labels"))
    rates = f"classical {classical['mean']:.2f}, after {interval(after, 2)}, hand-eye {told:.2f}, labels {labels:.2f}"
    return f"{rates}; share {interval(part['share'], 2)}"


def second_shift(numbers: dict[str, Any]) -> str:
    def words(name: str, part: dict[str, Any]) -> str:
        rates = ", ".join(
            f"{part[stage]['mean']:.2f}"
            for stage in ("before", "right after", "at the end", "at the end, alignment off")
        )
        soon = sum(count is not None and count <= 3 for count in part["of_each_arm"])
        return f"{re.split(' rolled| turned', name)[0]} {rates}, {soon}/{part['arms']}"

    return "; ".join(words(name, part) for name, part in numbers["accidents"].items())


def late_chunks(numbers: dict[str, Any]) -> str:
    part = numbers["aligning"]
    took = " and ".join(f"{seconds:.1f}" for seconds in numbers["alignments_s"])
    return f"{part['late_chunks']} of {part['chunks']} late, {quantiles(part['latency_ms'])}; an alignment {took} s"


def golden(numbers: dict[str, Any]) -> str:
    return " / ".join(f"{max(part.values()):.1e}" for part in numbers.values())


def to_chunk(numbers: dict[str, Any]) -> str:
    part = numbers["shipped_profile"]
    lost, sent = part["images"]["lost"], part["images"]["published"]
    return f"{quantiles(part['tick_to_chunk_ms'])}; {lost} of {sent} images lost"


def experts(numbers: dict[str, Any]) -> str:
    found = numbers["expert"].items()
    return ", ".join(f"{task} {part['drawn']['successes']} of {part['drawn']['episodes']}" for task, part in found)


def reading(numbers: dict[str, Any]) -> str:
    times = [f"{numbers[f'{kind}_shuffled_over_eaten']:.1f}" for kind in ("dataset", "bag")]
    more = [f"{numbers[f'{kind}_shuffled_memory_growth_mib']:.0f}" for kind in ("dataset", "bag")]
    return f"{' / '.join(times)} times; {' / '.join(more)} MiB more for four times the length"


def loading(numbers: dict[str, Any]) -> str:
    return " / ".join(f"{part['peak_share']:.2f}" for part in numbers.values() if "peak_share" in part)


VIRTUAL_HEAD = ("shift", "no bank", "virtual", "real", "share of real gain")


def virtual_rows(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """Success by family with each model, aligned where it has a bank"""
    stages = (("none", "before"), ("virtual", "after"), ("real", "after"))
    found = dict[tuple[str, ...], list[str]]()
    for name, part in numbers.items():
        rates = (f"{part[model]['success'][stage]['mean']:.2f}" for model, stage in stages)
        of_gain = "no gain" if part["share"]["mean"] is None else interval(part["share"], 2)
        found.setdefault((*rates, of_gain), []).append(name if part["exact"] else f"{name} (approximate)")
    return [(", ".join(names), *rest) for rest, names in found.items()]


OTHERS = (
    ("corrupted experience of twenty arms", "guard", guard),
    ("`wrist_camera`, 1.25 times training's range", "so101_beyond", beyond),
    ("`wrist_camera`: robot-seconds for 80% of the gain; success", "robot_seconds", seconds),
    ("the same without random motion", "robot_seconds_own_policy", seconds),
    (
        "second shift: before, right after, at last, unaligned; back within 3 alignments",
        "on_robot",
        second_shift,
    ),
    ("chunks while two alignments run, `models/so101`, p50 / p99", "late_chunks", late_chunks),
    ("control tick to chunk without the model, p50 / p99", "message_to_chunk", to_chunk),
    ("largest difference from openpi, pi0 / pi05", "golden", golden),
    ("experts of the simulated SO-101, drawn arms", "so101_bench", experts),
    ("LeRobotDataset / bags read over what training eats", "reading", reading),
    ("peak memory of loading over the weights", "load_memory", loading),
)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Markdown."""
    line = "|---" * len(head) + "|"
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]


def made(found: dict[str, Any]) -> str:
    """Command, machine and date of a result."""
    about = found["about"]
    command = about["command"].removeprefix("python benchmarks/")
    command = re.sub(r"( --family \S+){2,}", "", command)  # its table names them
    command = re.sub(r" (--json|--jobs|test/)\S*( \S+\.json| \d+\b)?", "", command)
    machine = re.sub(r"\(R\)| Processor|Intel|AMD", "", about["machine"]["cpu"]).strip()
    return f"`{command}`, {machine}, {about['date'][:10]}"


def tables() -> str:
    """All that stands between the markers."""
    families = load("so101")
    assert families is not None, "results/so101.json is the headline: make it first"
    lines = table(FAMILY_HEAD, family_rows(families["numbers"]))
    cap = interval(families["numbers"]["own_token_cap"], 2)
    lines += ["", f"Training arms with their own token: {cap}. By {made(families)}.", ""]
    others: list[tuple[str, ...]] = []
    for what, name, words in OTHERS:
        found = load(name)
        by = made(found) if found else f"`{name}`"
        said = any(by in row for row in others)  # by a row above, of the same result
        others.append((what, words(found["numbers"]) if found else NOT_MEASURED, "" if said else by))
    virtual = load("virtual_robots")
    assert virtual is not None, "results/virtual_robots.json is not there"
    lines += [*table(("what", "measured", "by"), others), ""]
    lines += table(VIRTUAL_HEAD, virtual_rows(virtual["numbers"]))
    return "\n".join([*lines, "", f"By {made(virtual)}."])


def speed_tables() -> str:
    """The same of docs/performance.md."""
    parts = []
    for name, head, rows in TABLES:
        found = load(name)
        parts += (
            [*table(head, rows(found["numbers"])), "", f"By {made(found)}."] if found else [f"{name}: {NOT_MEASURED}"]
        )
        parts.append("")
    return "\n".join(parts[:-1])


PAGES = {DOCS / "results.md": tables, DOCS / "performance.md": speed_tables}


def written(path: Path) -> str:
    """A page of PAGES as it should be."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{path} needs the markers {BEGIN} and {END}"
    return f"{before}{BEGIN}\n\n{PAGES[path]()}\n\n{END}{after}"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page))
