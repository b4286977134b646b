"""A long benchmark that goes on where it was cut off: a JSON line for each piece of work, beside the result's file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from arms import each_arm

from vla_align_ros.policy.load import Device

Found = dict[str, Any]
Say = Callable[[int, Found], None]


def pieces_file(json_file: Path | None) -> Path | None:
    """Of a result's file; without one nothing is kept."""
    return None if json_file is None else json_file.with_suffix(".pieces.jsonl")


def resumed(
    path: Path | None,
    keys: list[dict[str, Any]],
    work: Callable[[list[int]], Iterable[Found]],
    say: Say = lambda place, found: None,
) -> list[Found]:
    """What is found for each key, in order. work: of the places in `keys` that `path` has no line for, one after the
    other; each is written before the next is asked for. A line that was cut off does not count."""
    done = _read(path)
    names = [json.dumps(key, sort_keys=True) for key in keys]
    missing = [place for place, name in enumerate(names) if name not in done]
    for place, name in enumerate(names):
        if name in done:
            say(place, done[name])
    for place, found in zip(missing, work(missing) if missing else (), strict=True):
        done[names[place]] = found
        if path is not None:
            with path.open("a") as file:
                file.write(json.dumps({"key": keys[place], "found": found}) + "\n")
        say(place, found)
    return [done[name] for name in names]


def resumed_arms(
    json_file: Path | None,
    keys: list[dict[str, Any]],
    work: Callable[..., Found],
    model: str,
    arguments: Sequence[tuple[Any, ...]],
    jobs: int,
    device: Device,
    say: Say,
) -> list[Found]:
    """`arms.each_arm`, with the pieces of `json_file`. arguments: of each key, what `work` gets after the policy."""

    def missing(places: list[int]) -> Iterable[Found]:
        return each_arm(work, model, [arguments[place] for place in places], jobs, device)

    return resumed(pieces_file(json_file), keys, missing, say)


def _read(path: Path | None) -> dict[str, Found]:
    """By key. Ends the file with a whole line."""
    if path is None or not path.exists():
        return {}
    found: dict[str, Found] = {}
    text = path.read_text()
    for line in text.splitlines():
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[json.dumps(item["key"], sort_keys=True)] = item["found"]
    if text and not text.endswith("\n"):
        with path.open("a") as file:
            file.write("\n")
    return found
