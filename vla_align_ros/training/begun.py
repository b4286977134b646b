"""A run goes on with what it was begun with, which `recipe.yaml` and `model.yaml` in its folder say. It may go on for
longer; then `recipe.yaml` says that, too.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import yaml

from vla_align_ros.checked import load_yaml, validated
from vla_align_ros.policy.config import MODEL_FILE, ModelConfig, load_model_config, to_yaml
from vla_align_ros.training.progress import LAST_STAGE_FILE, POLICY_FILE, Log, replace_text, saved_step
from vla_align_ros.training.recipe import Recipe, RecipeError

RECIPE_FILE, PROLONGED = "recipe.yaml", "prolonged"
_LENGTHS: Final = {"samples": POLICY_FILE, "alignment_samples": LAST_STAGE_FILE}
_TRAINED: Final = ("architecture", "robot", "normalisation", "views")  # of a model; the rest says how it is used


def go_on(out: Path, recipe: Recipe, config: ModelConfig, log: Log) -> None:
    """Check both against what `out` was begun with, and write them there. A policy that is trained for longer gets its
    alignment stage anew: what that learned was of the policy as it was. `prolonged` in `recipe.yaml` then says of which
    stage, after which step, and of how many samples it was to be; the learning rate rises again there.

    Raises RecipeError for anything else that is not as it was.
    """
    path, history = out / RECIPE_FILE, list[Any]()
    begun = recipe
    if path.exists():
        raw = load_yaml(path, dict[str, Any], RecipeError)
        history = raw.pop(PROLONGED, [])
        begun = validated(raw, Recipe, path, RecipeError)
    _check_same(out, begun, recipe, config)
    found: list[dict[str, object]] = []
    for key, file in _LENGTHS.items():
        step = saved_step(out / file)
        if step and getattr(recipe, key) > getattr(begun, key):
            found.append({"of": Path(file).stem, "at_step": step, "samples_before": getattr(begun, key)})
            if file == POLICY_FILE:
                (out / LAST_STAGE_FILE).unlink(missing_ok=True)
                history = [item for item in history if item["of"] == Path(file).stem]
    said = {**asdict(recipe), **({PROLONGED: [*history, *found]} if history or found else {})}
    replace_text(path, yaml.safe_dump(said))
    replace_text(out / MODEL_FILE, to_yaml(config))
    for item in found:
        log({"stage": PROLONGED, **item})


def _check_same(out: Path, begun: Recipe, recipe: Recipe, config: ModelConfig) -> None:
    before, now = asdict(begun), asdict(recipe)
    changed = [key for key in now if key not in _LENGTHS and before[key] != now[key]]
    if (out / MODEL_FILE).exists():
        model = load_model_config(out)
        changed += [f"{key} of the model" for key in _TRAINED if getattr(model, key) != getattr(config, key)]
    if changed:
        text = f"go on as {RECIPE_FILE} and {MODEL_FILE} in it say, or give each run a folder of its own"
        raise RecipeError(f"{out}: begun with another {' and '.join(changed)}: {text}")
    for key in _LENGTHS:
        if now[key] < before[key]:
            raise RecipeError(f"{out}: begun with {key} {before[key]}, which may grow and not shrink, got {now[key]}")
