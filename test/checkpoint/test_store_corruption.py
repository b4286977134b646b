"""The store with damaged files in it: skipped, reported, never used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from provenances import a_provenance

from vla_align_ros.checkpoint import Provenance, StoreError, TokenStore
from vla_align_ros.checkpoint.version import TOKEN_KEY, read_version
from vla_align_ros.types import Float32Array

MakeToken = Callable[[float], Float32Array]


def names_in(store: TokenStore) -> list[str]:
    return [version.name for version in store.versions()]


def active_name(store: TokenStore) -> str | None:
    version = store.active()
    return version.name if version else None


def corrupt_token(folder: Path) -> None:
    data = bytearray((folder / "token.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "token.safetensors").write_bytes(data)


def edit_manifest(folder: Path, **change: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def replace_token(folder: Path, **tensors: Float32Array) -> None:
    data = safetensors.numpy.save(dict(tensors))
    (folder / "token.safetensors").write_bytes(data)
    edit_manifest(folder, token_sha256=hashlib.sha256(data).hexdigest())


INVALID = "manifest.json: Invalid JSON"
CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (corrupt_token, "has sha256"),
    "empty token": (lambda folder: (folder / "token.safetensors").write_bytes(b""), "has sha256"),
    "no token": (lambda folder: (folder / "token.safetensors").unlink(), "cannot be read"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
    "cut manifest": (lambda folder: (folder / "manifest.json").write_text('{"format": 1'), INVALID),
    "deep manifest": (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), INVALID),
    "binary manifest": (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe\x00"), INVALID),
    "newer format": (lambda folder: edit_manifest(folder, format=2), "manifest.json: format"),
    "unknown key": (lambda folder: edit_manifest(folder, colour="red"), "colour"),
    "other name": (lambda folder: edit_manifest(folder, name="000001"), "belongs to version 000001"),
    "other shape": (lambda folder: edit_manifest(folder, shape=[2, 16]), "the manifest says \\(2, 16\\)"),
    "other key": (
        lambda folder: replace_token(folder, e_token=np.zeros((4, 16), np.float32)),
        "exactly 'peft_prefix_token'",
    ),
    "nan": (
        lambda folder: replace_token(folder, peft_prefix_token=np.full((4, 16), np.nan, np.float32)),
        "must be finite",
    ),
    "float16": (lambda folder: replace_token(folder, peft_prefix_token=np.zeros((4, 16), np.float16)), "float16"),
    "no safetensors": (
        lambda folder: [
            (folder / "token.safetensors").write_bytes(b"pickle"),
            edit_manifest(folder, token_sha256=hashlib.sha256(b"pickle").hexdigest()),
        ],
        "not a safetensors file",
    ),
    "folder for a file": (
        lambda folder: [(folder / "manifest.json").unlink(), (folder / "manifest.json").mkdir()],
        "cannot be read",
    ),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupted_version_is_skipped_reported_and_refused(
    filled: TokenStore, corruption: str, caplog: pytest.LogCaptureFixture
) -> None:
    corrupt, message = CORRUPTIONS[corruption]
    corrupt(filled.root / "versions" / "000003")
    assert active_name(filled) == "000002"
    assert "000003" in caplog.text
    state = filled.read()
    assert list(state.versions) == ["000001", "000002"]
    with pytest.raises(StoreError, match=message):
        read_version(filled.root / "versions" / "000003")
    assert "missing or corrupted" in state.problems["ACTIVE"]
    for action in (filled.load, filled.restore, filled.pin):
        with pytest.raises(StoreError, match="000003 is corrupted"):
            action("000003")


def test_an_older_version_replaces_a_corrupted_active_one_not_one_that_was_rolled_back(filled: TokenStore) -> None:
    filled.roll_back()
    corrupt_token(filled.root / "versions" / "000002")
    assert active_name(filled) == "000001"
    corrupt_token(filled.root / "versions" / "000001")
    assert active_name(filled) == "000003", "nothing older is left"
    corrupt_token(filled.root / "versions" / "000003")
    assert active_name(filled) is None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"000002 000003", b"000002\x00", b"latest", b"000099\n", None])
def test_a_corrupted_active_file_is_reported_and_the_newest_valid_version_serves(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken, content: bytes | None
) -> None:
    path = filled.root / "ACTIVE"
    path.unlink() if content is None else path.write_bytes(content)
    assert active_name(filled) == "000003"
    assert "ACTIVE" in filled.read().problems
    filled.save(make_token(4), provenance)
    assert filled.read().problems == {}


def test_foreign_files_in_the_store_are_left_alone(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken
) -> None:
    foreign = [filled.root / "versions" / name for name in ("notes.txt", ".DS_Store", "000001.bak")]
    for path in foreign:
        path.write_text("mine")
    filled.save(make_token(4), provenance)
    assert filled.read().problems == {}
    assert all(path.read_text() == "mine" for path in foreign)


def test_roll_back_passes_over_a_corrupted_version(filled: TokenStore) -> None:
    (filled.root / "versions" / "000002" / "token.safetensors").write_bytes(b"torn")
    assert filled.roll_back().name == "000001"


def test_prune_leaves_corrupted_versions_for_a_person_to_look_at(filled: TokenStore) -> None:
    corrupt_token(filled.root / "versions" / "000001")
    assert TokenStore(filled.root, keep=1).prune() == ("000002",)
    assert (filled.root / "versions" / "000001").exists()


def test_with_a_corrupted_pin_list_nothing_is_pruned_and_no_pin_is_lost(filled: TokenStore) -> None:
    filled.pin("000001")
    path = filled.root / "PINNED"
    path.write_bytes(path.read_bytes() + b"\xff\n")
    for action in (TokenStore(filled.root, keep=1).prune, lambda: filled.pin("000002"), lambda: filled.unpin("000001")):
        with pytest.raises(StoreError, match="PINNED is corrupted"):
            action()
    assert len(names_in(filled)) == 3
    assert path.read_bytes() == b"000001\n\xff\n"


@given(data=st.data())
def test_no_damage_to_a_token_file_goes_unnoticed(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = TokenStore(tmp_path_factory.mktemp("damage"), keep=1)
    store.save(np.ones((1, 4), np.float32), a_provenance())
    path = store.root / "versions" / "000001" / "token.safetensors"
    good = path.read_bytes()
    assert TOKEN_KEY.encode() in good
    bad = data.draw(st.binary(max_size=200) | st.integers(0, len(good) - 1).map(lambda end: good[:end]))
    if bad != good:
        path.write_bytes(bad)
        assert store.active() is None
