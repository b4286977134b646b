"""The launch files name things that exist, run against stand-ins for launch and launch_ros.

launch is not on the package index that the tests install from. The stand-ins have the signatures of launch 3.4.3 and
launch_ros 0.26.6, so that a wrong keyword fails here.
"""

import importlib.metadata
import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest

from vla_align_ros.params import NODES, fields_of

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = ("vla_align.launch.py", "sim.launch.py")
PYTHON_TYPE = {"str": str, "bool": bool, "int": int, "float": float}


class Context:
    """launch.LaunchContext: the configurations that were set by arguments and defaults."""

    def __init__(self, given=None):
        self.values = dict(given or {})


def text_of(value, context):
    """What launch makes of a string, a substitution, or a list of them."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(text_of(part, context) for part in value)
    return value.perform(context)


class LaunchDescription:
    def __init__(self, initial_entities=None):
        self.entities = initial_entities


class DeclareLaunchArgument:
    def __init__(self, name, *, default_value=None, description=None, choices=None):
        self.name, self.default, self.description = name, default_value, description

    def run(self, context):
        context.values.setdefault(self.name, text_of(self.default, context))
        return []


class SetEnvironmentVariable:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def run(self, context):
        os.environ[self.name] = text_of(self.value, context)
        return []


class OpaqueFunction:
    def __init__(self, *, function, args=None, kwargs=None):
        self.function = function

    def run(self, context):
        return self.function(context)


class IncludeLaunchDescription:
    def __init__(self, launch_description_source, *, launch_arguments=None):
        self.source = launch_description_source

    def run(self, context):
        return run_file(Path(text_of(self.source.location, context)).name, context)


class PythonLaunchDescriptionSource:
    def __init__(self, launch_file_path):
        self.location = launch_file_path


class LaunchConfiguration:
    def __init__(self, variable_name, *, default=None):
        self.name = variable_name

    def perform(self, context):
        return context.values[self.name]  # KeyError: the file forgot to declare it


class EnvironmentVariable:
    def __init__(self, name, *, default_value=None):
        self.name, self.default = name, default_value

    def perform(self, context):
        return os.environ.get(self.name, text_of(self.default, context))


class PathJoinSubstitution:
    def __init__(self, substitutions):
        self.parts = substitutions

    def perform(self, context):
        return str(Path(*(text_of(part, context) for part in self.parts)))


class FindPackageShare:
    def __init__(self, package):
        assert package == "vla_align_ros"

    def perform(self, context):
        return str(REPOSITORY)  # launch/, config/ and models/ lie as in the share folder


class ParameterValue:
    def __init__(self, value, *, value_type=None):
        self.value, self.type = value, value_type


class Node:
    def __init__(
        self,
        *,
        executable,
        package=None,
        name=None,
        namespace=None,
        exec_name=None,
        parameters=None,
        remappings=None,
        ros_arguments=None,
        arguments=None,
        output=None,
        emulate_tty=None,
    ):
        self.executable, self.package, self.name, self.namespace = executable, package, name, namespace
        self.parameters, self.remappings, self.ros_arguments = parameters, remappings, ros_arguments


STAND_INS = {
    "launch": (LaunchDescription,),
    "launch.actions": (
        DeclareLaunchArgument,
        IncludeLaunchDescription,
        OpaqueFunction,
        SetEnvironmentVariable,
    ),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution),
    "launch_ros": (),
    "launch_ros.actions": (Node,),
    "launch_ros.parameter_descriptions": (ParameterValue,),
    "launch_ros.substitutions": (FindPackageShare,),
}


@pytest.fixture(autouse=True)
def launch(monkeypatch):
    for name, members in STAND_INS.items():
        module = types.ModuleType(name)
        module.__dict__.update({member.__name__: member for member in members})
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["launch"].LaunchContext = Context
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")  # restored after, whatever a launch file sets


def description(file_name):
    spec = importlib.util.spec_from_file_location(file_name.replace(".", "_"), REPOSITORY / "launch" / file_name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def run_file(file_name, context):
    """The Node actions that a launch file starts."""
    return [node for entity in description(file_name).entities for node in entity.run(context)]


def parameters_of(node, context):
    """Name -> (text, type) of the values that the launch file itself sets."""
    values = next(item for item in node.parameters if isinstance(item, dict))
    return {name: (text_of(value.value, context), value.type) for name, value in values.items()}


def files_of(node, context):
    return [text_of(item, context) for item in node.parameters if not isinstance(item, dict)]


@pytest.mark.parametrize("file_name", FILES)
def test_every_argument_is_described_and_has_a_default(file_name):
    arguments = [entity for entity in description(file_name).entities if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    for argument in arguments:
        assert argument.description, argument.name
        assert argument.default is not None, argument.name


def test_bare_launch_starts_one_process_whose_values_come_from_the_files():
    context = Context()
    (node,) = run_file("vla_align.launch.py", context)
    assert (node.package, node.executable, node.name) == ("vla_align_ros", "vla_align_node", None)
    assert parameters_of(node, context) == {"use_sim_time": ("false", bool)}
    files = files_of(node, context)
    assert [Path(path).name for path in files] == ["checkpoint_manager.yaml", "vla_policy.yaml"]
    assert all(Path(path).is_file() for path in files)
    assert node.remappings == []


def test_arguments_that_are_given_win_over_the_file_and_only_those():
    given = {"model": "tiny", "autostart": "false", "namespace": "robot1", "params_file": "mine.yaml"}
    context = Context(given)
    (node,) = run_file("vla_align.launch.py", context)
    values = parameters_of(node, context)
    assert values == {"use_sim_time": ("false", bool), "model": ("tiny", str), "autostart": ("false", bool)}
    assert text_of(node.namespace, context) == "robot1"
    assert files_of(node, context)[-1] == "mine.yaml"
    # Later entries win in ROS: the files first, then what was given.
    assert isinstance(node.parameters[-1], dict)


def test_cameras_are_remapped_by_one_argument():
    given = {"remap": "camera/wrist/image_raw=/d435/color/image_raw, joint_states=/arm/joint_states,"}
    (node,) = run_file("vla_align.launch.py", Context(given))
    pairs = [("camera/wrist/image_raw", "/d435/color/image_raw"), ("joint_states", "/arm/joint_states")]
    assert node.remappings == pairs


@pytest.mark.parametrize("text", ["wrist", "a=b=c", "=b", "a="])
def test_remapping_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match="expected 'from=to,from=to'"):
        run_file("vla_align.launch.py", Context({"remap": text}))


def test_simulation_starts_the_robot_beside_the_nodes_with_the_shipped_model():
    context = Context({"embodiment_seed": "7", "use_sim_time": "true"})
    nodes, robot = run_file("sim.launch.py", context)
    assert parameters_of(nodes, context) == {"use_sim_time": ("true", bool), "model": ("tiny", str)}
    assert (robot.executable, robot.name) == ("sim_robot", "sim_robot")
    values = parameters_of(robot, context)
    assert values == {"publish_clock": ("true", bool), "embodiment_seed": ("7", int)}
    assert [Path(path).name for path in files_of(robot, context)] == ["sim_robot.yaml"]


@pytest.mark.parametrize(
    ("file_name", "groups"),
    [("vla_align.launch.py", ("vla_policy", "checkpoint_manager")), ("sim.launch.py", ("sim_robot",))],
)
def test_parameters_that_a_launch_file_sets_exist_in_that_type(file_name, groups):
    numbers = {"embodiment_seed": "1", "shift_scale": "1.0", "rate": "2.0"}
    context = Context({"model": "m", "store": "s", "prompt": "p", "autostart": "true", **numbers})
    *_, node = run_file(file_name, context)
    known = {d.name: PYTHON_TYPE[d.type] for group in groups for d in fields_of(NODES[group])}
    set_here = {name: kind for name, (_, kind) in parameters_of(node, context).items() if name != "use_sim_time"}
    assert len(set_here) == 4
    assert set_here.items() <= known.items()


@pytest.mark.parametrize("file_name", FILES)
def test_executables_are_installed_by_the_package(file_name):
    scripts = {entry.name for entry in importlib.metadata.distribution("vla_align_ros").entry_points}
    assert {node.executable for node in run_file(file_name, Context())} <= scripts


@pytest.mark.parametrize("file_name", FILES)
def test_dds_profile_is_set_unless_the_user_has_one(file_name, monkeypatch):
    run_file(file_name, Context())
    profile = Path(os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"])
    assert profile.name == "fastdds_profile.xml"
    assert profile.is_file()
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/my/profile.xml")
    run_file(file_name, Context())
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/my/profile.xml"
