"""The arguments of the launch files, checked before anything is started, free of ROS.

A launch that finds a mistake half-way leaves what it has started behind, with nobody to end it. Everything here raises
ParameterError: one sentence that begins with the argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vla_align_ros.descriptors import ParameterError, ParameterValue, Params, fields_of, problems
from vla_align_ros.params import NODES

LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
WRONG_USAGE = 2  # exit code of a node whose parameters or ROS arguments are wrong: to start it again cannot help
_TOPIC = r"(?!.*__)/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*"  # what ROS takes for a name
WILDCARDS = ("*", "**")
_PARAMETERS = "ros__parameters"


def parameters(
    group: type[Params], texts: Mapping[str, str], also: Mapping[str, ParameterValue] | None = None
) -> dict[str, ParameterValue]:
    """The arguments that are given (not empty), which are parameters of `group` by the same names, in their types; and
    `also`, parameters that come from elsewhere.
    """
    types = {descriptor.name: descriptor.type for descriptor in fields_of(group)}
    given = {name: text if types[name] == "str" else _parsed(text) for name, text in texts.items() if text}
    checked = group.from_mapping({**given, **(also or {})}).to_mapping()
    return {name: checked[name] for name in (*given, *(also or {}))}


def flag(argument: str, text: str) -> bool:
    """`true` or `false`."""
    value = _parsed(text)
    if not isinstance(value, bool):
        raise ParameterError(f"{argument}: expected true or false, got {text!r}")
    return value


def log_level(text: str) -> str:
    """One of LOG_LEVELS."""
    if text.lower() not in LOG_LEVELS:
        raise ParameterError(f"log_level: expected {' | '.join(LOG_LEVELS)}, got {text!r}")
    return text.lower()


def namespace(text: str) -> str:
    """A ROS namespace, or nothing."""
    if text not in ("", "/") and re.fullmatch(_TOPIC, text, re.ASCII) is None:
        raise ParameterError(f"namespace: expected a ROS namespace, as in arm1 or /cell/arm1, got {text!r}")
    return text


def remappings(text: str) -> list[tuple[str, str]]:
    """`from=to,from=to` (`:=` does too) as pairs."""
    pairs = []
    for item in filter(None, map(str.strip, text.split(","))):
        if "~" in item:
            raise ParameterError(
                f"remap: ~ is another name in each node: write vla_policy/prompt for ~/prompt, got {item!r}"
            )
        parts = tuple(part.strip() for part in item.replace(":=", "=").split("="))
        if len(parts) != 2 or not all(re.fullmatch(_TOPIC, part, re.ASCII) for part in parts):
            raise ParameterError(f"remap: expected topics as in 'joint_states=/arm/joint_states,from=to', got {item!r}")
        pairs.append((parts[0], parts[1]))
    return pairs


def parameter_file(argument: str, text: str, nodes: Sequence[str], within: str = "") -> str:
    """The path of a ROS parameter file for `nodes` in the namespace `within`. What it sets for a node of this package
    must be a parameter of that node and a value of it; something in it must be for one of `nodes`, in that namespace.
    """
    path = Path(text).expanduser()
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ParameterError(f"{argument}: {path} cannot be read: {' '.join(str(error).split())}") from None
    sections = list(_sections(tree))
    for node, values in sections:
        if not isinstance(values, dict):
            raise ParameterError(f"{argument}: {path}: {node}: no parameters below {_PARAMETERS}")
        where, name = f"{argument}: {path}: {node}", node.rpartition("/")[2]
        if name in NODES:
            _check_values(where, NODES[name], values)
        elif name in WILDCARDS:  # other nodes may have the parameters that ours do not
            for own in (NODES[ours] for ours in nodes):
                names = {descriptor.name for descriptor in fields_of(own)}
                _check_values(where, own, {key: value for key, value in values.items() if key in names})
    listed = [node for node, _ in sections]
    wanted = {node: f"{namespace(within).strip('/')}/{node}".strip("/") for node in nodes}
    for node, full in wanted.items():
        same = [name for name in listed if name.rpartition("/")[2] == node]
        if same and not any(_reaches(name, full) for name in same):
            raise ParameterError(f"{argument}: {path} is for {same}, and the node is /{full}: write /**/{node}")
    if not any(_reaches(name, full) for name in listed for full in wanted.values()):
        raise ParameterError(f"{argument}: {path} sets nothing for {' or '.join(nodes)}, only for {sorted(listed)}")
    return str(path)


def ends_launch(exit_code: int, respawn: bool, ending: bool) -> bool:
    """Whether a launch ends with a process of it: what is left would do half of the work, unnoticed. ending: it does
    so already, and cannot be asked twice.
    """
    return not ending and (not respawn or exit_code == WRONG_USAGE)


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _sections(tree: object, above: str = "") -> Iterator[tuple[str, Any]]:
    """(name of a node, its parameters) of a parameter file, where namespaces may nest."""
    for key, below in tree.items() if isinstance(tree, dict) else ():
        node = f"{above}/{key}" if above else str(key)
        if isinstance(below, dict):
            if _PARAMETERS in below:
                yield node, below[_PARAMETERS]
            yield from _sections({name: value for name, value in below.items() if name != _PARAMETERS}, node)


def _reaches(name: str, full: str) -> bool:
    """Whether parameters below `name` are for the node of this full name, by rcl's rules."""
    forms = {"**": r"(/\w+)*", "*": r"/\w+"}
    pattern = "".join(forms.get(part, f"/{re.escape(part)}") for part in name.strip("/").split("/"))
    return re.fullmatch(pattern, f"/{full}") is not None


def _check_values(where: str, group: type[Params], values: Mapping[str, object]) -> None:
    own = {name: value for name, value in values.items() if not str(name).startswith("qos_overrides")}
    sim_time = own.pop("use_sim_time", False)
    wrong = [] if isinstance(sim_time, bool) else [f"use_sim_time: expected true or false, got {sim_time!r}"]
    if found := wrong + problems(group, own):
        raise ParameterError(f"{where}: {'; '.join(found)}")
