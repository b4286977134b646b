"""Robot units <-> the network's units, with openpi's statistics file and openpi's arithmetic.

z-score     y = (x - mean) / (std + 1e-6)                     x = y * (std + 1e-6) + mean
quantiles   y = 2 * (x - q01) / (q99 - q01 + 1e-6) - 1         x = (y + 1) / 2 * (q99 - q01 + 1e-6) + q01

Nothing is clipped. Source: openpi `transforms.Normalize` and `Unnormalize`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch

from vla_align_ros.types import Float32Array

EPS: Final = 1e-6
NormMode = Literal["zscore", "quantiles"]
Array = TypeVar("Array", Float32Array, torch.Tensor)


class NormStatsError(ValueError):
    """Normalisation statistics are missing, unreadable or do not fit; the message names the file or the field."""


@dataclass(frozen=True)
class NormStats:
    """Statistics of one vector: all (S,) float32 and finite, std >= 0, q01 <= q99, quantiles both or none.

    Raises NormStatsError otherwise.
    """

    mean: Float32Array
    std: Float32Array
    q01: Float32Array | None = None
    q99: Float32Array | None = None

    def __post_init__(self) -> None:
        if (self.q01 is None) != (self.q99 is None):
            raise NormStatsError("q01 and q99: both or none, got only one")
        for name in ("mean", "std", "q01", "q99"):
            values = getattr(self, name)
            if values is None and name in ("q01", "q99"):
                continue
            if values.shape != self.mean.shape or values.ndim != 1 or len(values) == 0:
                raise NormStatsError(f"{name}: one number per dimension, as many as mean, got {values.shape}")
            if not np.isfinite(values).all():
                raise NormStatsError(f"{name}: finite numbers are needed, got {values.tolist()}")
        if (self.std < 0).any():
            raise NormStatsError(f"std: must not be negative, got {self.std.tolist()}")
        if self.q01 is not None and self.q99 is not None and (self.q01 > self.q99).any():
            raise NormStatsError(f"q01 must not exceed q99, got {self.q01.tolist()} and {self.q99.tolist()}")


def load_norm_stats(path: Path) -> dict[str, NormStats]:
    """Read `{"norm_stats": {"state": {mean, std, q01, q99}, "actions": {...}}}`; returns the two under these names.

    Raises NormStatsError: no such file, not JSON, a missing part, wrong lengths, NaN.
    """
    try:
        parts = json.loads(path.read_text(encoding="utf-8"))["norm_stats"]
        return {name: _parse(path, name, parts[name]) for name in ("state", "actions")}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NormStatsError(f"{path}: cannot be read as JSON: {error}") from None
    except (KeyError, TypeError) as error:
        text = "expected norm_stats with state and actions, each with mean and std"
        raise NormStatsError(f"{path}: {text}, got {error!r}") from None


def save_norm_stats(path: Path, stats: Mapping[str, NormStats]) -> None:
    """Write what `load_norm_stats` reads; float32 values survive exactly."""
    fields = ("mean", "std", "q01", "q99")
    parts = {name: {field: _listed(getattr(part, field)) for field in fields} for name, part in stats.items()}
    path.write_text(json.dumps({"norm_stats": parts}, indent=2) + "\n", encoding="utf-8")


def _listed(values: Float32Array | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values]


def _parse(path: Path, name: str, raw: Mapping[str, Any]) -> NormStats:
    def numbers(field: str) -> Float32Array:
        try:
            return np.asarray(raw[field], np.float32)
        except ValueError as error:
            raise NormStatsError(f"{path}: {name}.{field} is no list of numbers: {error}") from None

    quantiles = {field: numbers(field) for field in ("q01", "q99") if raw.get(field) is not None}
    try:
        return NormStats(numbers("mean"), numbers("std"), **quantiles)
    except NormStatsError as error:
        raise NormStatsError(f"{path}: {name}.{error}") from None


class Normaliser:
    """Normalises and denormalises (..., D) vectors, numpy or torch, keeping dtype and device.

    D is at most S for `normalise`. `denormalise` also takes padded vectors, D > S: what lies beyond S was never data,
    and comes back as openpi gives it (z-score: times 1 + 1e-6, quantiles: untouched).
    """

    def __init__(self, stats: NormStats, mode: NormMode) -> None:
        """Raises NormStatsError for an unknown mode, and for `quantiles` when the statistics have none."""
        if mode not in ("zscore", "quantiles"):
            raise NormStatsError(f"mode must be zscore or quantiles, got {mode!r}")
        if mode == "quantiles" and stats.q01 is None:
            raise NormStatsError("normalisation by quantiles needs q01 and q99, and these statistics have none")
        self.stats = stats
        self.mode = mode
        if mode == "quantiles" and stats.q01 is not None and stats.q99 is not None:
            self._shift, self._scale = stats.q01, stats.q99 - stats.q01 + np.float32(EPS)
        else:
            self._shift, self._scale = stats.mean, stats.std + np.float32(EPS)

    def normalise(self, x: Array) -> Array:
        """Robot units (..., D) -> network units, equation above. Raises NormStatsError when D > S."""
        dim = x.shape[-1]
        if dim > len(self._shift):
            raise NormStatsError(f"the statistics have {len(self._shift)} dimensions, the vector {dim}")
        y = (x - _like(self._shift[:dim], x)) / _like(self._scale[:dim], x)
        return y * 2.0 - 1.0 if self.mode == "quantiles" else y

    def denormalise(self, y: Array) -> Array:
        """Network units (..., D) -> robot units, inverse of `normalise` in the first S dimensions."""
        dim = min(y.shape[-1], len(self._shift))
        data, padding = y[..., :dim], y[..., dim:]
        if self.mode == "quantiles":
            data = (data + 1.0) / 2.0
        else:
            padding = padding * (1.0 + EPS)
        return _joined(data * _like(self._scale[:dim], y) + _like(self._shift[:dim], y), padding)


def _like(values: Float32Array, x: Array) -> Array:
    if isinstance(x, torch.Tensor):
        return torch.tensor(values, dtype=x.dtype, device=x.device)
    return values


def _joined(data: Array, padding: Array) -> Array:
    if isinstance(data, torch.Tensor):
        return torch.cat([data, padding], dim=-1)
    return np.concatenate([data, padding], axis=-1)
