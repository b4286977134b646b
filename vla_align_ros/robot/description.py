"""`robot:` of `model.yaml`: which joints a robot has, what each number of state and action means, where commands go.

Inside the package every position is in ROS's unit (rad, or m for a prismatic joint) and every joint goes by its name in
`JointState`. The model's own numbers (degrees, percent of a range) exist only between `Policy` and its network; one
line a field leads from one to the other (`units.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from vla_align_ros.checked import load_yaml
from vla_align_ros.robot.units import ROS_UNIT, Scale, Unit, line

ActionKind = Literal["position", "delta_position", "velocity"]


def _known_kind(kind: object) -> object:
    if kind not in get_args(ActionKind):
        known = ", ".join(get_args(ActionKind))
        raise ValueError(
            f"kind must be one of {known} of a joint, got {kind!r}; end-effector poses are not supported yet"
        )
    return kind


METRES_A_RAD: Final = 0.25  # so far an arm's hand goes when a joint near it turns by 1 rad: what is far for a slide
Entry = Literal["position", "velocity", "effort"]
GroupType = Literal["joint_trajectory", "position_stream"]
Float64Array = NDArray[np.float64]
Float32Array = NDArray[np.float32]


class DescriptionError(ValueError):
    """A robot description is missing, unreadable or wrong; the message says which key, and what is expected."""


_strict = ConfigDict(extra="forbid", allow_inf_nan=False)
Name = Annotated[str, Field(min_length=1)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(ge=0.001, le=10_000)]


@dataclass(frozen=True, config=_strict)
class Joint:
    """One joint, and the limits that no command may leave. Positions in `unit`: rad, or m for a prismatic joint.

    position: lowest and highest. velocity_max: a second. acceleration_max: a second squared; None is not checked.
    may_be_blocked: an object in its way is no fault, as for a gripper that closes on something.
    """

    position: tuple[float, float]
    velocity_max: Positive
    acceleration_max: Positive | None = None
    unit: Literal["rad", "m"] = "rad"
    may_be_blocked: bool = False

    def __post_init__(self) -> None:
        low, high = self.position
        if not low < high:
            raise ValueError(f"position must be [lowest, highest], got [{low:g}, {high:g}]: the wrong way round?")


@dataclass(frozen=True, kw_only=True, config=_strict)
class Number:
    """One number of a vector: which joint it is of, and its unit in the model (`units.line`).

    name: as the training data calls it; the joint's name when left out.
    """

    joint: Name
    name: str = ""
    unit: Unit = "rad"
    range: tuple[float, float] | None = None
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        line(self.unit, self.range, self.scale, self.offset)

    @property
    def label(self) -> str:
        return self.name or self.joint


@dataclass(frozen=True, kw_only=True, config=_strict)
class StateField(Number):
    """One number of the state: an entry of a joint in `JointState`."""

    entry: Entry = "position"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.entry != "position" and self.offset:
            raise ValueError(f"{self.label}: only a position has an offset, no {self.entry}: leave it out")


@dataclass(frozen=True, kw_only=True, config=_strict)
class ActionField(Number):
    """One number of an action.

    kind: `position`, `delta_position` (from the observation's state), `velocity` (the unit, a second). A change has no
    offset, but the position that it leads to, which a dataset may say instead, has.
    """

    kind: Annotated[ActionKind, BeforeValidator(_known_kind)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "velocity" and self.offset:
            raise ValueError(f"{self.label}: only a position has an offset, no velocity: leave it out")


@dataclass(frozen=True, config=_strict)
class CommandGroup:
    """Joints that one controller commands.

    type: `joint_trajectory` (a JointTrajectory a chunk, as joint_trajectory_controller takes it) or `position_stream`
    (Float64MultiArray with the positions due now, `stream_rate_hz` times a second, as forward_command_controller takes
    them). joints: in the controller's order, by our names; `prefix` is left off on the wire.
    """

    topic: Name
    type: GroupType
    joints: Annotated[tuple[Name, ...], Field(min_length=1)]
    prefix: str = ""
    stream_rate_hz: Rate = 50.0

    def __post_init__(self) -> None:
        if wrong := [joint for joint in self.joints if not joint.startswith(self.prefix)]:
            raise ValueError(f"{self.topic}: prefix {self.prefix!r} is not how {wrong} begin")

    @property
    def wire_names(self) -> tuple[str, ...]:
        """The joints by the names that the controller knows."""
        return tuple(joint.removeprefix(self.prefix) for joint in self.joints)


@dataclass(frozen=True, config=_strict)
class JointStateTopic:
    """Where joint states come from. prefix: put before each name in the message, where two arms use the same names."""

    topic: Name
    prefix: str = ""


@dataclass(frozen=True, config=_strict)
class RobotDescription:
    """A whole `robot:`.

    joints: by name, every one that is read or commanded. state, action: the model's vectors, field by field.
    cameras: camera name -> topic, relative to the node's namespace. joint_states: the topics that the joints come from.
    control_rate_hz: actions a second. execute: actions that run of each chunk before the next takes over.
    command_groups: empty publishes the whole chunk on `~/action_chunk` alone; else each group goes to its controller,
    too.
    """

    joints: dict[Name, Joint]
    state: Annotated[tuple[StateField, ...], Field(min_length=1)]
    action: Annotated[tuple[ActionField, ...], Field(min_length=1)]
    cameras: Annotated[dict[Name, Name], Field(min_length=1)]
    control_rate_hz: Rate
    execute: Annotated[int, Field(ge=1)]
    joint_states: Annotated[tuple[JointStateTopic, ...], Field(min_length=1)] = (JointStateTopic("joint_states"),)
    command_groups: tuple[CommandGroup, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        problems = [*self._vector_problems(), *self._source_problems(), *self._group_problems()]
        used = [*self.cameras.values(), *(source.topic for source in self.joint_states)]
        used += [group.topic for group in self.command_groups]
        problems += [
            f"the topic {topic!r} is there twice: each camera, joint state and group has its own"
            for topic in _twice(used)
        ]
        if problems:
            raise ValueError("; ".join(problems))

    def _vector_problems(self) -> Iterable[str]:
        for vector, fields in (("state", self.state), ("action", self.action)):
            for label in _twice(item.label for item in fields):
                yield f"{vector}: the field {label!r} is there twice"
            for item in fields:
                joint = self.joints.get(item.joint)
                if joint is None:
                    yield f"{vector}: {item.label!r} is of joint {item.joint!r}, not in joints {list(self.joints)}"
                elif ROS_UNIT.get(item.unit, joint.unit) != joint.unit:
                    yield f"{vector}: {item.label!r} is in {item.unit}, but joint {item.joint!r} moves in {joint.unit}"
        for joint_name in _twice(item.joint for item in self.action):
            yield f"action: joint {joint_name!r} is commanded by two fields"
        read = {item.joint for item in self.state if item.entry == "position"}
        for item in self.action:
            if item.joint not in read:
                yield f"action: {item.joint!r} is commanded, so state needs a field with its position"
        for name in sorted(set(self.joints) - read - {item.joint for item in self.state}):
            yield f"joints: {name!r} is neither read nor commanded: take it out"

    def _source_problems(self) -> Iterable[str]:
        prefixes = [source.prefix for source in self.joint_states]
        names = list(dict.fromkeys(self.state_joints))
        for prefix in prefixes:
            if not any(name.startswith(prefix) for name in names):
                yield f"joint_states: no joint that the state reads begins with the prefix {prefix!r}, it reads {names}"
        for name in names:
            if not name.startswith(tuple(prefixes)):
                yield f"joint_states: {name!r} is read, but begins with none of the prefixes {prefixes}"

    def _group_problems(self) -> Iterable[str]:
        commanded = [item.joint for item in self.action]
        grouped = [joint for group in self.command_groups for joint in group.joints]
        for joint in _twice(grouped):
            yield f"command_groups: joint {joint!r} is commanded by two groups, or twice by one"
        for joint in dict.fromkeys(grouped):
            if joint not in commanded:
                yield f"command_groups: joint {joint!r} is in no field of action, which commands {commanded}"
        if self.command_groups:
            for joint in commanded:
                if joint not in grouped:
                    yield f"command_groups: {joint!r} is commanded by action, but no group sends it anywhere"

    @property
    def period_ns(self) -> int:
        """One control tick, in nanoseconds."""
        return round(1e9 / self.control_rate_hz)

    def names_on(self, source: JointStateTopic) -> tuple[str, ...]:
        """Joints of the state that may come from a joint-state topic, as they are called there."""
        read = dict.fromkeys(name for name in self.state_joints if name.startswith(source.prefix))
        return tuple(name.removeprefix(source.prefix) for name in read)

    @property
    def action_joints(self) -> tuple[str, ...]:
        """(A,) the commanded joint of each action field."""
        return tuple(item.joint for item in self.action)

    @property
    def action_limits(self) -> tuple[Joint, ...]:
        """(A,) the limits of each commanded joint."""
        return tuple(self.joints[name] for name in self.action_joints)

    @property
    def state_joints(self) -> tuple[str, ...]:
        """(S,) the joint of each state field."""
        return tuple(item.joint for item in self.state)

    @property
    def state_labels(self) -> tuple[str, ...]:
        """(S,) the name of each state field."""
        return tuple(item.label for item in self.state)

    @property
    def action_labels(self) -> tuple[str, ...]:
        """(A,) the name of each action field."""
        return tuple(item.label for item in self.action)

    @cached_property
    def wire_names(self) -> frozenset[str]:
        """Every name by which a commanded joint goes, here or at its controller."""
        return frozenset((*self.action_joints, *(name for group in self.command_groups for name in group.wire_names)))

    @cached_property
    def velocity_max(self) -> Float64Array:
        """(A,) of each commanded joint, its unit a second."""
        return np.array([joint.velocity_max for joint in self.action_limits])

    @cached_property
    def scale_of_rad(self) -> Float64Array:
        """(A,) what is as far for each commanded joint as 1 rad is for a turning one, in its unit."""
        return _scale_of_rad(self.action_limits)

    @cached_property
    def must_follow(self) -> NDArray[np.bool_]:
        """(A,) False where an object in the way of the joint is no fault (`Joint.may_be_blocked`)."""
        return np.array([not joint.may_be_blocked for joint in self.action_limits])

    @cached_property
    def judged_by_way(self) -> NDArray[np.bool_]:
        """(A,) False of a gripper's goal: where something is in its way it lies far ahead of the joint, and steps."""
        free = [item.kind != "velocity" and self.joints[item.joint].may_be_blocked for item in self.action]
        return ~np.array(free)

    @cached_property
    def kinds(self) -> NDArray[np.str_]:
        """(A,) the kind of each action field."""
        return np.array([item.kind for item in self.action])

    @cached_property
    def position_columns(self) -> NDArray[np.intp]:
        """(A,) column of the state that holds the measured position of each commanded joint."""
        column = {item.joint: index for index, item in enumerate(self.state) if item.entry == "position"}
        return np.array([column[name] for name in self.action_joints])

    def measured(self, state: NDArray[np.floating]) -> Float64Array:
        """(..., S) state in ROS's units -> (..., A) the positions of the commanded joints."""
        return np.asarray(state, np.float64)[..., self.position_columns]

    def motion(self, change: NDArray[np.floating]) -> Float32Array:
        """(N, S) change of states -> (N, P) of the P positions in them, 1.0 as far as 1 rad is. Velocities and efforts,
        in other units, are left out."""
        columns = [index for index, item in enumerate(self.state) if item.entry == "position"]
        scale = _scale_of_rad([self.joints[self.state[index].joint] for index in columns])
        return (change[:, columns] / scale).astype(np.float32)

    @cached_property
    def state_scale(self) -> Scale:
        """Of the state's numbers."""
        return _scale(self.state, [item.entry == "position" for item in self.state])

    @cached_property
    def action_scale(self) -> Scale:
        """Of an action's numbers."""
        return _scale(self.action, self.kinds == "position")

    @cached_property
    def goal_scale(self) -> Scale:
        """Of an action's numbers where a `delta_position` is written as the *position* that it leads to."""
        return _scale(self.action, self.kinds != "velocity")


def load_description(path: Path) -> RobotDescription:
    """Read and check a description (`config/robots/*.yaml`). Raises DescriptionError with every problem."""
    return load_yaml(path, RobotDescription, DescriptionError)


def _scale_of_rad(joints: Sequence[Joint]) -> Float64Array:
    return np.array([METRES_A_RAD if joint.unit == "m" else 1.0 for joint in joints])


def _scale(fields: Sequence[StateField | ActionField], absolute: Iterable[bool]) -> Scale:
    """Only an absolute position has an offset."""
    lines = [line(item.unit, item.range, item.scale, item.offset) for item in fields]
    whole = [(factor, offset if has else 0.0) for (factor, offset), has in zip(lines, absolute, strict=True)]
    return Scale(*np.array(whole).T)


def _twice(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
