"""Robot descriptions for tests; `robots` is importable everywhere (`conftest.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vla_align_ros.robot.description import ActionField, ActionKind, Joint, RobotDescription, StateField

TURNING = Joint((-3.0, 3.0), 2.5)


def a_robot(
    kinds: ActionKind | Sequence[ActionKind] = "velocity",
    names: Sequence[str] = ("shoulder", "elbow"),
    joint: Joint | Sequence[Joint] = TURNING,
    **changes: Any,
) -> RobotDescription:
    """Every joint is read and commanded, in the order of `names`; 10 Hz, four actions of each chunk run."""
    each = [kinds] * len(names) if isinstance(kinds, str) else kinds
    limits = [joint] * len(names) if isinstance(joint, Joint) else joint
    fields = {
        "joints": dict(zip(names, limits, strict=True)),
        "state": tuple(StateField(joint=name, unit=item.unit) for name, item in zip(names, limits, strict=True)),
        "action": tuple(
            ActionField(joint=name, kind=kind, unit=item.unit)
            for name, kind, item in zip(names, each, limits, strict=True)
        ),
        "cameras": {"front": "front/image_raw"},
        "control_rate_hz": 10.0,
        "execute": 4,
    }
    return RobotDescription(**{**fields, **changes})
