"""The demo's report: one HTML file with its pictures inside, readable without a network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vla_align_ros.alignment.diagnosis import FieldDiagnosis
from vla_align_ros.alignment.reasons import Reason

matplotlib.use("Agg")

ATTEMPT_COLUMNS = ("attempt", "verdict", "what it means", "numbers", "learned from + judged by", "took")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{border:1px solid #ccc;padding:.3rem .6rem;text-align:left}"
    "img{max-width:100%;margin:.3rem}"
)


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    attempts: Sequence[Mapping[str, Any]],
    pictures: Sequence[NDArray[np.uint8]],
    latencies_ms: Sequence[float],
    start_ns: int,
) -> None:
    """Write the report. summary: the demo's numbers. attempts: AlignReports as JSON. pictures: RGB images.
    latencies_ms: of every chunk. start_ns: when the robot began, which `summary["success_over_time"]` counts from.
    """
    parts = [
        "<!doctype html><meta charset='utf-8'><title>vla_align_ros demo</title>",
        f"<style>{STYLE}</style><h1>vla_align_ros demo</h1>",
        "<p>A simulated arm that the policy was not trained on, driven by the real nodes over DDS on this machine.</p>",
        "<h2>Success over time</h2>",
        f"<p>What the token that ran at each moment is worth: {html.escape(str(summary['success_is']))}. Without "
        "alignment the arm would have kept its first token. A classical calibration is a least-squares line for each "
        "joint, by the same experience, that wraps the first token's commands.</p>",
        _image(_timeline(summary["success_over_time"], summary["success_calibrated"], attempts, start_ns)),
        "<h2>Summary</h2>" + _table([("what", "value"), *summary_rows(summary)]),
        "<h2>What commands and joint states alone say</h2>",
        "<p>No network is asked here, and no picture. What is wrong by this, put right in the driver.</p>",
        "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in diagnosis(attempts)) + "</ul>",
        "<h2>What the cameras saw, with planned and executed motion</h2>",
        "<p>Where the tip goes when this arm carries out the chunk that the policy plans here: orange with the token "
        "of a fresh install, magenta with the aligned one. Cyan: where it went in the run itself, by its joint states; "
        "a part of the chunks was random motion. (Drawn with the simulator's knowledge of arm and cameras; the policy "
        "has none of it.)</p>",
        *[_image(_png(picture)) for picture in pictures],
        "<h2>Alignments</h2>",
        "<p>A refusal is an answer, not a fault: the token stays bit for bit as it was. docs/reasons.md lists all "
        "reasons.</p>",
        _table([ATTEMPT_COLUMNS, *map(_attempt_row, enumerate(attempts))]),
        *[_image(_losses(attempt, number)) for number, attempt in enumerate(attempts) if attempt["after"]],
        "<h2>From the control tick to the published chunk</h2>",
        f"<p>A robot has {summary['chunk_period_ms']:.0f} ms for each chunk, the line in the picture.</p>",
        _image(_histogram(latencies_ms, summary["chunk_period_ms"])),
    ]
    path.write_text("\n".join(parts))


def diagnosis(attempts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the newest attempt says of each joint."""
    return [FieldDiagnosis(**found).sentence() for found in attempts[-1]["diagnosis"]] if attempts else []


def summary_rows(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The demo's numbers in words, for the report and the screen."""
    latency, aligns = numbers["chunk_latency_ms"], numbers["aligns"]
    within = f"{latency['p50']:.0f} ms half of them, {latency['p99']:.0f} ms 99 % of them"
    apart = "; ".join(f"{way} {', '.join(found)}" for way, found in numbers["differences"].items())
    agree = f"they DIFFER from live: {apart}" if apart else "live, topic and bag agree to the bit"
    return [
        ("action chunks published", str(numbers["chunks_published"])),
        ("from control tick to chunk", f"{within}, of {numbers['chunk_period_ms']:.0f} ms"),
        ("the joints travelled", f"{numbers['joint_travel_rad']:.1f} rad"),
        (
            "alignments",
            f"{aligns['attempted']} attempted, {aligns['accepted']} kept, {aligns['refused']} refused with a reason",
        ),
        ("success before, after", f"{numbers['success_before']:.3f}, {numbers['success_after']:.3f}"),
        ("success with a classical calibration instead", f"{numbers['success_calibrated']:.3f}"),
        ("success is", numbers["success_is"]),
        ("the first alignment again: bag played, watched, read", agree),
        ("token version, restored after a restart", numbers["token_version"]),
        ("bag", numbers["bag_path"]),
        ("report", numbers["report_path"]),
    ]


def _attempt_row(numbered: tuple[int, Mapping[str, Any]]) -> tuple[object, ...]:
    number, attempt = numbered
    verdict = "kept" if attempt["accepted"] else f"refused: {attempt['reason']}"
    used = f"{attempt['learned_from']} + {attempt['judged_by']}"
    if attempt["before_change"]:
        used += f", {attempt['before_change']} from before a change left out"
    meaning = next(reason.sentence for reason in Reason if reason.value == attempt["reason"])
    return number + 1, verdict, meaning, attempt["detail"], used, f"{attempt['duration_s']:.1f} s"


def _table(rows: Sequence[tuple[object, ...]]) -> str:
    def cells(row: tuple[object, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) + "</tr>"

    return "<table>" + cells(rows[0], "th") + "".join(cells(row, "td") for row in rows[1:]) + "</table>"


def _png(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1])


def _image(png: bytes) -> str:
    return f"<img src='data:image/png;base64,{base64.b64encode(png).decode()}'>"


def _rendered(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    return buffer.getvalue()


def _losses(attempt: Mapping[str, Any], number: int) -> bytes:
    figure = Figure(figsize=(5, 2.8))
    axes = figure.subplots()
    tasks = list(attempt["after"])
    for index, part in enumerate(("before", "best_known", "after")):
        heights = [attempt[part].get(task, 0.0) for task in tasks]
        axes.bar(np.arange(len(tasks)) + index * 0.27, heights, 0.25, label=part)
    title = f"attempt {number + 1}: losses on later experience"
    axes.set(title=title, xticks=np.arange(len(tasks)) + 0.27, xticklabels=tasks)
    axes.legend(fontsize=7)
    return _rendered(figure)


def _timeline(
    timeline: Sequence[Mapping[str, Any]], calibrated: float, attempts: Sequence[Mapping[str, Any]], start_ns: int
) -> bytes:
    """Steps of the success rate, the attempts between them, and the same arm with alignment off, and with a calibration
    by the experience of the first attempt instead."""
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    ends = [((attempt["last_stamp_ns"] - start_ns) * 1e-9 + attempt["duration_s"], attempt) for attempt in attempts]
    last_s = max([end_s for end_s, _ in ends], default=1.0) * 1.1
    times = [*(point["t_s"] for point in timeline), last_s]
    rates = [point["success"] for point in timeline]
    axes.step(times, [*rates, rates[-1]], where="post", linewidth=2.5, label="with alignment")
    axes.plot([0.0, last_s], [rates[0], rates[0]], "--", color="grey", label="alignment off: the first token")
    if ends:
        first_s = ends[0][0]
        steps = ([0.0, first_s, last_s], [rates[0], calibrated, calibrated])
        axes.step(*steps, ":", where="post", color="#1f4e9c", label="classical calibration instead")
    for end_s, attempt in ends:
        colour, word = ("#176b2c", "kept") if attempt["accepted"] else ("#666666", f"refused: {attempt['reason']}")
        axes.axvline(end_s, color=colour, linestyle=":")
        axes.text(end_s, 1.02, word, color=colour, ha="center", fontsize=8)
    axes.set(xlabel="s since the robot began", ylabel="success rate", ylim=(-0.03, 1.1))
    axes.legend(fontsize=8, loc="lower right")
    return _rendered(figure)


def _histogram(latencies_ms: Sequence[float], limit_ms: float) -> bytes:
    figure = Figure(figsize=(9, 2.4))
    axes = figure.subplots()
    axes.hist(latencies_ms, bins=40)
    axes.axvline(limit_ms, color="#9b1c1c", linestyle=":")
    axes.set(xlabel="ms", ylabel="chunks")
    return _rendered(figure)
