"""The tables of docs/performance.md, of benchmarks/results/*.json; `results_table.py` writes them."""

from __future__ import annotations

from typing import Any

SIZES = [(size, variant) for size in ("golden", "medium") for variant in ("pi0", "pi05")]
PARTS = ("vision", "prefix", "denoising", "sample_actions", "node overhead", "align step", "align")


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def sampling(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """CPU ms of each way to sample, at each size."""
    rows = []
    for size, variant in SIZES:
        part = numbers[size][variant]
        kinds = ("ours_ms", "readable_ms", "bfloat16_ms", "lerobot_ms")
        times = [short(part[kind]["cpu_p50"]) if kind in part else "" for kind in kinds]
        ratio = part.get("cpu_ratio_to_lerobot")  # not without lerobot
        rows.append((f"{size} {variant}", *times, f"{1 / ratio:.1f}" if ratio else ""))
    return rows


def instructions(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """Millions of each, of one call."""
    return [
        (
            f"golden {variant}",
            short(part["ours"] / 1e6),
            short(part["lerobot"] / 1e6),
            f"{1 / part['ratio_to_lerobot']:.1f}",
        )
        for variant, part in numbers["golden"].items()
    ]


def parts(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """CPU ms of what a model's node does, and of the machine's limit."""
    found, experiences = next(iter(numbers["measured"].values())), numbers["experiences"]
    rows = []
    for part in PARTS:
        one = found["parts"][part]
        share = f"{one['share']:.0%}" if "share" in one else ""
        rows.append((f"{part}, {experiences} experiences" if part == "align" else part, short(one["own_ms"]), share))
    return rows


def full_size(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """Peak memory over the weights, and CPU seconds."""
    weights_gb, aligning = numbers["weights_gb"], numbers["aligning_gb"]
    many = aligning["experiences"]
    parts = {"sample": "sample", f"prefixes of {many} experiences": "prefixes", f"align step of {many}": "align step"}
    held = f"{aligning['measured']:.2f} / {aligning['formula']:.2f}"
    return [
        ("weights", f"{weights_gb:.1f}", ""),
        *(
            (what, f"{numbers[key]['peak_gb'] - weights_gb:.1f}", f"{numbers[key]['cpu_s']:.0f}")
            for what, key in parts.items()
        ),
        (f"an alignment of {many} beside a sample, measured / formula", held, ""),
        ("of 256, formula", f"{aligning['formula, 256 experiences']:.1f}", ""),
    ]


def growth(numbers: dict[str, Any]) -> list[tuple[str, ...]]:
    """How what costs change with how many."""

    def over(found: dict[str, Any], scale: float = 1.0) -> tuple[str, str]:
        return " / ".join(found), " / ".join(short(value * scale) for value in found.values())

    def of(part: str, what: str) -> dict[str, float]:
        return {count: one[what] for count, one in numbers[part].items()}

    def node(cameras: int) -> tuple[str, str]:
        rates = {key.split()[2]: one["cpu_share"] for key, one in numbers["node"].items() if key[0] == str(cameras)}
        return over(rates, 100)

    return [
        ("an alignment's CPU s, by experiences", *over(of("experiences", "align"))),
        ("its pick's CPU s, by tokens in the bank", *over(numbers["bank"])),
        ("full size, TFLOP of a sample, by cameras", *over(of("cameras", "sample_actions"), 1e-3)),
        ("the MB that an experience holds in an align step", *over(of("cameras", "held_mb"))),
        ("full size, TFLOP of a sample, by actions of a chunk", *over(of("horizon", "sample_actions"), 1e-3)),
        ("% of a core, node without model, one camera, by Hz", *node(1)),
        ("the same, two cameras", *node(2)),
        ("training, samples/s, by processes", *over(numbers["training"])),
    ]


TABLES = (
    (
        "sample_actions",
        ("CPU ms", "this package", "readable model", "bfloat16", "lerobot", "lerobot over ours"),
        sampling,
    ),
    ("instructions", ("million instructions", "this package", "lerobot", "lerobot over ours"), instructions),
    ("bench", ("`models/so101`", "CPU ms", "of the limit"), parts),
    ("full_size", ("full size, bfloat16", "GB at most, over the weights", "CPU s"), full_size),
    ("growth", ("what", "how many", "costs"), growth),
)
