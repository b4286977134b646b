"""What `vla-align train` is told beside its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vla_align_ros.cli.sources import parse_source
from vla_align_ros.training.recipe import BaseRecipe, Recipe, RecipeError, load_recipe
from vla_align_ros.zoo import find_model, shared_folders

BASE_RECIPE = "base.yaml"
_KEPT = ("virtual", "cameras", "prompt")  # of a recipe's source, where other data are named


@dataclass(frozen=True)
class RecipeOptions:
    """As the command line has them; None, or none of them, leaves what the recipe says."""

    base: str | None
    freeze: str | None
    data: Sequence[Path]
    source: str | None
    seed: int | None

    def applied(self, config: Path | None) -> tuple[Path, Recipe]:
        """The recipe's path and the recipe that is meant. Raises RecipeError, and ModelConfigError for a base that is
        not there."""
        path = self._path(config)
        recipe = load_recipe(path)
        if self.seed is not None:
            recipe = replace(recipe, seed=self.seed)
        if self.source is not None and self.data:
            raise RecipeError("--data and --source say the same: give one of them")
        if self.source is not None:
            recipe = replace(recipe, source=parse_source(self.source))
        if self.data:
            recipe = replace(recipe, source=of_data(self.data, recipe.source))
        if self.base is None and self.freeze is None:
            return path, recipe
        given = recipe.base or BaseRecipe()
        if self.base is not None:
            given = replace(given, folder=str(find_model(self.base).resolve()))
        if self.freeze is not None:
            given = replace(given, freeze=_freeze(self.freeze))
        return path, replace(recipe, base=given, model=None)

    def _path(self, config: Path | None) -> Path:
        if config is not None:
            return config
        found = [folder / "train" / BASE_RECIPE for folder in shared_folders("config")]
        if self.base is None or not found:
            raise RecipeError("name a recipe: --config config/train/so101.yaml, or a base: --base FOLDER")
        return found[0]


def check_places(run: Path, export: Path | None, recipe: Recipe) -> None:
    """Before hours of training. Raises RecipeError where `run` or `export` is a file, and for an export over its
    base."""
    for option, place in (("--run", run), ("--export", export)):
        if place is not None and place.exists() and not place.is_dir():
            raise RecipeError(f"{option}: {place} is a file, a folder is needed")
    if export is not None and recipe.base is not None and export.resolve() == Path(recipe.base.folder).resolve():
        raise RecipeError(f"--export: {export} is the base itself, which the run still needs: name another folder")


def _freeze(text: str) -> Literal["vlm", "base"]:
    if text == "vlm":
        return "vlm"
    if text == "base":
        return "base"
    raise RecipeError(f"--freeze must be vlm or base, got {text!r}")


def of_data(paths: Sequence[Path], source: dict[str, Any]) -> dict[str, Any]:
    """`source:` of LeRobotDatasets, or of one robot's bags; what `source` says of virtual robots, cameras and the
    prompt stays. Raises RecipeError for a path that is not there, and for both kinds."""
    if missing := [str(path) for path in paths if not path.exists()]:
        raise RecipeError(f"--data: {', '.join(missing)}: no such file or folder")
    named, datasets = [str(path) for path in paths], [(path / "meta" / "info.json").is_file() for path in paths]
    if any(datasets) and not all(datasets):
        raise RecipeError("--data: some are LeRobotDatasets and some are not: train from one kind")
    kept = {key: source[key] for key in _KEPT if key in source}
    return {"lerobot": named, **kept} if datasets[0] else {"bags": {"robot": named}, **kept}
