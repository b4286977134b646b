"""`alignment_stats.json`: the limits that an alignment is judged by, as they were measured on validation robots."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vla_align_ros.foreign import what_is_file
from vla_align_ros.limits import BY_NAME, CHECKS

STATS_FILE = "alignment_stats.json"
_strict = ConfigDict(extra="forbid", allow_inf_nan=False)


class AlignmentStatsError(ValueError):
    """`alignment_stats.json` is missing or wrong."""


@dataclass(frozen=True, config=_strict)
class Limit:
    """value: the limit. robots: on how many validation robots it was measured."""

    value: float
    robots: int


@dataclass(frozen=True, config=_strict)
class AlignmentStats:
    """limits: of each check (`limits.CHECKS`), by name. motion_r2: linear R2 of joint motion from two frames'
    features."""

    format: Literal[4]
    limits: dict[str, Limit]
    motion_r2: float

    def __post_init__(self) -> None:
        if set(self.limits) != set(BY_NAME):
            raise ValueError(f"limits must have exactly {list(BY_NAME)}, got {list(self.limits)}")


def load_alignment_stats(path: Path) -> AlignmentStats:
    """Read and check the file. Raises AlignmentStatsError."""
    try:
        stats: AlignmentStats = TypeAdapter(AlignmentStats).validate_json(path.read_bytes())
    except OSError as error:
        raise AlignmentStatsError(f"{path}: cannot be read ({error}); a model needs it to align") from None
    except ValidationError as error:
        again = f"{error}\nvla-align limits {path.parent} measures it again"
        raise AlignmentStatsError(f"{path}: {what_is_file(path) or again}") from None
    return stats


def no_limits(motion_r2: float) -> AlignmentStats:
    """Of a model before its limits are measured: nothing is refused."""
    return AlignmentStats(4, {check.name: Limit(check.no_limit, 0) for check in CHECKS}, motion_r2)


def read_motion_r2(path: Path) -> float:
    """From a file of any checks. Raises AlignmentStatsError."""
    try:
        return float(json.loads(path.read_bytes())["motion_r2"])
    except OSError as error:
        raise AlignmentStatsError(f"{path}: {error.strerror}: does this model align?") from None
    except (ValueError, KeyError, TypeError) as error:
        raise AlignmentStatsError(f"{path}: expected JSON with the number motion_r2, got {error!r}") from None


def write_alignment_stats(folder: Path, stats: AlignmentStats) -> None:
    """Write the file into a zoo folder."""
    (folder / STATS_FILE).write_text(json.dumps(asdict(stats), indent=2) + "\n")
