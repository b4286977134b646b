"""The model's units <-> the network's, with openpi's statistics file and openpi's arithmetic.

z-score     y = (x - mean) / (std + 1e-6)                     x = y * (std + 1e-6) + mean
quantiles   y = 2 * (x - q01) / (q99 - q01 + 1e-6) - 1         x = (y + 1) / 2 * (q99 - q01 + 1e-6) + q01

Nothing is clipped. Source: openpi `transforms.Normalize` and `Unnormalize`, which count in float64; the zoo's models
in float32. lerobot (`NormalizerProcessorStep`, float32): 1e-8 in place of 1e-6, in z-score only on the way in, in
quantiles only where q99 is q01.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass as pydantic_dataclass

from vla_align_ros.checked import validated
from vla_align_ros.foreign import what_is_file
from vla_align_ros.types import Conventions, Float64Array

EPS: Final = 1e-6
LEROBOTS_EPS: Final = 1e-8
_LARGEST: Final = np.finfo(np.float32).max
NormMode = Literal["zscore", "quantiles"]
Labels = Mapping[str, Sequence[str]]  # "state" and "actions" -> the name of each number
Numbers = NDArray[np.floating]
Array = TypeVar("Array", Numbers, torch.Tensor)


class NormStatsError(ValueError):
    """Normalisation statistics are missing, unreadable or do not fit; the message names the file or the field."""


@dataclass(frozen=True)
class NormStats:
    """Statistics of one vector: all (S,) and finite, std >= 0, q01 <= q99, quantiles both or none.

    Raises NormStatsError otherwise.
    """

    mean: Numbers
    std: Numbers
    q01: Numbers | None = None
    q99: Numbers | None = None

    def __post_init__(self) -> None:
        if (self.q01 is None) != (self.q99 is None):
            raise NormStatsError("q01 and q99: both or none, got only one")
        for name in ("mean", "std", "q01", "q99"):
            values = getattr(self, name)
            if values is None and name in ("q01", "q99"):
                continue
            if values.shape != self.mean.shape or values.ndim != 1 or len(values) == 0:
                raise NormStatsError(f"{name}: one number per dimension, as many as mean, got {values.shape}")
            if not (np.abs(values) <= _LARGEST).all():
                raise NormStatsError(f"{name}: finite numbers are needed, got {values.tolist()}")
        if (self.std < 0).any():
            raise NormStatsError(f"std: must not be negative, got {self.std.tolist()}")
        if self.q01 is not None and self.q99 is not None and (self.q01 > self.q99).any():
            raise NormStatsError(f"q01 must not exceed q99, got {self.q01.tolist()} and {self.q99.tolist()}")

    def is_padded(self, fields: int) -> bool:
        """Whether there are numbers behind those of the first `fields` dimensions, and none of them was data."""
        rest = slice(fields, None)
        return len(self.mean) > fields and not self.mean[rest].any() and set(self.std[rest]) <= {0.0, 1.0}


def load_norm_stats(path: Path, labels: Labels | None = None) -> dict[str, NormStats]:
    """Read `{"norm_stats": {"state": {mean, std, q01, q99}, "actions": {...}}}`; returns the two under these names.

    labels: what the dimensions are called in errors. Raises NormStatsError: no such file, not JSON, a missing
    part, wrong lengths, NaN or null.
    """
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NormStatsError(f"{path}: cannot be read as JSON: {what_is_file(path) or error}") from None
    parts = validated(raw, _File, path, NormStatsError).norm_stats
    return {
        name: _parse(path, name, getattr(parts, name), (labels or {}).get(name, ())) for name in ("state", "actions")
    }


def save_norm_stats(path: Path, stats: Mapping[str, NormStats]) -> None:
    """Write what `load_norm_stats` reads; every number survives exactly."""
    fields = ("mean", "std", "q01", "q99")
    parts = {name: {field: _listed(getattr(part, field)) for field in fields} for name, part in stats.items()}
    path.write_text(json.dumps({"norm_stats": parts}, indent=2) + "\n", encoding="utf-8")


def _listed(values: Numbers | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


@pydantic_dataclass(frozen=True)
class _Part:
    mean: Any
    std: Any
    q01: Any = None
    q99: Any = None


@pydantic_dataclass(frozen=True)
class _Parts:
    state: _Part
    actions: _Part


@pydantic_dataclass(frozen=True)
class _File:
    norm_stats: _Parts


def _parse(path: Path, name: str, raw: _Part, labels: Sequence[str]) -> NormStats:
    def numbers(field: str) -> Float64Array:
        where, given = f"{path}: {name}.{field}", getattr(raw, field)
        try:
            values = np.asarray(given, np.float64)
        except (ValueError, TypeError, OverflowError) as error:
            raise NormStatsError(f"{where} is no list of numbers, or one of them is null: {error}") from None
        if values.ndim == 2:
            text = f"one number per dimension, got {values.shape[0]} x {values.shape[1]} (a step each?)"
            raise NormStatsError(f"{where}: {text}: take the statistics over all steps together")
        if values.ndim == 1 and len(bad := np.flatnonzero(~(np.abs(values) <= _LARGEST))):
            which = ", ".join(f"{given[index]} for {_name(int(index), labels)}" for index in bad)
            raise NormStatsError(f"{where}: finite numbers are needed, got {which}")
        return values

    quantiles = {field: numbers(field) for field in ("q01", "q99") if getattr(raw, field) is not None}
    try:
        return NormStats(numbers("mean"), numbers("std"), **quantiles)
    except NormStatsError as error:
        said = str(error)
        raise NormStatsError(said if said.startswith(str(path)) else f"{path}: {name}.{said}") from None


def check_norm_stats(
    stats: Mapping[str, NormStats], path: Path, labels: Labels, mode: NormMode, conventions: Conventions = "zoo"
) -> tuple[str, ...]:
    """Do the statistics, from `path`, fit a robot and a normalisation? Returns what is odd about them, a sentence each.

    labels: of each field of `state` and `actions`. Raises NormStatsError: another number of fields, no quantiles where
    `mode` needs them, and a field without spread, as the normalisation would divide by it: what the network sees of
    that field would be noise times a million. Of openpi's and lerobot's weights, which were trained with it, that is a
    remark.
    """
    remarks = []
    for name, part in stats.items():
        count, fields = len(part.mean), labels[name]
        if count != len(fields):
            text = f"{path}: {name} has {count} numbers, the robot has {len(fields)} fields {list(fields)}"
            padding = f"the last {count - len(fields)} are padding: leave them out"
            todo = padding if part.is_padded(len(fields)) else "one each, in order"
            raise NormStatsError(f"{text}: {todo}")
        if mode == "quantiles" and part.q01 is None:
            raise NormStatsError(f"{path}: {name} has no q01 and q99, which `normalisation: quantiles` needs")
        for used, what in (("zscore", "std is 0 (or next to it)"), ("quantiles", "q01 and q99 are equal (or nearly)")):
            flat = [_name(index, fields) for index in _without_spread(part, used)]
            found = f"{path}: {name}: {what} for {', '.join(flat)}"
            if flat and used == mode and conventions != "zoo":
                remarks.append(f"{found}: what the network sees of it is what little it moves, times a million")
            elif flat and used == mode:
                todo = "take the statistics from data in which it moves, or leave it out of `robot:`"
                raise NormStatsError(f"{found}, and `normalisation: {mode}` divides by that: {todo}")
            elif flat:
                todo = "take the statistics from data in which all joints move"
                remarks.append(f"{found}, which `normalisation: {mode}` does not use; {todo}")
    return tuple(remarks)


def _without_spread(stats: NormStats, mode: str) -> list[int]:
    """Dimensions in which EPS is at least half of what is divided by."""
    if mode == "zscore":
        spread = stats.std
    elif stats.q01 is not None and stats.q99 is not None:
        spread = stats.q99 - stats.q01
    else:
        return []
    return [int(index) for index in np.flatnonzero(spread <= EPS)]


def _name(index: int, labels: Sequence[str]) -> str:
    return f"field {labels[index]!r}" if index < len(labels) else f"number {index}"


class Normaliser:
    """Normalises and denormalises (..., D) vectors. numpy comes back in float32, of openpi's conventions in float64;
    torch keeps dtype and device.

    D is at most S for `normalise`. `denormalise` also takes padded vectors, D > S: what lies beyond S was never data,
    and comes back as openpi gives it (z-score: times 1 + 1e-6, quantiles: untouched).
    """

    def __init__(self, stats: NormStats, mode: NormMode, conventions: Conventions = "zoo") -> None:
        """Raises NormStatsError for an unknown mode, and for `quantiles` when the statistics have none."""
        if mode not in ("zscore", "quantiles"):
            raise NormStatsError(f"mode must be zscore or quantiles, got {mode!r}")
        if mode == "quantiles" and stats.q01 is None:
            raise NormStatsError("normalisation by quantiles needs q01 and q99, and these statistics have none")
        self.stats = stats
        self.mode = mode
        self._dtype: type[np.float64] | type[np.float32] = np.float64 if conventions == "openpi" else np.float32
        if mode == "quantiles" and stats.q01 is not None and stats.q99 is not None:
            self._shift: Numbers = self._own(stats.q01)
            spread: Numbers = self._own(stats.q99) - self._shift
        else:
            self._shift, spread = self._own(stats.mean), self._own(stats.std)
        self._divisor = self._factor = spread + self._dtype(EPS)
        if conventions == "lerobot":
            small = self._dtype(LEROBOTS_EPS)
            self._divisor = spread + small if mode == "zscore" else np.where(spread == 0, small, spread)
            self._factor = spread if mode == "zscore" else self._divisor

    def _own(self, values: Numbers) -> Numbers:
        return values.astype(self._dtype)

    def normalise(self, x: Array) -> Array:
        """Robot units (..., D) -> network units, equation above. Raises NormStatsError when D > S."""
        dim = x.shape[-1]
        if dim > len(self._shift):
            raise NormStatsError(f"the statistics have {len(self._shift)} dimensions, the vector {dim}")
        y = (x - _like(self._shift[:dim], x)) / _like(self._divisor[:dim], x)
        return y * 2.0 - 1.0 if self.mode == "quantiles" else y

    def denormalise(self, y: Array) -> Array:
        """Network units (..., D) -> robot units, inverse of `normalise` in the first S dimensions."""
        dim = min(y.shape[-1], len(self._shift))
        data, padding = y[..., :dim], y[..., dim:]
        if self.mode == "quantiles":
            data = (data + 1.0) / 2.0
        else:
            padding = padding * (1.0 + EPS)
        return _joined(data * _like(self._factor[:dim], y) + _like(self._shift[:dim], y), padding)


def _like(values: Numbers, x: Array) -> Array:
    if isinstance(x, torch.Tensor):
        return torch.tensor(values, dtype=x.dtype, device=x.device)
    return values


def _joined(data: Array, padding: Array) -> Array:
    if isinstance(data, torch.Tensor):
        return torch.cat([data, padding], dim=-1)
    return np.concatenate([data, padding], axis=-1)
