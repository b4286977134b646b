"""`params.py` as ROS parameters: declared with types, ranges and descriptions, checked again when they are set."""

from __future__ import annotations

from typing import Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_align_ros.descriptors import Descriptor, ParameterError, ParameterValue, Params, fields_of

Group = TypeVar("Group", bound=Params)
_TYPES = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
    "str": Parameter.Type.STRING,
}


class NodeParameters(Generic[Group]):
    """A group of `params.py` declared on a node. `values` is always one consistent, checked snapshot.

    Raises ParameterError (or rclpy's ParameterException) when the node was started with a bad value.
    """

    def __init__(self, node: Node, group: type[Group]) -> None:
        self._node = node
        overridden = set(node._parameter_overrides)
        self.set_by_user = {descriptor.name for descriptor in fields_of(group)} & overridden
        found: dict[str, ParameterValue] = {}
        for descriptor in fields_of(group):
            given = node._parameter_overrides.get(descriptor.name)
            if given is not None:
                descriptor.checked(given.value)
            found[descriptor.name] = node.declare_parameter(
                descriptor.name, descriptor.default, _describe(descriptor)
            ).value
        self.values: Group = group.from_mapping(found)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    def recommend(self, recommended: dict[str, ParameterValue]) -> None:
        """Set what a model recommends, where the user has set nothing."""
        ours = {d.name: d for d in fields_of(type(self.values)) if d.recommended}
        changes = {name: value for name, value in recommended.items() if name in ours and name not in self.set_by_user}
        if changes:
            self._node.set_parameters(
                [Parameter(name, _TYPES[ours[name].type], value) for name, value in changes.items()]
            )
            self.set_by_user -= set(changes)

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self.values.updated({p.name: p.value for p in parameters if p.name in self.values.to_mapping()})
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # noqa: BLE001 (a raise in this callback kills the node)
            return SetParametersResult(successful=False, reason=f"cannot be checked: {error!r}")
        return SetParametersResult(successful=True)

    def _take(self, parameters: list[Parameter]) -> None:
        known = self.values.to_mapping()
        changes = {p.name: p.value for p in parameters if p.name in known}
        self.set_by_user |= set(changes)
        self.values = self.values.updated(changes)


def _describe(descriptor: Descriptor) -> ParameterDescriptor:
    unit = f" [{descriptor.unit}]" if descriptor.unit else ""
    when = "" if descriptor.live else " Read at configure."
    described = ParameterDescriptor(
        description=f"{descriptor.doc}{unit}{when}", additional_constraints=" | ".join(descriptor.choices)
    )
    if descriptor.low is not None and descriptor.high is not None:
        if descriptor.type == "int":
            described.integer_range = [
                IntegerRange(from_value=int(descriptor.low), to_value=int(descriptor.high), step=1)
            ]
        else:
            described.floating_point_range = [
                FloatingPointRange(from_value=descriptor.low, to_value=descriptor.high, step=0.0)
            ]
    return described
