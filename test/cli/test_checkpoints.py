from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from provenances import a_provenance
from typer.testing import CliRunner, Result

from vla_align_ros.checkpoint import StoreOwnership, TokenStore
from vla_align_ros.cli.checkpoints import app

PROVENANCE = a_provenance(losses_before={"dynamics": 0.5}, losses_after={"dynamics": 0.25})


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    store = TokenStore(tmp_path / "store", keep=10)
    for value in (1, 2, 3):
        store.save(np.full((1, 8), value, np.float32), PROVENANCE)
    return store


def run(store: TokenStore, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--store", str(store.root)], env={"COLUMNS": "200"})


def answer(store: TokenStore, *arguments: str) -> Any:
    result = run(store, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_list_shows_versions_the_active_one_and_problems(store: TokenStore) -> None:
    (store.root / "versions" / "000002" / "token.safetensors").write_bytes(b"torn")
    result = run(store, "list")
    assert result.exit_code == 0
    assert "000001" in result.stdout
    assert "dynamics 0.5 -> 0.25" in result.stdout
    assert "000002: token.safetensors has sha256" in result.stderr
    listed = answer(store, "list")
    assert listed["active"] == "000003"
    assert [version["name"] for version in listed["versions"]] == ["000001", "000003"]
    assert list(listed["problems"]) == ["000002"]


def test_show_prints_the_manifest(store: TokenStore) -> None:
    assert answer(store, "show", "000002")["parent"] == "000001"
    assert "base_weights_sha256" in run(store, "show", "000002").stdout


def test_roll_back_and_restore_change_the_active_version(store: TokenStore) -> None:
    assert answer(store, "roll-back")["active"] == "000002"
    assert run(store, "restore", "000003").stdout == "active: 000003\n"
    version = store.active()
    assert version is not None
    assert version.name == "000003"


def test_pin_and_prune(store: TokenStore) -> None:
    assert answer(store, "pin", "000001") == {"pinned": ["000001"]}
    assert answer(store, "prune", "--keep", "1") == {"removed": ["000002"]}
    assert run(store, "pin", "000001", "--remove").stdout == "pinned: none\n"
    assert run(store, "prune", "--keep", "1").stdout == "removed: 000001\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "000009"], "has no version '000009'. Valid versions: 000001, 000002, 000003."),
        (["restore", "../../etc"], "has no version"),
        (["pin", "000001", "--remove"], "not pinned"),
    ],
)
def test_a_refusal_is_exit_code_1_with_the_reason_on_stderr(
    store: TokenStore, arguments: list[str], message: str
) -> None:
    result = run(store, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""


def test_a_mistyped_path_is_refused_and_creates_nothing(tmp_path: Path) -> None:
    missing = TokenStore(tmp_path / "missing", keep=1)
    for command in (["list"], ["roll-back"], ["prune", "--keep", "1"]):
        result = run(missing, *command)
        assert result.exit_code == 1
        assert "no token store at" in result.stderr
    assert not missing.root.exists()


def test_a_store_that_a_policy_runs_from_can_be_changed_and_says_whose_it_is(store: TokenStore) -> None:
    ownership = StoreOwnership.take(store.root, "arm1.vla_policy")
    result = run(store, "restore", "000001")
    ownership.release()
    assert result.exit_code == 0
    assert "in use by robot arm1.vla_policy" in result.stderr


def test_wrong_usage_is_exit_code_2(store: TokenStore) -> None:
    assert run(store, "prune", "--keep", "0").exit_code == 2
    assert run(store, "prune").exit_code == 2
