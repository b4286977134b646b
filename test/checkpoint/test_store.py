from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from vla_align_ros.checkpoint import Provenance, StoreError, TokenStore, durable
from vla_align_ros.checkpoint import store as store_module
from vla_align_ros.types import Float32Array

MakeToken = Callable[[float], Float32Array]
Contents = Callable[[TokenStore], dict[str, bytes]]


def names_in(store: TokenStore) -> list[str]:
    return [version.name for version in store.versions()]


def active_name(store: TokenStore) -> str | None:
    version = store.active()
    return version.name if version else None


def test_a_saved_token_comes_back_bit_for_bit(store: TokenStore, provenance: Provenance) -> None:
    token = np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32)
    saved = store.save(token, provenance)
    again = TokenStore(store.root, keep=10).active()
    assert again == saved
    assert again is not None
    assert again.token.tobytes() == token.tobytes()
    assert not again.token.flags.writeable
    assert again.manifest.losses_after == {"dynamics": 0.25}
    assert again.manifest.experience == provenance.experience


def test_the_layout_on_disk_is_what_the_documents_say(
    store: TokenStore, provenance: Provenance, make_token: MakeToken
) -> None:
    store.save(make_token(1), provenance)
    folder = store.root / "versions" / "000001"
    data = (folder / "token.safetensors").read_bytes()
    assert {path.name for path in folder.iterdir()} == {"token.safetensors", "manifest.json"}
    assert safetensors.numpy.load(data)["peft_prefix_token"].shape == (4, 16)
    assert json.loads((folder / "manifest.json").read_text())["token_sha256"] == hashlib.sha256(data).hexdigest()
    assert (store.root / "ACTIVE").read_text().split() == ["000001"]


def test_every_byte_is_synced_before_the_name_that_makes_it_visible(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def shown(path: object) -> str:
        return str(Path(str(path)).relative_to(filled.root))

    def log_fsync(descriptor: int) -> None:
        steps.append(f"sync {shown(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def log_rename(source: Path, target: Path) -> None:
        steps.append(f"rename {shown(source)} {shown(target)}")
        rename(source, target)

    def log_replace(source: Path, target: Path) -> None:
        steps.append(f"replace {shown(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", log_fsync)
    monkeypatch.setattr(os, "rename", log_rename)
    monkeypatch.setattr(os, "replace", log_replace)
    filled.save(make_token(4), provenance)
    assert steps == [
        "sync versions/.saving-000004/token.safetensors",
        "sync versions/.saving-000004/manifest.json",
        "sync versions/.saving-000004",
        "rename versions/.saving-000004 versions/000004",
        "sync versions",
        "sync .ACTIVE.new",
        "replace ACTIVE",
        "sync .",
    ]


def test_a_version_that_does_not_read_back_never_becomes_active(
    filled: TokenStore,
    provenance: Provenance,
    make_token: MakeToken,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = contents(filled)
    write = durable.write_synced
    monkeypatch.setattr(store_module, "write_synced", lambda path, data: write(path, data[:-1]))
    with pytest.raises(StoreError):
        filled.save(make_token(4), provenance)
    assert contents(filled) == before


def test_an_empty_store_has_no_active_version(store: TokenStore) -> None:
    assert store.active() is None
    assert store.versions() == ()
    assert store.prune() == ()
    assert not store.root.exists(), "looking creates nothing"


def test_each_save_is_a_new_version_with_the_active_one_as_parent(filled: TokenStore) -> None:
    assert names_in(filled) == ["000001", "000002", "000003"]
    assert [version.manifest.parent for version in filled.versions()] == [None, "000001", "000002"]
    assert active_name(filled) == "000003"


@pytest.mark.parametrize(
    "token",
    [
        np.zeros(16, np.float32),
        np.zeros((4, 16), np.float64),
        np.zeros((0, 16), np.float32),
        np.full((4, 16), np.nan, np.float32),
        np.full((4, 16), np.inf, np.float32),
    ],
)
def test_what_is_no_token_is_refused(
    filled: TokenStore, provenance: Provenance, contents: Contents, token: Float32Array
) -> None:
    before = contents(filled)
    with pytest.raises(StoreError, match="a token must be"):
        filled.save(token, provenance)
    assert contents(filled) == before


def test_a_manifest_with_nan_is_refused(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken, contents: Contents
) -> None:
    before = contents(filled)
    provenance.parameters["align_learning_rate"] = float("nan")
    with pytest.raises(StoreError, match=r"parameters.*finite number|cannot be written as JSON"):
        filled.save(make_token(4), provenance)
    assert contents(filled) == before


def test_restore_and_load(filled: TokenStore) -> None:
    assert filled.restore("000001").name == "000001"
    assert active_name(filled) == "000001"
    assert filled.load("000002").token[0, 0] == 2
    for name in ("000009", "../store", "", "1"):
        with pytest.raises(StoreError, match=r"has no version .* Valid versions: 000001, 000002, 000003"):
            filled.restore(name)
        with pytest.raises(StoreError, match="has no version"):
            filled.load(name)
    assert active_name(filled) == "000001"


def test_roll_back_goes_to_what_was_active_before(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken
) -> None:
    assert filled.roll_back().name == "000002"
    assert filled.roll_back().name == "000001"
    filled.save(make_token(4), provenance)
    assert filled.roll_back().name == "000001", "not 000003, which was rolled back itself"
    with pytest.raises(StoreError, match="nothing to roll back to: 000001 is active"):
        filled.roll_back()
    assert active_name(filled) == "000001"


def test_roll_back_of_an_empty_store(store: TokenStore) -> None:
    with pytest.raises(StoreError, match="nothing to roll back to: no version is active"):
        store.roll_back()


def test_a_name_is_never_used_twice(filled: TokenStore, provenance: Provenance, make_token: MakeToken) -> None:
    (filled.root / "versions" / "000003" / "manifest.json").write_text("{")
    assert filled.save(make_token(4), provenance).name == "000004"


def test_prune_keeps_the_newest_the_active_and_the_pinned(
    filled: TokenStore, provenance: Provenance, make_token: MakeToken
) -> None:
    for value in (4, 5, 6):
        filled.save(make_token(value), provenance)
    filled.pin("000001")
    filled.restore("000003")
    assert TokenStore(filled.root, keep=2).prune() == ("000002", "000004")
    assert names_in(filled) == ["000001", "000003", "000005", "000006"]
    assert active_name(filled) == "000003"
    filled.unpin("000001")
    assert TokenStore(filled.root, keep=2).prune() == ("000001",)


def test_save_prunes(tmp_path: Path, provenance: Provenance, make_token: MakeToken) -> None:
    store = TokenStore(tmp_path, keep=2)
    for value in range(1, 6):
        store.save(make_token(value), provenance)
    assert names_in(store) == ["000004", "000005"]


def test_pins_survive_and_can_be_taken_back(filled: TokenStore) -> None:
    filled.pin("000002")
    filled.pin("000001")
    filled.pin("000001")
    assert (filled.root / "PINNED").read_text() == "000001\n000002\n"
    assert TokenStore(filled.root, keep=1).read().pinned == {"000001", "000002"}
    filled.unpin("000002")
    assert filled.read().pinned == {"000001"}
    with pytest.raises(StoreError, match="'000002' is not pinned; pinned are \\['000001'\\]"):
        filled.unpin("000002")


def test_keep_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep must be at least 1"):
        TokenStore(tmp_path, keep=0)
