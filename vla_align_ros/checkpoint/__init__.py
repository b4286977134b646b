"""Token versions on disk: `store` (which exist, which is active), `version` (one folder, verified), `manifest` (where
a token came from, which model it fits), `owner` (which policy runs from a store), `durable` (files that survive a power
cut)."""

from vla_align_ros.checkpoint.manifest import Manifest, Provenance, StoreError, TokenMismatch, check_fits
from vla_align_ros.checkpoint.owner import StoreOwned, StoreOwnership, owner_of
from vla_align_ros.checkpoint.store import StoreState, TokenStore
from vla_align_ros.checkpoint.version import TokenVersion

__all__ = [
    "Manifest",
    "Provenance",
    "StoreError",
    "StoreOwned",
    "StoreOwnership",
    "StoreState",
    "TokenMismatch",
    "TokenStore",
    "TokenVersion",
    "check_fits",
    "owner_of",
]
