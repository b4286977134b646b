"""lerobot's processors beside the weights: how numbers are normalised, and which actions are relative to the state.

They are read where lerobot reads them, `policy_preprocessor.json` and `policy_postprocessor.json`: a list of steps,
each with a name, its options, and the file of its tensors (`state_file`). A step that is not known here is refused: it
would change the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vla_align_ros.observation.normalise import LEROBOTS_EPS, NormMode, NormStats, NormStatsError
from vla_align_ros.policy.config import ModelConfigError
from vla_align_ros.policy.foreign_files import (
    LerobotConfig,
    Normalisation,
    Pipeline,
    Relative,
    Renamed,
    Step,
    Tokens,
    options_of,
    read_as,
)
from vla_align_ros.policy.weights import WeightsError, read_tensors

_BEFORE, _AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
_NORMALISER, _DENORMALISER = "normalizer_processor", "unnormalizer_processor"
_RELATIVE, _ABSOLUTE = "relative_actions_processor", "absolute_actions_processor"
_RENAMED, _TOKENIZER = "rename_observations_processor", "tokenizer_processor"
_KNOWN: Final = {
    _NORMALISER,
    _DENORMALISER,
    _RELATIVE,
    _RENAMED,
    _TOKENIZER,
    _ABSOLUTE,
    "to_batch_processor",
    "device_processor",
    "pi0_new_line_processor",
    "pi05_prepare_state_tokenizer_processor_step",
}
# lerobot's word -> ours, and which of its statistics are q01 and q99. Its formulas of the last three are one formula.
_MODES: Final[dict[str, tuple[NormMode, tuple[str, str]]]] = {
    "MEAN_STD": ("zscore", ("q01", "q99")),
    "QUANTILES": ("quantiles", ("q01", "q99")),
    "QUANTILE10": ("quantiles", ("q10", "q90")),
    "MIN_MAX": ("quantiles", ("min", "max")),
}
_PARTS: Final = {"state": ("observation.state", "STATE"), "actions": ("action", "ACTION")}


@dataclass(frozen=True)
class Processors:
    """stats: of `state` and `actions`; None where the folder has none. renamed: the data's key of a picture -> the
    policy's. action_names: of every number of an action, where the folder says them. excluded: parts of the names of
    actions that are absolute although `relative`."""

    normalisation: NormMode
    stats: dict[str, NormStats] | None
    stats_path: Path | None
    max_token_len: int
    renamed: Mapping[str, str]
    relative: bool
    excluded: Sequence[str]
    action_names: Sequence[str] | None

    def relative_mask(self, count: int) -> list[bool]:
        """Of `count` actions, which are relative to the state: by part of a name, as lerobot does it. Without names, or
        without parts, all of them."""
        parts = [part.lower() for part in self.excluded if part]
        if not self.relative or self.action_names is None or not parts:
            return [self.relative] * count
        return [not any(part in name.lower() for part in parts) for name in self.action_names]


def read_processors(folder: Path, config: LerobotConfig) -> Processors:
    """config: of the policy, for what the processors do not say. Raises ModelConfigError and NormStatsError."""
    before, after = folder / _BEFORE, folder / _AFTER
    steps_before, steps_after = _steps(before), _steps(after)
    modes, stats, stats_path = {}, {}, None
    for part, (key, feature) in _PARTS.items():
        name, path, steps = (
            (_NORMALISER, before, steps_before) if part == "state" else (_DENORMALISER, after, steps_after)
        )
        modes[part], state_file = _normalised_by(path, steps, name, feature)
        found = None if state_file is None else _stats(folder / state_file, key, modes[part])
        if found is not None:
            stats[part], stats_path = found, folder / str(state_file)
    is_relative = options_of(after, steps_after, _ABSOLUTE, Relative).enabled
    if is_relative and _RELATIVE not in steps_before:
        raise ModelConfigError(f"{folder}: {_ABSOLUTE} is enabled without {_RELATIVE}, which says for which actions")
    relative = options_of(before, steps_before, _RELATIVE, Relative)
    max_token_len = options_of(before, steps_before, _TOKENIZER, Tokens).max_length or config.tokenizer_max_length
    if max_token_len is None:
        raise ModelConfigError(
            f"{before}: no step {_TOKENIZER} with a max_length, nor config.json tokenizer_max_length"
        )
    return Processors(
        _mode(folder, modes),
        stats if len(stats) == 2 else None,
        stats_path,
        max_token_len,
        options_of(before, steps_before, _RENAMED, Renamed).rename_map or {},
        is_relative,
        relative.exclude_joints or [],
        relative.action_names or config.action_feature_names,
    )


def _normalised_by(
    path: Path, steps: Mapping[str, tuple[int, Step]], name: str, feature: str
) -> tuple[str, str | None]:
    """lerobot's word for how a vector is normalised, and the file with its statistics."""
    if name not in steps:
        raise ModelConfigError(f"{path}: there is no {name} among its steps")
    options = options_of(path, steps, name, Normalisation)
    if options.eps != LEROBOTS_EPS:
        raise ModelConfigError(f"{path}: {name} has eps {options.eps}, {LEROBOTS_EPS} is supported")
    if (of_pictures := options.norm_map.get("VISUAL", "IDENTITY")) != "IDENTITY":
        raise ModelConfigError(f"{path}: {name} normalises pictures by {of_pictures}, IDENTITY is supported")
    return options.norm_map.get(feature, "IDENTITY"), steps[name][1].state_file


def _steps(path: Path) -> dict[str, tuple[int, Step]]:
    """Name -> place in the file, and step. Raises ModelConfigError for a missing file and an unknown step."""
    if not path.is_file():
        raise ModelConfigError(
            f"{path}: no such file; lerobot before 0.4 kept the statistics in the weights: convert the folder with its "
            "lerobot/processor/migrate_policy_normalization.py first"
        )
    steps = {step.name: (number, step) for number, step in enumerate(read_as(path, Pipeline).steps)}
    if unknown := [name for name in steps if name not in _KNOWN]:
        raise ModelConfigError(f"{path}: the steps {unknown} are not known here, and would change the numbers")
    return steps


def _mode(folder: Path, modes: Mapping[str, str]) -> NormMode:
    """The one of both vectors; IDENTITY is any. Raises ModelConfigError for two that differ, or an unknown one."""
    named = {mode for mode in modes.values() if mode != "IDENTITY"}
    if unknown := sorted(named - _MODES.keys()):
        raise ModelConfigError(f"{folder}: normalisation {unknown[0]} is not known, but {', '.join(_MODES)}")
    found = {_MODES[mode][0] for mode in named}
    if len(found) > 1:
        raise ModelConfigError(
            f"{folder}: state is normalised by {modes['state']} and action by {modes['actions']}: one of both"
        )
    return found.pop() if found else "zscore"


def _stats(path: Path, key: str, mode: str) -> NormStats | None:
    """Of one vector; None where the file has none, which lerobot takes for numbers that need no normalisation."""
    try:
        tensors = {
            name.removeprefix(f"{key}."): x.float().numpy()
            for name, x in read_tensors(path).items()
            if name.startswith(f"{key}.")
        }
    except WeightsError as error:
        raise NormStatsError(str(error)) from None
    if not tensors:
        return None
    low, high = _MODES.get(mode, _MODES["MEAN_STD"])[1]
    try:
        if not {"mean", "std"} <= tensors.keys():
            raise NormStatsError("mean and std are missing")
        if mode == "IDENTITY":
            ones = np.ones_like(tensors["mean"])
            return NormStats(0 * ones, ones, -ones, ones)
        return NormStats(tensors["mean"], tensors["std"], tensors.get(low), tensors.get(high))
    except NormStatsError as error:
        raise NormStatsError(f"{path}: {key}: {error}") from None
