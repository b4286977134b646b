"""Parameters: what is accepted, what is refused with which words, and that the generated files are up to date."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vla_align_ros.cli.params import generated_files
from vla_align_ros.params import (
    NODES,
    AlignParams,
    Descriptor,
    ManagerParams,
    ParameterError,
    Params,
    PolicyParams,
    SimParams,
    fields_of,
)

REPOSITORY = Path(__file__).resolve().parents[1]
GROUPS = [*NODES.values(), AlignParams]
EVERY = [(group, descriptor) for group in GROUPS for descriptor in fields_of(group)]
NUMBERS = [(group, descriptor) for group, descriptor in EVERY if descriptor.type in ("int", "float")]


def label(value: type[Params] | Descriptor) -> str:
    return value.name if isinstance(value, Descriptor) else value.__name__


def valid_values(descriptor: Descriptor) -> st.SearchStrategy[object]:
    if descriptor.type == "bool":
        return st.booleans()
    if descriptor.type == "str":
        return st.sampled_from(descriptor.choices) if descriptor.choices else st.text(max_size=20)
    if descriptor.type == "int":
        return st.integers(descriptor.low, descriptor.high)
    return st.floats(descriptor.low, descriptor.high)


@st.composite
def mappings(draw: st.DrawFn, group: type[Params]) -> dict[str, object]:
    chosen = draw(st.lists(st.sampled_from(fields_of(group)), unique_by=lambda d: d.name))
    mapping = {descriptor.name: draw(valid_values(descriptor)) for descriptor in chosen}
    if not re.fullmatch(r"\w*", str(mapping.get("robot_id", "")), re.ASCII):
        mapping["robot_id"] = "arm-1.left"
    if group is SimParams and mapping.get("rate", 1.0) != 1.0:
        mapping["publish_clock"] = True
    return mapping


@pytest.mark.parametrize("path", generated_files())
def test_generated_file_is_up_to_date(path):
    assert (REPOSITORY / path).read_text() == generated_files()[path], "run `vla-align params --write`"


@pytest.mark.parametrize("node", NODES)
def test_config_file_holds_the_defaults_in_their_types_but_not_what_model_or_user_decide(node):
    config = yaml.safe_load((REPOSITORY / "config" / f"{node}.yaml").read_text())
    values = config[f"/**/{node}"]["ros__parameters"]
    expected = {d.name: d.default for d in fields_of(NODES[node]) if d.in_file}
    assert values == expected
    assert {name: type(value) for name, value in values.items()} == {n: type(v) for n, v in expected.items()}
    assert NODES[node].from_mapping(values) == NODES[node]()


@pytest.mark.parametrize(("group", "descriptor"), EVERY, ids=label)
def test_every_parameter_is_described_and_its_default_is_valid(group, descriptor):
    assert descriptor.doc.endswith(".")
    assert descriptor.checked(descriptor.default) == descriptor.default
    assert (descriptor.type in ("int", "float")) == (descriptor.low is not None and descriptor.high is not None)
    if descriptor.step:  # ROS refuses a range whose step does not divide it
        assert (descriptor.high - descriptor.low) % descriptor.step == 0
    for ending, unit in {"_hz": "Hz", "_s": "s", "_rad": "rad"}.items():
        assert (descriptor.unit == unit) == descriptor.name.endswith(ending)


@pytest.mark.parametrize("descriptor", [d for d in fields_of(PolicyParams) if d.live and d.type == "float"], ids=label)
def test_sliders_step_is_small_against_the_values_that_are_used(descriptor):
    """rqt's slider has 100 steps, whatever the range; other values can be typed, since the ROS range has no step."""
    recommended = yaml.safe_load((REPOSITORY / "models" / "tiny" / "model.yaml").read_text())["recommended"]
    used = {descriptor.default, recommended.get(descriptor.name, descriptor.default)} - {0.0}
    slider_step = (descriptor.high - descriptor.low) / 100
    assert all(slider_step <= value / 5 for value in used)
    assert descriptor.low == 0.0, "the slider's notches are multiples of its step"
    assert descriptor.step == 0


def test_names_are_unique_in_a_node_and_mean_the_same_in_all():
    for group in GROUPS:
        names = [descriptor.name for descriptor in fields_of(group)]
        assert len(set(names)) == len(names)
    shared = {descriptor.name for descriptor in fields_of(AlignParams)}
    assert shared < {descriptor.name for descriptor in fields_of(PolicyParams)}
    assert all(descriptor.live for descriptor in fields_of(AlignParams))


@pytest.mark.parametrize("group", GROUPS)
@given(data=st.data())
def test_valid_values_are_kept_and_go_back_to_the_same_mapping(group, data):
    mapping = data.draw(mappings(group))
    params = group.from_mapping(mapping)
    flat = params.to_mapping()
    assert {name: flat[name] for name in mapping} == mapping
    assert group.from_mapping(flat) == params
    defaults = {
        descriptor.name: descriptor.default for descriptor in fields_of(group) if descriptor.name not in mapping
    }
    assert {name: flat[name] for name in defaults} == defaults


@pytest.mark.parametrize(("group", "descriptor"), NUMBERS, ids=label)
@given(data=st.data())
def test_number_out_of_range_is_refused_by_name_with_the_range(group, descriptor, data):
    if descriptor.type == "int":
        numbers = st.integers(max_value=int(descriptor.low) - 1) | st.integers(min_value=int(descriptor.high) + 1)
    else:
        numbers = st.floats().filter(lambda x: not descriptor.low <= x <= descriptor.high)
    value = data.draw(numbers)
    with pytest.raises(ParameterError) as caught:
        group.from_mapping({descriptor.name: value})
    for part in (descriptor.name, descriptor.type, descriptor.range_text, descriptor.unit, repr(value)):
        assert part in str(caught.value)


@pytest.mark.parametrize(("group", "descriptor"), EVERY, ids=label)
def test_wrong_type_is_refused_by_name_with_the_type(group, descriptor):
    right = {"bool": (bool,), "int": (int,), "float": (float, int), "str": (str,)}[descriptor.type]
    for wrong in (True, 20, 1.0, "1", None, [1.0], b"1"):
        if type(wrong) in right:
            continue
        with pytest.raises(
            ParameterError, match=f"{descriptor.name}: expected {descriptor.type}.*{type(wrong).__name__}"
        ):
            group.from_mapping({descriptor.name: wrong})


def test_unknown_name_is_refused_with_the_nearest_and_all_valid_ones():
    with pytest.raises(ParameterError, match="lambda_prec: no such parameter, did you mean lambda_perc") as caught:
        AlignParams.from_mapping({"lambda_prec": 1.0})
    assert all(descriptor.name in str(caught.value) for descriptor in fields_of(AlignParams))


def test_all_problems_come_in_one_message():
    with pytest.raises(ParameterError) as caught:
        PolicyParams.from_mapping({"device": "gpu", "num_steps": 0, "lambda_inv": math.nan, "nonsense": 1})
    for name in ("device: expected str auto | cpu | cuda", "num_steps", "lambda_inv", "nonsense"):
        assert name in str(caught.value)


def test_direct_construction_is_checked_too():
    with pytest.raises(ParameterError, match=r"lambda_perc: expected float 0\.0\.\.2\.0, got -1"):
        AlignParams(lambda_perc=-1.0)
    with pytest.raises(ParameterError, match="align_steps"):
        dataclasses.replace(AlignParams(), align_steps=0)


def test_whole_and_numpy_numbers_become_plain_ones():
    params = AlignParams.from_mapping({"lambda_perc": 1, "lambda_dyn": np.float32(0.5), "align_steps": np.int64(7)})
    assert params == AlignParams(lambda_perc=1.0, lambda_dyn=0.5, align_steps=7)
    assert type(params.lambda_perc) is type(params.lambda_dyn) is float
    assert type(params.align_steps) is int
    with pytest.raises(ParameterError, match="lambda_perc"):
        AlignParams.from_mapping({"lambda_perc": 10**400})


def test_update_changes_nested_parameters_and_leaves_the_old_object():
    before = PolicyParams(prompt="touch red")
    after = before.updated({"lambda_dyn": 0.25, "num_steps": 5})
    assert (after.align.lambda_dyn, after.num_steps, after.prompt) == (0.25, 5, "touch red")
    assert before == PolicyParams(prompt="touch red")


@pytest.mark.parametrize("group", [PolicyParams, ManagerParams])
@pytest.mark.parametrize("robot_id", ["../arm", "a/b", ".", "..", "-x", "arm 1", "a" * 101, "arm\n"])
def test_robot_id_is_the_name_of_a_folder(group, robot_id):
    with pytest.raises(ParameterError, match="robot_id: expected letters"):
        group(robot_id=robot_id)


def test_simulation_faster_than_real_time_needs_the_clock():
    with pytest.raises(ParameterError, match="publish_clock"):
        SimParams(rate=2.0)
    assert SimParams(rate=2.0, publish_clock=True).rate == 2.0


def test_manager_and_policy_name_model_and_store_alike():
    manager = {descriptor.name: descriptor.default for descriptor in fields_of(ManagerParams)}
    policy = {descriptor.name: descriptor.default for descriptor in fields_of(PolicyParams)}
    assert {name: policy[name] for name in ("model", "store", "autostart")}.items() <= manager.items()


@pytest.mark.ros
def test_ros_reads_the_config_files_in_any_namespace():
    code = """
import sys, rclpy
from rclpy.node import Node
from vla_align_ros.params import NODES, fields_of
rclpy.init(args=sys.argv)
for name, group in NODES.items():
    node = Node(name, automatically_declare_parameters_from_overrides=True)
    for descriptor in fields_of(group):
        if descriptor.in_file:
            value = node.get_parameter(descriptor.name).value
            assert value == descriptor.default and type(value) is type(descriptor.default), descriptor
        else:
            assert not node.has_parameter(descriptor.name), descriptor
print("same")
"""
    files = [argument for name in NODES for argument in ("--params-file", f"config/{name}.yaml")]
    arguments = ["--ros-args", *files, "-r", "__ns:=/robot1"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "same", done.stderr


def test_descriptor_is_plain_data():
    assert json.loads(json.dumps(dataclasses.asdict(fields_of(AlignParams)[0])))["name"] == "lambda_perc"
