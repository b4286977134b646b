"""lerobot's processors beside the weights: how numbers are normalised, and which actions are relative to the state.

They are read where lerobot reads them, `policy_preprocessor.json` and `policy_postprocessor.json`: a list of steps,
each with a name, its options, and the file of its tensors (`state_file`). A step that is not known here is refused: it
would change the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from vla_align_ros.foreign import what_is_file
from vla_align_ros.observation.normalise import LEROBOTS_EPS, NormMode, NormStats, NormStatsError
from vla_align_ros.policy.config import ModelConfigError
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


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises ModelConfigError."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelConfigError(f"{path}: cannot be read as JSON: {what_is_file(path) or error}") from None
    if not isinstance(found, dict):
        raise ModelConfigError(f"{path}: expected an object in JSON, got a {type(found).__name__}")
    return found


def read_processors(folder: Path, config: Mapping[str, Any]) -> Processors:
    """config: of the policy, for what the processors do not say. Raises ModelConfigError and NormStatsError."""
    before, after = _steps(folder / _BEFORE), _steps(folder / _AFTER)
    modes, stats, path = {}, {}, None
    for part, (key, feature) in _PARTS.items():
        name, steps = (_NORMALISER, before) if part == "state" else (_DENORMALISER, after)
        if name not in steps:
            raise ModelConfigError(f"{folder}: its processors have no {name}")
        options, state_file = steps[name]
        if options.get("eps", LEROBOTS_EPS) != LEROBOTS_EPS:
            raise ModelConfigError(f"{folder}: {name} has eps {options['eps']}, {LEROBOTS_EPS} is supported")
        norm_map = options.get("norm_map", {})
        if (of_pictures := norm_map.get("VISUAL", "IDENTITY")) != "IDENTITY":
            raise ModelConfigError(f"{folder}: {name} normalises pictures by {of_pictures}, IDENTITY is supported")
        modes[part] = str(norm_map.get(feature, "IDENTITY"))
        found = None if state_file is None else _stats(folder / state_file, key, modes[part])
        if found is not None:
            stats[part], path = found, folder / str(state_file)
    is_relative = bool(after.get(_ABSOLUTE, ({}, None))[0].get("enabled"))
    if is_relative and _RELATIVE not in before:
        raise ModelConfigError(f"{folder}: {_ABSOLUTE} is enabled without {_RELATIVE}, which says for which actions")
    relative = before.get(_RELATIVE, ({}, None))[0]
    return Processors(
        _mode(folder, modes),
        stats if len(stats) == 2 else None,
        path,
        before.get(_TOKENIZER, ({}, None))[0].get("max_length") or config["tokenizer_max_length"],
        before.get(_RENAMED, ({}, None))[0].get("rename_map") or {},
        is_relative,
        relative.get("exclude_joints") or [],
        relative.get("action_names") or config.get("action_feature_names"),
    )


def _steps(path: Path) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Name -> options and state_file. Raises ModelConfigError for a missing file and an unknown step."""
    if not path.is_file():
        raise ModelConfigError(
            f"{path}: no such file; lerobot before 0.4 kept the statistics in the weights: convert the folder with its "
            "lerobot/processor/migrate_policy_normalization.py first"
        )
    try:
        steps = [
            (str(step.get("registry_name") or step.get("class")), step.get("config") or {}, step.get("state_file"))
            for step in read_json(path)["steps"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelConfigError(
            f"{path}: expected a list of steps, each with registry_name and config ({error!r})"
        ) from None
    if unknown := [name for name, _, _ in steps if name not in _KNOWN]:
        raise ModelConfigError(f"{path}: the steps {unknown} are not known here, and would change the numbers")
    return {name: (options, state_file) for name, options, state_file in steps}


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
