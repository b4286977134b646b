"""`vla-align checkpoints`: look at a token store and change which version is active.

Exit codes: 0 done; 1 the store refused (the reason is on stderr); 2 wrong usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vla_align_ros.checkpoint import StoreError, StoreState, TokenStore, TokenVersion, owner_of

app = typer.Typer(
    no_args_is_help=True,
    help="Token versions: list, show, roll back, restore, pin, prune.\n\n"
    "Example: vla-align checkpoints list --store ~/.ros/vla_align/vla_policy/so101",
)

StoreOption = Annotated[
    Path,
    typer.Option(
        "--store", help="Folder of the token store, which the node names at start: ~/.ros/vla_align/<robot_id>/<model>."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for machines.")]
NameArgument = Annotated[str, typer.Argument(help="Version name, as `list` shows it, e.g. 000003.")]


@app.command("list")
def list_versions(store: StoreOption, as_json: JsonOption = False) -> None:
    """Every version with what it did to the losses, and what is corrupted.

    Example: vla-align checkpoints list --store ~/.ros/vla_align/vla_policy/so101
    """
    with _refusals():
        state = _open(store).read()
    if as_json:
        _print_json(
            active=state.active.name if state.active else None,
            pinned=sorted(state.pinned),
            versions=[asdict(version.manifest) for version in state.versions.values()],
            problems=state.problems,
        )
        return
    Console().print(_table(state))
    for name, problem in state.problems.items():
        typer.echo(f"{name}: {problem}", err=True)


@app.command()
def show(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """The whole manifest of one version.

    Example: vla-align checkpoints show 000003 --store ~/.ros/vla_align/vla_policy/so101
    """
    with _refusals():
        manifest = asdict(_open(store).load(name).manifest)
    if as_json:
        _print_json(**manifest)
        return
    table = Table(show_header=False, box=None)
    for key, value in {**manifest, "created": _created(manifest["created_ns"])}.items():
        table.add_row(key, value if isinstance(value, str) else json.dumps(value))
    Console().print(table)


@app.command()
def roll_back(store: StoreOption, as_json: JsonOption = False) -> None:
    """Go back to the version that was active before the active one was saved.

    Example: vla-align checkpoints roll-back --store ~/.ros/vla_align/vla_policy/so101
    """
    with _refusals():
        _say_active(_open(store).roll_back(), as_json)


@app.command()
def restore(name: NameArgument, store: StoreOption, as_json: JsonOption = False) -> None:
    """Make one version the active one.

    Example: vla-align checkpoints restore 000003 --store ~/.ros/vla_align/vla_policy/so101
    """
    with _refusals():
        _say_active(_open(store).restore(name), as_json)


@app.command()
def pin(
    name: NameArgument,
    store: StoreOption,
    remove: Annotated[bool, typer.Option("--remove", help="Take the pin back.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Protect one version from pruning.

    Example: vla-align checkpoints pin 000003 --store ~/.ros/vla_align/vla_policy/so101
    """
    with _refusals():
        tokens = _open(store)
        (tokens.unpin if remove else tokens.pin)(name)
        pinned = sorted(tokens.read().pinned)
    if as_json:
        _print_json(pinned=pinned)
    else:
        typer.echo(f"pinned: {', '.join(pinned) or 'none'}")


@app.command()
def prune(
    store: StoreOption,
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions stay.")],
    as_json: JsonOption = False,
) -> None:
    """Remove all versions but the newest, the active one and the pinned ones.

    Example: vla-align checkpoints prune --keep 5 --store ~/.ros/vla_align/vla_policy/so101
    """
    with _refusals():
        removed = _open(store, keep).prune()
    if as_json:
        _print_json(removed=list(removed))
    else:
        typer.echo(f"removed: {', '.join(removed) or 'none'}")


def _open(root: Path, keep: int = 1) -> TokenStore:
    """Also says which policy runs from it. `keep` matters to `prune` only. StoreError: no store there, so that a
    mistyped path is not a new one.
    """
    if not (root / "versions").is_dir():
        raise StoreError(f"there is no token store at {root}: give the folder that holds versions/")
    if (owner := owner_of(root)) is not None:
        typer.echo(f"in use by {owner}, which follows what becomes active", err=True)
    return TokenStore(root, keep)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _table(state: StoreState) -> Table:
    table = Table()
    for heading in ("version", "", "created (UTC)", "model", "reason", "parent", "losses before -> after", "sha256"):
        table.add_column(heading, overflow="fold")
    for version in state.versions.values():
        marks = ["active"] * (version == state.active) + ["pinned"] * (version.name in state.pinned)
        manifest = version.manifest
        losses = [
            f"{name} {before:.3g} -> {manifest.losses_after[name]:.3g}"
            for name, before in manifest.losses_before.items()
            if name in manifest.losses_after
        ]
        table.add_row(
            version.name,
            ", ".join(marks),
            _created(manifest.created_ns),
            manifest.model_name,
            manifest.reason,
            manifest.parent or "-",
            "\n".join(losses) or "-",
            manifest.token_sha256[:12],
        )
    return table


def _say_active(version: TokenVersion, as_json: bool) -> None:
    if as_json:
        _print_json(active=version.name, token_sha256=version.manifest.token_sha256)
    else:
        typer.echo(f"active: {version.name}")


def _created(created_ns: int) -> str:
    return datetime.fromtimestamp(created_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_json(**answer: Any) -> None:
    typer.echo(json.dumps(answer))
