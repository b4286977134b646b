"""One token version on disk: the bytes of its token, and the check that everything in its folder is what it says.

Neighbours: `manifest.py` is the other file in the folder, `store.py` decides which versions exist and which is active.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from vla_align_ros.checkpoint.manifest import Manifest, StoreError, manifest_from_json
from vla_align_ros.types import Float32Array

TOKEN_KEY = "peft_prefix_token"
TOKEN_FILE, MANIFEST_FILE = "token.safetensors", "manifest.json"


@dataclass(frozen=True)
class TokenVersion:
    """One verified version. token: (peft_num_tokens, W) float32, read-only."""

    manifest: Manifest
    token: Float32Array = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.manifest.name


def sha256_of(data: bytes) -> str:
    """Hex digest, as `sha256sum` prints it."""
    return hashlib.sha256(data).hexdigest()


def token_to_bytes(token: Float32Array) -> bytes:
    """The bytes of `token.safetensors`. StoreError: not (peft_num_tokens, W), not float32, or not finite."""
    _check_token(token)
    return safetensors.numpy.save({TOKEN_KEY: np.ascontiguousarray(token)})


def read_version(folder: Path) -> TokenVersion:
    """Read and verify one version folder. StoreError: a file is missing or unreadable, the hash, name, shape, dtype or
    key is wrong.
    """
    try:
        manifest = manifest_from_json((folder / MANIFEST_FILE).read_bytes())
        data = (folder / TOKEN_FILE).read_bytes()
    except OSError as error:
        raise StoreError(f"cannot be read: {error}") from None
    if manifest.name != folder.name:
        raise StoreError(f"manifest.json belongs to version {manifest.name}")
    digest = sha256_of(data)
    if digest != manifest.token_sha256:
        raise StoreError(f"{TOKEN_FILE} has sha256 {digest[:12]}.., the manifest says {manifest.token_sha256[:12]}..")
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{TOKEN_FILE} is not a safetensors file of numbers: {error}") from None
    if list(tensors) != [TOKEN_KEY]:
        raise StoreError(f"{TOKEN_FILE} must hold exactly {TOKEN_KEY!r}, got {sorted(tensors)}")
    token = tensors[TOKEN_KEY]
    _check_token(token)
    if token.shape != manifest.shape:
        raise StoreError(f"the token has shape {token.shape}, the manifest says {manifest.shape}")
    token.flags.writeable = False
    return TokenVersion(manifest, token)


def _check_token(token: Float32Array) -> None:
    if token.ndim != 2 or token.size == 0 or token.dtype != np.float32:
        raise StoreError(f"a token must be (peft_num_tokens, W) float32, got {token.shape} {token.dtype}")
    if not np.isfinite(token).all():
        raise StoreError(
            f"a token must be finite, got {np.count_nonzero(~np.isfinite(token))} numbers that are NaN or infinite"
        )
