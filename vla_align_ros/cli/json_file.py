"""`--json FILE` of commands that measure for minutes: the place is checked before, not found missing after."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _there(file: Path | None) -> Path | None:
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        why = "this is a folder" if file.is_dir() else f"there is no folder {file.parent}"
        raise typer.BadParameter(f"{file}: {why}")
    return file


JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here.", callback=_there)
]
