"""The launch files name things that exist, run against stand-ins for launch and launch_ros.

launch is not on the package index that the tests install from. The stand-ins have the signatures of launch 3.4.3 and
launch_ros 0.26.6, so that a wrong keyword fails here; what launch makes of an event is not tried. That the files start,
refuse and end what they should was tried by hand with the real ones.
"""

import importlib
import importlib.util
import os
import sys
import tomllib
import types
from pathlib import Path

import pytest
import yaml

from vla_align_ros.params import ParameterError, SimParams
from vla_align_ros.zoo import find_model

REPOSITORY = Path(__file__).resolve().parents[1]
NODES = ("vla_policy", "checkpoint_manager")
FILES = ("vla_align.launch.py", "sim.launch.py")


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


class Shutdown:
    def __init__(self, *, reason="reason not given"):
        self.reason = reason


class EmitEvent:
    def __init__(self, *, event):
        self.event = event


class RegisterEventHandler:
    def __init__(self, event_handler):
        self.handler = event_handler


class OnStateTransition:
    def __init__(self, *, entities, target_lifecycle_node=None, start_state=None, goal_state=None, handle_once=False):
        self.target, self.entities, self.once = target_lifecycle_node, entities, handle_once
        self.states = (start_state, goal_state)


class ChangeState:
    def __init__(self, *, lifecycle_node_matcher, transition_id):
        self.matches, self.transition_id = lifecycle_node_matcher, transition_id


def matches_action(action):
    return lambda other: other is action


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
        respawn=False,
        respawn_delay=None,
        on_exit=None,
    ):
        self.executable, self.package, self.name, self.namespace = executable, package, name, namespace
        self.parameters, self.remappings, self.ros_arguments = parameters, remappings, ros_arguments
        self.respawn, self.respawn_delay, self.on_exit = respawn, respawn_delay, on_exit

    def ends(self, exit_code, ending=False):
        """Whether the launch ends when its process has ended so."""
        context = types.SimpleNamespace(is_shutdown=ending)
        return bool(self.on_exit(types.SimpleNamespace(returncode=exit_code), context))


class LifecycleNode(Node):
    def __init__(self, *, name, namespace, **rest):
        super().__init__(name=name, namespace=namespace, **rest)


STAND_INS = {
    "launch": (LaunchDescription,),
    "launch.actions": (
        DeclareLaunchArgument,
        EmitEvent,
        IncludeLaunchDescription,
        OpaqueFunction,
        RegisterEventHandler,
        SetEnvironmentVariable,
        Shutdown,
    ),
    "launch.events": (matches_action,),
    "launch.launch_description_sources": (PythonLaunchDescriptionSource,),
    "launch.substitutions": (EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution),
    "launch_ros": (),
    "launch_ros.actions": (LifecycleNode, Node),
    "launch_ros.event_handlers": (OnStateTransition,),
    "launch_ros.events": (),
    "launch_ros.events.lifecycle": (ChangeState,),
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
    """Name -> the value that the launch file itself sets. A text must say that it is one: launch would read YAML."""
    values = next(item for item in node.parameters if isinstance(item, dict))
    for value in values.values():
        assert isinstance(value, ParameterValue) or not isinstance(value, str)
    return {name: value.value if isinstance(value, ParameterValue) else value for name, value in values.items()}


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
    assert parameters_of(node, context) == {}
    files = files_of(node, context)
    assert [Path(path).name for path in files] == ["checkpoint_manager.yaml", "vla_policy.yaml"]
    assert all(Path(path).is_file() for path in files)
    assert node.remappings == []


def test_arguments_that_are_given_win_over_the_file_and_only_those(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**/vla_policy:\n  ros__parameters:\n    seed: 3\n    use_sim_time: true\n")
    given = {"model": "tiny", "autostart": "false", "prompt": "yes", "namespace": "robot1", "params_file": str(mine)}
    context = Context(given)
    (node,) = run_file("vla_align.launch.py", context)
    values = parameters_of(node, context)
    assert values == {"model": "tiny", "prompt": "yes", "autostart": False}, "not use_sim_time: the file says it"
    assert text_of(node.namespace, context) == "robot1"
    assert files_of(node, context)[-1] == str(mine)
    # Later entries win in ROS: the files first, then what was given.
    assert isinstance(node.parameters[-1], dict)


def test_cameras_are_remapped_by_one_argument():
    given = {"remap": "camera/wrist/image_raw=/d435/color/image_raw, joint_states=/arm/joint_states,"}
    (node,) = run_file("vla_align.launch.py", Context(given))
    pairs = [("camera/wrist/image_raw", "/d435/color/image_raw"), ("joint_states", "/arm/joint_states")]
    assert node.remappings == pairs


SHARED = {
    "log_level": "loud",
    "remap": "a=b=c",
    "params_file": "no/such.yaml",
    "namespace": "4x",
    "use_sim_time": "perhaps",
    "respawn": "2",
    "autostart": "maybe",
    "lifecycle_events": "all",
    "robot_id": "../left",
}
OF_SIM = {
    "bench": "so100",
    "embodiment_seed": "x",
    "shift_scale": "9",
    "rate": "2.0",
    "sim_params_file": "no/such.yaml",
}
WRONG = [("vla_align.launch.py", item) for item in SHARED.items()] + [
    ("sim.launch.py", item) for item in (SHARED | OF_SIM).items()
]


@pytest.mark.parametrize(("file_name", "argument"), WRONG)
def test_wrong_value_is_refused_by_the_name_of_its_argument_before_anything_is_started(file_name, argument):
    name, value = argument
    started, context = [], Context({name: value})

    def run():
        for entity in description(file_name).entities:
            started.extend(entity.run(context))

    with pytest.raises(ParameterError, match=rf"^{name}: "):
        run()
    assert not started


@pytest.mark.parametrize("file_name", FILES)
def test_process_that_ends_ends_the_launch_or_is_started_again_but_not_for_a_wrong_parameter(file_name):
    for node in run_file(file_name, Context()):
        assert not node.respawn
        assert all(node.ends(code) for code in (0, 1, 2, -9))
        assert not node.ends(0, ending=True), "launch fails when it is asked twice"
    for node in run_file(file_name, Context({"respawn": "true"})):
        assert node.respawn
        assert node.respawn_delay > 0
        assert not any(node.ends(code) for code in (0, 1, -9))
        assert node.ends(2)


def test_launch_events_move_each_node_in_a_process_of_its_own_unless_autostart_is_off():
    context = Context({"lifecycle_events": "true", "namespace": "arm1"})
    policy, manager, *actions = run_file("vla_align.launch.py", context)
    steps = zip(actions[::2], actions[1::2], strict=True)
    for node, name, (configured, configure) in zip((policy, manager), NODES, steps, strict=True):
        assert isinstance(node, LifecycleNode)
        assert (node.executable, node.name, text_of(node.namespace, context)) == (name, name, "arm1")
        assert parameters_of(node, context)["autostart"] is False, "the node does not move itself too"
        assert (configure.event.transition_id, configure.event.matches(node)) == (1, True)
        (activate,) = configured.handler.entities
        assert (activate.event.transition_id, activate.event.matches(node)) == (3, True)
        assert configured.handler.target is node
        assert configured.handler.states == ("configuring", "inactive")
        assert configured.handler.once
    with pytest.raises(ParameterError, match="respawn: not with lifecycle_events"):
        run_file("vla_align.launch.py", Context({"lifecycle_events": "true", "respawn": "true"}))
    quiet = run_file("vla_align.launch.py", Context({"lifecycle_events": "true", "autostart": "false"}))
    assert [type(action) for action in quiet] == [LifecycleNode, LifecycleNode]


def test_simulation_starts_the_robot_beside_the_nodes_with_the_shipped_model():
    remap = {"remap": "joint_states=/arm/joint_states", "log_level": "debug"}
    context = Context({"shifts": "wrist_roll", "embodiment_seed": "7", "use_sim_time": "true", **remap})
    nodes, robot = run_file("sim.launch.py", context)
    assert parameters_of(nodes, context) == {"use_sim_time": True, "model": "so101"}
    assert (robot.executable, robot.name) == ("sim_robot", "sim_robot")
    values = parameters_of(robot, context)
    assert values == {"publish_clock": True, "shifts": "wrist_roll", "embodiment_seed": 7}
    recipe = yaml.safe_load((find_model("so101") / "recipe.yaml").read_text())
    assert SimParams().bench == recipe["source"]["bench"]
    assert [Path(path).name for path in files_of(robot, context)] == ["sim_robot.yaml"]
    assert nodes.remappings == robot.remappings == [("joint_states", "/arm/joint_states")]
    assert [text_of(part, context) for part in robot.ros_arguments] == ["--log-level", "debug"]


def test_numbers_reach_the_robot_in_the_types_of_its_parameters():
    context = Context({"embodiment_seed": "1", "shift_scale": "1", "rate": "2", "use_sim_time": "true"})
    *_, robot = run_file("sim.launch.py", context)
    values = parameters_of(robot, context)
    assert values == {"embodiment_seed": 1, "shift_scale": 1.0, "rate": 2.0, "publish_clock": True}
    assert [type(values[name]) for name in ("embodiment_seed", "shift_scale", "rate")] == [int, float, float]


def test_executables_are_installed_by_the_package():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    events = run_file("vla_align.launch.py", Context({"lifecycle_events": "true", "autostart": "false"}))
    executables = {node.executable for node in (*run_file("sim.launch.py", Context()), *events)}
    assert executables <= set(scripts)
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert hasattr(importlib.import_module(module), function), target


@pytest.mark.parametrize("file_name", FILES)
def test_dds_profile_is_set_unless_the_user_has_one(file_name, monkeypatch):
    run_file(file_name, Context())
    profile = Path(os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"])
    assert profile.name == "fastdds_profile.xml"
    assert profile.is_file()
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/my/profile.xml")
    run_file(file_name, Context())
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/my/profile.xml"
