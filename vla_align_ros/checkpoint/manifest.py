"""`manifest.json` of a token version: where the token came from and which model it belongs to.

Two halves: the `Provenance` is what the one who saves knows; `TokenStore.save` adds the rest and makes it a `Manifest`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, field, fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vla_align_ros.checked import problems

FORMAT = 1
VERSION_PATTERN = r"^[0-9]{6,12}$"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
VersionName = Annotated[str, Field(pattern=VERSION_PATTERN)]

_strict = ConfigDict(extra="forbid", allow_inf_nan=False)


class StoreError(Exception):
    """The token store cannot do what was asked; the message says what is wrong and what to do. Nothing was changed."""


class TokenMismatch(StoreError):
    """A token version belongs to another model than the one that runs."""


@dataclass(frozen=True, kw_only=True, config=_strict)
class Provenance:
    """Why a token exists and for which model.

    base_weights_sha256, norm_stats_sha256: of the model's weights file and of its `norm_stats.json`.
    state_fields, action_fields: the labels of the robot description. They and cameras: in the model's order.
    reason: `initial` (the token that the model ships) or `align`.
    parameters: of the alignment, by their names in `params.py`.
    experience: what it learned from: count, episodes, first_stamp_ns, last_stamp_ns, ...
    losses_before, losses_after: on the held-out part, by loss name. Finite numbers only.
    """

    model_name: str
    base_weights_sha256: Sha256
    norm_stats_sha256: Sha256
    state_fields: tuple[str, ...]
    action_fields: tuple[str, ...]
    cameras: tuple[str, ...]
    reason: Literal["initial", "align"]
    parameters: dict[str, JsonValue] = field(default_factory=dict)
    experience: dict[str, JsonValue] = field(default_factory=dict)
    losses_before: dict[str, float] = field(default_factory=dict)
    losses_after: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_strict)
class Manifest(Provenance):
    """A whole `manifest.json`.

    name: the version's folder, six digits or more, counting up.
    created_ns: nanoseconds since 1970, UTC.
    token_sha256: of the bytes of `token.safetensors` (so `sha256sum` checks it). shape: (peft_num_tokens, W).
    parent: the version that was active when this one was saved, the one that `roll_back` returns to; None for the
    first.
    """

    format: Literal[1] = 1
    name: VersionName
    created_ns: int
    token_sha256: Sha256
    shape: tuple[int, int]
    parent: VersionName | None

    @classmethod
    def complete(cls, provenance: Provenance, **rest: Any) -> Manifest:
        """`provenance` and `rest`, the fields that only the store knows. StoreError for values that do not fit."""
        known = {item.name: getattr(provenance, item.name) for item in fields(Provenance)}
        try:
            return cls(**known, **rest)
        except ValidationError as error:
            raise StoreError(f"no manifest can be made: {problems(error)}") from None


def manifest_to_json(manifest: Manifest) -> bytes:
    """The bytes of `manifest.json`. StoreError for numbers that JSON does not have (NaN, infinity)."""
    try:
        return (json.dumps(asdict(manifest), indent=2, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise StoreError(f"the manifest of {manifest.name} cannot be written as JSON: {error}") from None


def manifest_from_json(data: bytes) -> Manifest:
    """Parse `manifest.json`. StoreError with every key that is missing, unknown or wrong."""
    try:
        manifest: Manifest = TypeAdapter(Manifest).validate_json(data, strict=True)
    except ValidationError as error:
        raise StoreError(f"manifest.json: {problems(error)}") from None
    return manifest


def check_fits(
    manifest: Manifest,
    *,
    base_weights_sha256: str,
    norm_stats_sha256: str,
    state_fields: tuple[str, ...],
    action_fields: tuple[str, ...],
    cameras: tuple[str, ...],
    shape: tuple[int, int],
) -> None:
    """Return when the token of `manifest` belongs to the model that these describe; TokenMismatch with each difference
    otherwise.

    The model's name is not compared: the same weights under another name are the same model.
    """
    expected = {
        "base_weights_sha256": base_weights_sha256,
        "norm_stats_sha256": norm_stats_sha256,
        "state_fields": tuple(state_fields),
        "action_fields": tuple(action_fields),
        "cameras": tuple(cameras),
        "shape": tuple(shape),
    }
    different = [
        f"{key} is {getattr(manifest, key)}, the model has {value}"
        for key, value in expected.items()
        if getattr(manifest, key) != value
    ]
    if different:
        raise TokenMismatch(
            f"token version {manifest.name} is for another model ({manifest.model_name}): {'; '.join(different)}. "
            "Run that model, or give this one a store of its own."
        )
