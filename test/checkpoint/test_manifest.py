from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vla_align_ros.checkpoint import Manifest, Provenance, StoreError, TokenMismatch, check_fits
from vla_align_ros.checkpoint.manifest import manifest_from_json, manifest_to_json

MODEL = {
    "base_weights_sha256": "ab" * 32,
    "norm_stats_sha256": "cd" * 32,
    "state_fields": ("shoulder", "elbow"),
    "action_fields": ("shoulder", "elbow"),
    "cameras": ("front", "wrist"),
    "shape": (4, 16),
}


@pytest.fixture
def manifest(provenance: Provenance) -> Manifest:
    rest = {"name": "000002", "created_ns": 10**18, "token_sha256": "12" * 32, "shape": (4, 16), "parent": "000001"}
    return Manifest.complete(provenance, **rest)


def test_json_round_trip(manifest: Manifest) -> None:
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


words = st.text(max_size=10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(words, json_values, max_size=3),
    st.dictionaries(words, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.lists(words, min_size=1, max_size=3),
)
def test_json_round_trip_of_anything(
    parameters: dict[str, object], losses: dict[str, float], joints: list[str]
) -> None:
    manifest = Manifest(
        model_name="m",
        base_weights_sha256="0" * 64,
        norm_stats_sha256="0" * 64,
        state_fields=tuple(joints),
        action_fields=tuple(joints),
        cameras=(),
        reason="initial",
        parameters=parameters,  # type: ignore[arg-type]
        losses_after=losses,
        name="000001",
        created_ns=1,
        token_sha256="0" * 64,
        shape=(1, 1),
        parent=None,
    )
    assert manifest_from_json(manifest_to_json(manifest)) == manifest


@given(st.binary(max_size=300))
def test_hostile_bytes_raise_store_error_only(data: bytes) -> None:
    with pytest.raises(StoreError, match=r"manifest\.json"):
        manifest_from_json(data)


def test_every_wrong_key_is_named(manifest: Manifest) -> None:
    data = (
        manifest_to_json(manifest)
        .replace(b'"created_ns": 1', b'"created_ns": "x1')
        .replace(b',\n  "token', b'",\n  "token')
    )
    data = data.replace(b'"reason": "align"', b'"reason": "luck"')
    with pytest.raises(StoreError) as caught:
        manifest_from_json(data)
    assert "created_ns" in str(caught.value)
    assert "reason" in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"base_weights_sha256": "short"}, {"reason": "luck"}, {"losses_before": {"dynamics": float("nan")}}]
)
def test_a_wrong_provenance_cannot_be_made(provenance: Provenance, change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        replace(provenance, **change)  # type: ignore[arg-type]


def test_a_token_fits_its_model_under_any_name(manifest: Manifest) -> None:
    check_fits(manifest, **MODEL)  # type: ignore[arg-type]
    check_fits(replace(manifest, model_name="renamed"), **MODEL)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_weights_sha256", "00" * 32),
        ("norm_stats_sha256", "00" * 32),
        ("state_fields", ("elbow", "shoulder")),
        ("action_fields", ("shoulder", "gripper")),
        ("cameras", ("front",)),
        ("shape", (1, 16)),
    ],
)
def test_a_token_of_another_model_is_refused_with_what_differs(manifest: Manifest, key: str, value: object) -> None:
    with pytest.raises(TokenMismatch) as caught:
        check_fits(manifest, **{**MODEL, key: value})  # type: ignore[arg-type]
    text = str(caught.value)
    assert f"{key} is {MODEL[key]}, the model has {value}" in text
    assert not any(f"{other} is" in text for other in MODEL if other != key)
