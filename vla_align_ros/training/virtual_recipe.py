"""`virtual:` of a recipe's source: in what virtual robots differ from the real one, and how far.

    virtual:
      robots: 64
      seed: 3
      joint_zeros_rad: 0.12                  # 0.12 to both sides, or [lowest, highest]; of all joints but grippers,
      joint_scales: {elbow_flex_joint: 0.1}  # or of those that are named. A scale of 0.1 is 0.9 to 1.1
      joint_flips: 0.3                       # how likely each is turned round
      camera_roll_rad: {wrist: 3.1416}

What each family stands for, and how exactly, says `virtual_parameters.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field, fields
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.seeds import Stream, rng_of
from vla_align_ros.training.recipe import RecipeError
from vla_align_ros.training.virtual_parameters import Parameters

EVERY = ""  # in place of a name
Spans = dict[str, tuple[float, float]]


def _spans(neutral: float, above: float = -math.inf, below: float = math.inf) -> BeforeValidator:
    """A number or [lowest, highest], for every joint or camera or by name -> lowest and highest by name or EVERY."""

    def span(raw: Any) -> tuple[float, float]:
        pair = [neutral - raw, neutral + raw] if isinstance(raw, int | float) else raw
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(f"expected a number or [lowest, highest], got {raw!r}")
        if not all(isinstance(end, int | float) and math.isfinite(end) for end in pair):
            raise ValueError(f"expected finite numbers, got {raw!r}")
        low, high = map(float, pair)
        if low > high:
            raise ValueError(f"expected [lowest, highest], got {raw!r}: the wrong way round?")
        if not above < low <= high < below:
            raise ValueError(f"expected numbers above {above:g} and below {below:g}, got {low:g} to {high:g}")
        return low, high

    def spans(raw: Any) -> Spans:
        return {name: span(part) for name, part in (raw if isinstance(raw, dict) else {EVERY: raw}).items()}

    return BeforeValidator(spans)


def _shares(raw: Any) -> dict[str, float]:
    """How likely, for every joint or camera or by name."""
    found = dict(raw if isinstance(raw, dict) else {EVERY: raw})
    for share in found.values():
        if not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ValueError(f"expected how likely, from 0 to 1, got {share!r}")
    return found


def _ticks(raw: Any) -> tuple[int, int]:
    low, high = raw if isinstance(raw, list | tuple) and len(raw) == 2 else (0, raw)
    if not all(isinstance(end, int) and end >= 0 for end in (low, high)):
        raise ValueError(f"expected whole control ticks, the most or [least, most], got {raw!r}")
    if low > high:
        raise ValueError(f"expected [least, most], got {raw!r}: the wrong way round?")
    return low, high


_Around0 = Annotated[Spans, _spans(0.0)]
_Factor = Annotated[Spans, _spans(1.0, above=0.0)]
_Shares = Annotated[dict[str, float], BeforeValidator(_shares)]
_EndShift = Annotated[Spans, _spans(0.0, above=-0.5, below=0.5)]
_Angle = Annotated[float, Field(gt=0, lt=math.pi, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class VirtualRobots:
    """robots: virtual ones beside the real ones, of which each is one in turn; validation_robots: others, to validate
    on. seed: of all of them. family_share: how likely a robot is shifted in a family.

    camera_tilt_rad needs field_of_view_rad, across the width of the picture, of the cameras that it tilts.
    """

    robots: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    validation_robots: Annotated[int, Field(ge=1)] = 16
    family_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    field_of_view_rad: dict[str, _Angle] = field(default_factory=dict)
    joint_zeros_rad: _Around0 = field(default_factory=dict)
    joint_scales: _Factor = field(default_factory=dict)
    joint_flips: _Shares = field(default_factory=dict)
    gripper_range: _EndShift = field(default_factory=dict)
    command_scales: _Factor = field(default_factory=dict)
    command_flips: _Shares = field(default_factory=dict)
    joint_orders: list[tuple[str, ...]] = field(default_factory=list)
    delay_ticks: Annotated[tuple[int, int], BeforeValidator(_ticks)] = (0, 0)
    camera_roll_rad: _Around0 = field(default_factory=dict)
    camera_tilt_rad: _Around0 = field(default_factory=dict)
    camera_zoom: _Factor = field(default_factory=dict)
    camera_shifts: _EndShift = field(default_factory=dict)
    camera_mirrors: _Shares = field(default_factory=dict)
    camera_swaps: list[tuple[str, str]] = field(default_factory=list)

    def draw(self, robot: RobotDescription, number: int) -> Parameters:
        """Number `number` of them. A family's values are the same whichever others are drawn with it. Raises
        RecipeError for a joint or camera that the robot has not, and for an order that is none."""
        named = self.named(robot)
        values: dict[str, Any] = {}
        for place, (family, (keeps, one)) in enumerate(_FAMILIES.items()):
            rng = rng_of(self.seed, Stream.VIRTUAL_ROBOT, place, number)
            if named[family] and rng.random() < self.family_share:
                values[keeps] = one(named[family], rng)
        return Parameters(**values)

    def named(self, robot: RobotDescription) -> dict[str, Any]:
        """The families, EVERY spelt out for a robot. Raises RecipeError as `draw` does."""
        grippers = [name for name, joint in robot.joints.items() if joint.may_be_blocked]
        others = [name for name in robot.joints if name not in grippers]
        turning = [name for name, joint in robot.joints.items() if joint.unit == "rad"]
        commanded, cameras = list(robot.action_joints), list(robot.cameras)
        found: dict[str, Any] = {family: getattr(self, family) for family in _FAMILIES}
        for families, every, known, what in (
            (["joint_zeros_rad"], others, turning, "joint that turns"),
            (["joint_scales", "joint_flips"], others, list(robot.joints), "joint"),
            (["command_scales", "command_flips"], others, commanded, "joint that is commanded"),
            (["gripper_range"], grippers, grippers, "gripper, a joint that may_be_blocked"),
            (["camera_roll_rad", "camera_tilt_rad", "camera_zoom"], cameras, cameras, "camera"),
            (["camera_shifts", "camera_mirrors"], cameras, cameras, "camera"),
        ):
            for family in families:
                wanted = [name for name in every if name in known]
                found[family] = _spelt_out(family, getattr(self, family), wanted, known, what)
        for order in self.joint_orders:
            _check_order(robot, order)
        for pair in self.camera_swaps:
            if len(set(pair)) != 2 or not set(pair) <= set(cameras):
                raise RecipeError(f"virtual: camera_swaps: expected two of the cameras {cameras}, got {list(pair)}")
        if unknown := sorted(set(self.field_of_view_rad) - set(cameras)):
            raise RecipeError(f"virtual: field_of_view_rad: the robot has no camera {unknown}, it has {cameras}")
        if missing := sorted(set(found["camera_tilt_rad"]) - set(self.field_of_view_rad)):
            raise RecipeError(f"virtual: camera_tilt_rad: field_of_view_rad of {missing} is needed")
        return found

    @property
    def warps(self) -> bool:
        """Whether pictures are turned, shifted or scaled, so that what lies outside of them is missing."""
        return any((self.camera_roll_rad, self.camera_tilt_rad, self.camera_zoom, self.camera_shifts))


def _spelt_out(
    family: str, given: Mapping[str, Any], every: Sequence[str], known: Sequence[str], what: str
) -> dict[str, Any]:
    if unknown := sorted(set(given) - set(known) - {EVERY}):
        raise RecipeError(f"virtual: {family}: the robot has no {what} {unknown}, it has {list(known)}")
    if EVERY in given and not every:
        raise RecipeError(f"virtual: {family}: the robot has no {what}")
    return {
        name: given.get(name, given.get(EVERY)) for name in known if name in given or (EVERY in given and name in every)
    }


def _check_order(robot: RobotDescription, order: Sequence[str]) -> None:
    """Raises RecipeError for what is no permutation of the joints, or one that puts a joint in the place of another
    kind."""
    joints = list(robot.joints)
    if sorted(order) != sorted(joints):
        raise RecipeError(f"virtual: joint_orders: expected each of {joints} once, got {list(order)}")
    kinds = {item.joint: item.kind for item in robot.action}

    def about(joint: str) -> tuple[Any, ...]:
        entries = sorted(item.entry for item in robot.state if item.joint == joint)
        return robot.joints[joint].unit, kinds.get(joint), entries

    for joint, real in zip(joints, order, strict=True):
        if about(joint) != about(real):
            text = "differ in unit, kind of command or what is read of them"
            raise RecipeError(f"virtual: joint_orders: {real!r} cannot take the place of {joint!r}, they {text}")


def _uniform(named: Spans, rng: np.random.Generator) -> dict[str, float]:
    return {name: float(rng.uniform(*span)) for name, span in named.items()}


def _uniform_pairs(named: Spans, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    return {name: (float(rng.uniform(*span)), float(rng.uniform(*span))) for name, span in named.items()}


def _some(named: dict[str, float], rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(name for name, share in named.items() if rng.random() < share)


def _one_of(named: Sequence[Any], rng: np.random.Generator) -> Any:
    return named[int(rng.integers(len(named)))]


def _whole(named: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(named[0], named[1] + 1))


# family of a recipe -> which of Parameters it draws, and how. A new one goes to the end: the place is in the seed.
_FAMILIES: dict[str, tuple[str, Callable[[Any, np.random.Generator], Any]]] = {
    "joint_zeros_rad": ("joint_zeros_rad", _uniform),
    "joint_scales": ("joint_scales", _uniform),
    "joint_flips": ("joint_flips", _some),
    "gripper_range": ("gripper_range", _uniform_pairs),
    "command_scales": ("command_scales", _uniform),
    "command_flips": ("command_flips", _some),
    "joint_orders": ("joint_order", _one_of),
    "delay_ticks": ("delay_ticks", _whole),
    "camera_roll_rad": ("camera_roll_rad", _uniform),
    "camera_tilt_rad": ("camera_tilt_rad", _uniform_pairs),
    "camera_zoom": ("camera_zoom", _uniform),
    "camera_shifts": ("camera_shifts", _uniform_pairs),
    "camera_mirrors": ("camera_mirrors", _some),
    "camera_swaps": ("camera_swap", _one_of),
}
FAMILIES: Iterable[str] = _FAMILIES.keys()
assert set(FAMILIES) < {item.name for item in fields(VirtualRobots)}
