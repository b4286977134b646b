"""`params.py` as ROS parameters: declared with types, ranges and descriptions, checked again when they are set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_align_ros.descriptors import Descriptor, ParameterError, ParameterValue, Params, fields_of, unknown
from vla_align_ros.params import NODES

Group = TypeVar("Group", bound=Params)
_TYPES = {
    "bool": Parameter.Type.BOOL,
    "int": Parameter.Type.INTEGER,
    "float": Parameter.Type.DOUBLE,
    "str": Parameter.Type.STRING,
}


class NodeParameters(Generic[Group]):
    """A group of `params.py` declared on a node. `values` is always one consistent, checked snapshot.

    configured: whether the node has read the parameters that are not live, which then cannot be changed; None for a
    node that reads them at its start. Raises ParameterError (or rclpy's ParameterException) when the node was started
    with a bad value; what it was given and does not have is logged.
    """

    def __init__(self, node: Node, group: type[Group], configured: Callable[[], bool] | None = None) -> None:
        self._node, self._configured = node, configured
        self._read = "configure" if configured else "start"
        overridden = set(node._parameter_overrides)
        self.set_by_user = {descriptor.name for descriptor in fields_of(group)} & overridden
        found: dict[str, ParameterValue] = {}
        for descriptor in fields_of(group):
            given = node._parameter_overrides.get(descriptor.name)
            if given is not None:  # `lambda_dyn:=1` is meant as 1.0, which rclpy does not take it for
                value = descriptor.checked(given.value)
                node._parameter_overrides[descriptor.name] = Parameter(descriptor.name, _TYPES[descriptor.type], value)
            found[descriptor.name] = node.declare_parameter(
                descriptor.name, descriptor.default, _describe(descriptor, self._read)
            ).value
        self.values: Group = group.from_mapping(found)
        self._log_unknown()
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._take)

    def recommend(self, recommended: dict[str, ParameterValue]) -> None:
        """Set what a model recommends, where the user has set nothing. Raises ParameterError for what is no value."""
        ours = {d.name: d for d in fields_of(type(self.values)) if d.recommended}
        changes = {name: value for name, value in recommended.items() if name in ours and name not in self.set_by_user}
        if changes:
            found = self._node.set_parameters(
                [Parameter(name, _TYPES[ours[name].type], value) for name, value in changes.items()]
            )
            self.set_by_user -= set(changes)
            if refused := [result.reason for result in found if not result.successful]:
                raise ParameterError(f"recommended by the model: {'; '.join(refused)}")

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            known = self.values.to_mapping()
            new = self.values.updated({p.name: p.value for p in parameters if p.name in known}).to_mapping()
            fixed = [d for d in fields_of(type(self.values)) if not d.live and new[d.name] != known[d.name]]
            if fixed and (self._configured is None or self._configured()):
                return SetParametersResult(successful=False, reason=self._fixed(fixed[0].name, known))
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # noqa: BLE001 (a raise in this callback kills the node)
            return SetParametersResult(successful=False, reason=f"cannot be checked: {error!r}")
        return SetParametersResult(successful=True)

    def _fixed(self, name: str, known: Mapping[str, ParameterValue]) -> str:
        """Why it stays as it is, and what to do."""
        todo = "start the node anew with another value"
        if self._configured is not None:
            todo = f"deactivate and clean up {self._node.get_fully_qualified_name()}, set it, and configure again"
        return f"{name}: it is read at {self._read} and stays {known[name]!r}; to change it, {todo}"

    def _log_unknown(self) -> None:
        """A parameter file or the command line may name what no node of this package has: most likely mistyped."""
        valid = [descriptor.name for descriptor in fields_of(type(self.values))]
        others = {descriptor.name for group in NODES.values() for descriptor in fields_of(group)}
        for name in sorted(set(self._node._parameter_overrides) - others):
            if not self._node.has_parameter(name) and not name.startswith("qos_overrides."):
                self._node.get_logger().warning(f"a parameter has no effect: {unknown(name, valid)}")

    def _take(self, parameters: list[Parameter]) -> None:
        known = self.values.to_mapping()
        changes = {p.name: p.value for p in parameters if p.name in known}
        self.set_by_user |= set(changes)
        self.values = self.values.updated(changes)


def _describe(descriptor: Descriptor, read: str) -> ParameterDescriptor:
    unit = f" [{descriptor.unit}]" if descriptor.unit else ""
    when = "" if descriptor.live else f" Read at {read}."
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
