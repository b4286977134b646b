"""A zoo folder is the old one or the new one, whole, whenever the process that writes it dies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vla_align_ros.training import export
from vla_align_ros.training.recipe import RecipeError

OLD = {"model.yaml": "old", "weights": "old", "README.md": "how it was trained"}
NEW = {"model.yaml": "new", "weights": "new"}


class Killed(BaseException):
    """Nothing after it is done."""


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def dying(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """A function that is never come back from at the given call."""
    left = [calls]

    def die(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise Killed
        return function(*args, **kwargs)

    return die


@pytest.mark.parametrize("there", [{}, OLD], ids=["new", "replaced"])
@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [(shutil, "copyfile", 1), (shutil, "copyfile", 2), (os, "rename", 1), (os, "rename", 2)],
)
def test_what_is_killed_leaves_no_half_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: dict[str, str], module: Any, name: str, calls: int
) -> None:
    target, made = tmp_path / "zoo" / "model", write(tmp_path / "made", NEW)
    if there:
        write(target, there)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, dying(getattr(module, name), calls))
        try:
            export.put_in_place(made, target)
        except Killed:
            found = read(target) if target.exists() else {}
            assert found in ({}, there)
    export.put_in_place(made, target)
    assert read(target) == {**there, **NEW}, "what the model does not bring stays"
    assert [path.name for path in target.parent.iterdir()] == ["model"], "nothing else is left"


def test_a_folder_of_something_else_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    for wrong in (file, tmp_path / "models", tmp_path):
        with pytest.raises(RecipeError, match="expected a model's folder or none, got something else"):
            export.check_target(wrong)
    for right in (tmp_path / "new", write(tmp_path / "card", {"README.md": ""}), write(tmp_path / "old", OLD)):
        export.check_target(right)
