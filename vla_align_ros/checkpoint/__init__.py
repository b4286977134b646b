"""Token versions on disk: `store` (which exist, which is active), `version` (one folder, verified), `manifest` (where
a token came from, which model it fits), `durable` (files that survive a power cut)."""

from vla_align_ros.checkpoint.manifest import Manifest, Provenance, StoreError, TokenMismatch, check_fits
from vla_align_ros.checkpoint.store import StoreState, TokenStore
from vla_align_ros.checkpoint.version import TokenVersion

__all__ = [
    "Manifest",
    "Provenance",
    "StoreError",
    "StoreState",
    "TokenMismatch",
    "TokenStore",
    "TokenVersion",
    "check_fits",
]
