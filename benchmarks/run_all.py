"""The benchmarks whose numbers the documents quote, into benchmarks/results/: what `make bench` runs, in turn.

    python benchmarks/run_all.py
    python benchmarks/run_all.py --only golden --only training

Each result says with which command, when, on which machine and with which versions it was made. A benchmark that
breaks off leaves its old result as it was; one that ends, and says that something is wrong, replaces it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import machine
import typer
from rich.console import Console
from rich.table import Table

RESULTS = machine.ROOT / "benchmarks" / "results"
GOLDEN = [f"test/data/golden/{variant}" for variant in ("pi0", "pi05")]

Headline = dict[str, str]  # what -> number


def golden_headline(numbers: Any) -> Headline:
    def words(differences: Any) -> str:
        return "not a number" if None in differences.values() else f"{max(differences.values()):.1e}"

    return {f"largest difference from openpi, {Path(folder).name}": words(part) for folder, part in numbers.items()}


def so101_headline(numbers: Any) -> Headline:
    speed = numbers["speed"]
    rates = {**speed["frames_per_s"], **speed["control_steps_per_s"], **speed["samples_per_s"]}
    found = {f"a CPU-second: {name}": f"{value:.0f}" for name, value in rates.items()}
    for task, part in numbers["expert"].items():
        drawn = part["drawn"]
        found[f"expert's success on drawn arms, {task}"] = f"{drawn['successes']} of {drawn['episodes']}"
    return found


def sampling_headline(numbers: Any) -> Headline:
    infer = numbers["tiny"]["infer_ms"]
    found = {"policy.infer, p50 / p99 ms": quantiles(infer)}
    for size in ("golden", "medium"):
        for name, part in numbers[size].items():
            found[f"sample_actions, {size} {name}, p50 / p99 ms"] = quantiles(part["ours_ms"])
            found[f"  over lerobot's, {name}"] = number(part.get("ratio_to_lerobot"), ".3f", "not measured")
    return found


def message_headline(numbers: Any) -> Headline:
    shipped, bare = numbers["shipped_profile"], numbers["without_profile"]
    lost = " / ".join(f"{part['images']['lost']} of {part['images']['published']}" for part in (shipped, bare))
    return {
        "control tick to chunk, p50 / p99 ms": quantiles(shipped["tick_to_chunk_ms"]),
        "  from noticing the tick on": quantiles(shipped["noticed_to_chunk_ms"]),
        "image to assembler, p50 / p99 ms": quantiles(shipped["image_stamp_to_assembler_ms"]),
        "images lost, shipped / no profile": lost,
    }


def training_headline(numbers: Any) -> Headline:
    def words(part: Any) -> str:
        return f"{number(part['samples_per_s'], '.0f', 'busy')}, {part['peak_memory_of_process_mib']:.0f}"

    names = {"with_the_alignment_expert": "alignment expert", "without": "no alignment expert"}
    return {f"training, samples/s and MiB, {text}": words(numbers[name]) for name, text in names.items()}


def reading_headline(numbers: Any) -> Headline:
    found = {"training, samples a CPU-second": f"{numbers['eaten_per_cpu_s']:.0f}"}
    for kind, part in numbers["long"].items():
        words = kind.replace("_", " ")
        found[f"recordings read, {words}, samples a CPU-second"] = f"{part['samples_per_cpu_s']:.0f}"
        found[f"  peak memory, 4 times the length, {words}, MiB"] = (
            f"{numbers['short'][kind]['peak_memory_mib']:.0f} to {part['peak_memory_mib']:.0f}"
        )
    return found


def load_memory_headline(numbers: Any) -> Headline:
    return {
        f"peak memory of loading over the weights, {way}": number(part.get("peak_share"), ".2f", "not loaded")
        for way, part in numbers.items()
    }


def bench_headline(numbers: Any) -> Headline:
    parts = numbers["measured"]["so101"]["parts"]
    return {
        f"so101, {part}, CPU ms": f"{parts[part]['own_ms']:.3g}" for part in ("sample_actions", "align step", "align")
    }


def full_size_headline(numbers: Any) -> Headline:
    steps = ("sample", "align step")
    return {
        f"full size, {part}, CPU s / peak GB": "{cpu_s:.0f} / {peak_gb:.1f}".format(**numbers[part]) for part in steps
    }


def growth_headline(numbers: Any) -> Headline:
    found = {
        f"alignment, {many} experiences, CPU s": f"{part['align']:.2f}" for many, part in numbers["experiences"].items()
    }
    return found | {
        f"training, processes: {many}, samples/s": f"{rate:.0f}" for many, rate in numbers["training"].items()
    }


def project_headline(numbers: Any) -> Headline:
    size = numbers["size"]
    found = {"size, .git / tree, MB": f"{size['git_mb']:.1f} / {size['working_tree_mb']:.1f}"}
    found |= {f"{part} s": f"{numbers[part]['seconds']:.0f}" for part in ("setup", "fast_tests", "tests", "demo")}
    return found | {"peak memory of the policy's process, MiB": f"{numbers['demo']['policy_process_peak_mib']:.0f}"}


def late_headline(numbers: Any) -> Headline:
    parts = {name: numbers[name] for name in ("alone", "aligning")}
    found = {"an alignment beside inference, s": ", ".join(f"{took:.1f}" for took in numbers["alignments_s"])}
    return found | {
        f"tick to chunk {name}, p50 / p99 ms": f"{quantiles(part['latency_ms'])}, {part['late_chunks']} late"
        for name, part in parts.items()
    }


def halving_headline(numbers: Any) -> Headline:
    found = {"rows that halving asks": f"{numbers['rows_share']['mean']:.0%}"}
    return found | {"its best token's loss is higher by, standard errors": mean(numbers["higher_z"])}


def mistaken_headline(numbers: Any) -> Headline:
    return {f"success, {name} put right": mean(part["success"]) for name, part in numbers["put right"].items()}


def information_headline(numbers: Any) -> Headline:
    return {
        f"of {name}'s variance, by features, by places": f"{part['features']:.2f}, {part['places']:.2f}"
        for name, part in numbers["r2"].items()
    }


def families_headline(numbers: Any) -> Headline:
    found = {}
    for name, part in numbers["families"].items():
        measured = [row for row in ("before", "classical", "after", "labels") if isinstance(part[row], dict)]
        rates = (mean(part[row]["success"]) for row in measured)
        found[f"success, {name}: {', '.join(measured)}"] = ", ".join(rates)
    return found


def guard_headline(numbers: Any) -> Headline:
    return {
        "corrupted buffers, harmful ones kept": f"{numbers['buffers']}, {numbers['harmful_kept']}",
        "useful updates refused": f"{numbers['useful_refused_fraction']:.1%}",
    }


def on_robot_headline(numbers: Any) -> Headline:
    ends = {"at first": 0, "at the end": -1}
    found = {f"success {when}": mean(numbers["on"][index]) for when, index in ends.items()}
    stages = ("right after", "at the end")
    return found | {
        f"{kind}, {stage}": mean(part[stage]) for kind, part in numbers.get("accidents", {}).items() for stage in stages
    }


def seconds_headline(numbers: Any) -> Headline:
    found = {}
    for name, part in numbers["families"].items():
        last = list(part["by_experiences"].values())[-1]
        found[f"success, {name}: before, after"] = f"{mean(part['before'])}, {mean(last['after'])}"
        for what, seconds in part.items():
            if what.startswith("robot_seconds_for"):
                found[f"{name}: {what}"] = number(seconds, ".0f", "no gain")
    return found


def mean(part: dict[str, float]) -> str:
    """A mean with its interval."""
    return f"{part['mean']:.3f} ({part['low']:.3f} to {part['high']:.3f})"


def quantiles(part: dict[str, float | None]) -> str:
    """`p50 / p99` in ms."""
    return f"{number(part['p50'], '.2f', 'busy')} / {number(part['p99'], '.2f', 'busy')}"


def number(value: float | None, form: str, absent: str) -> str:
    """A number in words; `absent` where it could not be measured."""
    return absent if value is None else format(value, form)


@dataclass(frozen=True)
class Benchmark:
    """A result: the script that makes it, or `vla-align`; what it is given; the numbers that are shown."""

    name: str
    script: str
    arguments: tuple[str, ...]
    headline: Callable[[Any], Headline]


BENCHMARKS = (
    Benchmark("golden", "golden.py", tuple(GOLDEN), golden_headline),
    Benchmark("sample_actions", "sample_actions.py", (), sampling_headline),
    Benchmark("message_to_chunk", "message_to_chunk.py", (), message_headline),
    Benchmark("so101_bench", "so101_bench.py", (), so101_headline),
    Benchmark("training", "training.py", (), training_headline),
    Benchmark("reading", "reading.py", (), reading_headline),
    Benchmark("load_memory", "load_memory.py", (), load_memory_headline),
    Benchmark(
        "bench",
        "vla-align",
        (
            "bench",
            "--model",
            "so101",
            "--experiences",
            "256",
            "--calls",
            "15",
            "--size",
            "golden",
            "--size",
            "medium",
            "--size",
            "full",
        ),
        bench_headline,
    ),
    Benchmark("full_size", "full_size.py", (), full_size_headline),
    Benchmark("growth", "growth.py", (), growth_headline),
    Benchmark("project", "project.py", (), project_headline),
    Benchmark("late_chunks", "late_chunks.py", (), late_headline),
    Benchmark("so101", "alignment.py", ("--seed", "91"), families_headline),
    Benchmark(
        "so101_beyond",
        "alignment.py",
        ("--family", "wrist_camera", "--scale", "1.25", "--seed", "98"),
        families_headline,
    ),
    Benchmark("halving", "halving.py", (), halving_headline),
    Benchmark("mistaken", "mistaken.py", ("--seed", "92", "--units", "12"), mistaken_headline),
    Benchmark("shift_information", "shift_information.py", ("--seed", "97"), information_headline),
    Benchmark("guard", "guard.py", ("--family", "all", "--seed", "94", "--units", "2"), guard_headline),
    Benchmark("robot_seconds", "robot_seconds.py", ("--seed", "95"), seconds_headline),
    Benchmark("robot_seconds_own_policy", "robot_seconds.py", ("--seed", "95", "--exploration", "0"), seconds_headline),
    Benchmark(
        "on_robot",
        "on_robot.py",
        ("--seed", "103", "--units", "24", "--rounds", "8", "--shift-after", "4", "--episodes", "20"),
        on_robot_headline,
    ),
)


def run(benchmark: Benchmark) -> bool:
    """Run one; its result, a bad one too, replaces the old one. False where it failed, with a result or without."""
    ours = benchmark.script == "vla-align"
    command = [
        *(["-m", "vla_align_ros.cli.main"] if ours else [f"benchmarks/{benchmark.script}"]),
        *benchmark.arguments,
    ]
    with TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        code = subprocess.run([sys.executable, *command, "--json", str(found)], cwd=machine.ROOT).returncode
        if not found.exists():
            return False
        content = json.loads(found.read_text())
    numbers = content["numbers"] if "about" in content else content
    about = machine.about([benchmark.script, *benchmark.arguments] if ours else ["python", *command])
    machine.write_json(RESULTS / f"{benchmark.name}.json", {"about": about, "numbers": numbers})
    return code == 0


def show(names: list[str], failed: list[str]) -> None:
    """The headlines of the results that there are."""
    table = Table("benchmark", "what", "number", title=f"{machine.cpu_model()}, commit {machine.commit()}")
    for benchmark in BENCHMARKS:
        path = RESULTS / f"{benchmark.name}.json"
        if benchmark.name in failed:
            table.add_row(benchmark.name, "[bold red]failed[/]", "")
        elif benchmark.name in names:
            lines = benchmark.headline(json.loads(path.read_text())["numbers"]).items()
            for index, (what, value) in enumerate(lines):
                table.add_row("" if index else benchmark.name, what, value)
    Console().print(table)


def main(
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Run these alone; repeat it.")] = None,
) -> None:
    """Run the benchmarks, all or some. Exit code 1 when one of them failed."""
    names = [benchmark.name for benchmark in BENCHMARKS]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise typer.BadParameter(f"no benchmark {', '.join(unknown)}; there are {', '.join(names)}")
    RESULTS.mkdir(exist_ok=True)
    chosen = [benchmark for benchmark in BENCHMARKS if not only or benchmark.name in only]
    failed = [benchmark.name for benchmark in chosen if not run(benchmark)]
    show([benchmark.name for benchmark in chosen], failed)
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
