"""How a parameter is described and checked, free of ROS. The parameters themselves are in `params.py`."""

from __future__ import annotations

import dataclasses
import difflib
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

ParameterType = Literal["bool", "int", "float", "str"]
ParameterValue = bool | int | float | str


class ParameterError(ValueError):
    """A parameter is unknown, of the wrong type or out of range: which, what was expected, what came, what is valid."""


@dataclass(frozen=True)
class Descriptor:
    """What is known about one parameter, free of ROS.

    low, high: inclusive range of a number, None for bool and str. choices: the allowed strings; empty allows any.
    recommended: where the user sets no value, the model's (`model.yaml: recommended`) goes before `default`.
    in_file: `config/*.yaml` sets it; not what the model or each start decides, for to load the file into a running node
    must not reset that.
    """

    name: str
    type: ParameterType
    default: ParameterValue
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    live: bool
    recommended: bool
    in_file: bool
    doc: str

    @property
    def step(self) -> int:
        """Step of the ROS range: whole numbers go in ones; 0 lets a float take any value of its range."""
        return 1 if self.type == "int" else 0

    @property
    def range_text(self) -> str:
        """`0..10`, `auto | cpu | cuda`, or nothing."""
        if self.low is not None and self.high is not None:
            return f"{self.low}..{self.high}"
        return " | ".join(self.choices)

    @property
    def expected(self) -> str:
        """What a value must be: `float 0.01..60.0 s`."""
        return " ".join(part for part in (self.type, self.range_text, self.unit) if part)

    def checked(self, value: object) -> ParameterValue:
        """`value` in this parameter's type; a whole number is taken for a float, nothing else is converted.

        Raises ParameterError for another type, a value out of range (NaN is), or a string that is no choice.
        """
        typed = _CONVERT[self.type](value)
        if typed is None:
            raise ParameterError(f"{self.name}: expected {self.expected}, got {value!r} ({type(value).__name__})")
        if self.low is not None and self.high is not None:
            allowed = not isinstance(typed, str) and self.low <= typed <= self.high
        else:
            allowed = not self.choices or typed in self.choices
        if not allowed:
            raise ParameterError(f"{self.name}: expected {self.expected}, got {value!r}")
        return typed


def _as_int(value: object) -> int | None:
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else None


def _as_float(value: object) -> float | None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number beyond every range
        return float("inf")


_CONVERT: dict[ParameterType, Callable[[object], ParameterValue | None]] = {
    "bool": lambda value: value if isinstance(value, bool) else None,
    "int": _as_int,
    "float": _as_float,
    "str": lambda value: value if isinstance(value, str) else None,
}


def parameter(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    within: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
    recommended: bool = False,
    in_file: bool = True,
) -> Any:
    """A dataclass field that describes a parameter; `within` is the inclusive range, and every number has one."""
    low, high = within or (None, None)
    about = {"unit": unit, "low": low, "high": high, "choices": choices, "live": live, "recommended": recommended}
    return field(default=default, metadata={**about, "in_file": in_file and not recommended, "doc": doc})


def group(inner: type[Params], prefix: str = "") -> Any:
    """A field that holds another group; its parameters join this one's flat namespace, as `prefix` and their name."""
    return field(default_factory=inner, metadata={"group": inner, "prefix": prefix})


@dataclass(frozen=True)
class Params:
    """Base of the groups. However one is made, every value is checked, and all problems come in one ParameterError."""

    def __post_init__(self) -> None:
        found = []
        for descriptor in _own_fields(type(self)):
            try:
                object.__setattr__(self, descriptor.name, descriptor.checked(getattr(self, descriptor.name)))
            except ParameterError as error:
                found.append(str(error))
        if found:
            raise ParameterError("; ".join(found))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """The group with the values of `mapping` (flat names, as in ROS) and defaults elsewhere.

        Raises ParameterError for an unknown name (with the valid ones), a wrong type, or a value out of range.
        """
        if found := problems(cls, mapping):
            raise ParameterError("; ".join(found))
        return cls._from_known(mapping)

    @classmethod
    def _from_known(cls, values: Mapping[str, Any]) -> Self:
        arguments = {}
        for own in dataclasses.fields(cls):
            if "group" in own.metadata:
                prefix = own.metadata["prefix"]
                inner = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
                arguments[own.name] = own.metadata["group"]._from_known(inner)
            elif own.name in values:
                arguments[own.name] = values[own.name]
        return cls(**arguments)

    def to_mapping(self) -> dict[str, ParameterValue]:
        """Flat name -> value, as in ROS; `from_mapping` is its inverse."""
        flat: dict[str, ParameterValue] = {}
        for own in dataclasses.fields(self):
            value = getattr(self, own.name)
            if isinstance(value, Params):
                flat.update({own.metadata["prefix"] + name: inner for name, inner in value.to_mapping().items()})
            else:
                flat[own.name] = value
        return flat

    def updated(self, changes: Mapping[str, object]) -> Self:
        """A copy with `changes` (flat names). Raises ParameterError as `from_mapping` does."""
        return self.from_mapping({**self.to_mapping(), **changes})


def problems(group: type[Params], values: Mapping[str, object]) -> list[str]:
    """What is wrong with values of a group's parameters: unknown names, and values that do not fit."""
    known, found = {descriptor.name: descriptor for descriptor in fields_of(group)}, []
    for name, value in values.items():
        try:
            if name not in known:
                raise ParameterError(unknown(name, list(known)))
            known[name].checked(value)
        except ParameterError as error:
            found.append(str(error))
    return found


def unknown(name: object, valid: list[str]) -> str:
    """The sentence for a parameter that does not exist, with the nearest that does."""
    close = difflib.get_close_matches(str(name), valid, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    return f"{name}: no such parameter{hint} (valid: {', '.join(valid)})"


def _own_fields(group: type[Params]) -> list[Descriptor]:
    return [
        Descriptor(name=own.name, type=own.type, default=own.default, **own.metadata)  # type: ignore[arg-type]
        for own in dataclasses.fields(group)
        if "group" not in own.metadata
    ]


def fields_of(group: type[Params]) -> tuple[Descriptor, ...]:
    """Descriptors of every parameter of a group, the nested groups' after its own, in order of declaration."""
    nested = [own.metadata for own in dataclasses.fields(group) if "group" in own.metadata]
    inner = [(about["prefix"], descriptor) for about in nested for descriptor in fields_of(about["group"])]
    return (*_own_fields(group), *(dataclasses.replace(d, name=prefix + d.name) for prefix, d in inner))
