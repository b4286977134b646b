"""What stands in a token version's manifest, for tests; importable everywhere (`conftest.py`)."""

from typing import Any

from vla_align_ros.checkpoint import Provenance


def a_provenance(**changes: Any) -> Provenance:
    """Of a token that an alignment made, for a robot of one joint and one camera."""
    fields: dict[str, Any] = {
        "model_name": "tiny",
        "base_weights_sha256": "ab" * 32,
        "norm_stats_sha256": "cd" * 32,
        "state_fields": ("shoulder",),
        "action_fields": ("shoulder",),
        "cameras": ("front",),
        "reason": "align",
    }
    return Provenance(**{**fields, **changes})
