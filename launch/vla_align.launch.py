"""Start the policy and the checkpoint manager, two lifecycle nodes in one process.

ros2 launch vla_align_ros vla_align.launch.py model:=so101 prompt:="reach the red cube"
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.events import matches_action
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

from vla_align_ros import launch_arguments
from vla_align_ros.params import ParameterError, PolicyParams

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
CONFIG = PathJoinSubstitution([FindPackageShare("vla_align_ros"), "config"])
NODES = ("vla_policy", "checkpoint_manager")
RESPAWN_DELAY_S = 2.0

# Arguments that are parameters of the nodes, by the same names. Left empty, the parameter files decide.
PARAMETERS = ("model", "store", "robot_id", "prompt", "autostart")


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "model", default_value="", description="Folder of the model, or the name of one in models/."
            ),
            DeclareLaunchArgument("store", default_value="", description="Folder of the token versions."),
            DeclareLaunchArgument(
                "robot_id", default_value="", description="Name of this robot (default: namespace and node name)."
            ),
            DeclareLaunchArgument("prompt", default_value="", description="Instruction to start with."),
            DeclareLaunchArgument(
                "autostart",
                default_value="",
                description="false: wait for a lifecycle manager, or for launch events (default true).",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([CONFIG, "vla_policy.yaml"]),
                description="Parameters of vla_policy; may hold those of checkpoint_manager too.",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of both nodes."),
            DeclareLaunchArgument(
                "use_sim_time", default_value="", description="Take the time from /clock (default false)."
            ),
            DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
            DeclareLaunchArgument(
                "remap",
                default_value="",
                description="Topics of this robot in every node, as 'from=to,from=to': cameras by the topics in "
                "model.yaml, joint_states, vla_policy/prompt, vla_policy/action_chunk.",
            ),
            DeclareLaunchArgument(
                "respawn", default_value="false", description="Start a process that has died again, after 2 s."
            ),
            DeclareLaunchArgument(
                "lifecycle_events",
                default_value="false",
                description="true: each node as a LifecycleNode in a process of its own; launch events move it.",
            ),
            SetEnvironmentVariable(
                PROFILE_VARIABLE,
                EnvironmentVariable(
                    PROFILE_VARIABLE, default_value=PathJoinSubstitution([CONFIG, "fastdds_profile.xml"])
                ),
            ),
            OpaqueFunction(function=_processes),
        ]
    )


def _processes(context: LaunchContext) -> list:
    """Everything is checked here, before the first process starts."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    given = launch_arguments.parameters(PolicyParams, {name: text(name) for name in PARAMETERS})
    values = dict(given)
    if text("use_sim_time"):
        values["use_sim_time"] = launch_arguments.flag("use_sim_time", text("use_sim_time"))
    events = launch_arguments.flag("lifecycle_events", text("lifecycle_events"))
    if events:
        values["autostart"] = False  # the events do it
    respawn = launch_arguments.flag("respawn", text("respawn"))
    if events and respawn:
        raise ParameterError(
            "respawn: not with lifecycle_events, which launch_ros would send to the process that has died; leave those "
            "out, and the nodes start themselves"
        )
    common = {
        "package": "vla_align_ros",
        "namespace": launch_arguments.namespace(text("namespace")),
        "parameters": [
            PathJoinSubstitution([CONFIG, "checkpoint_manager.yaml"]),
            launch_arguments.parameter_file("params_file", text("params_file"), NODES, text("namespace")),
            # Given as text, a value would be read as YAML: a prompt "yes" is a string.
            {name: ParameterValue(value, value_type=type(value)) for name, value in values.items()},
        ],
        "remappings": launch_arguments.remappings(text("remap")),
        "ros_arguments": ["--log-level", launch_arguments.log_level(text("log_level"))],
        "output": "screen",
        "emulate_tty": True,
        "respawn": respawn,
        "respawn_delay": RESPAWN_DELAY_S,
        "on_exit": lambda event, context: (
            [Shutdown()] if launch_arguments.ends_launch(event.returncode, respawn, context.is_shutdown) else []
        ),
    }
    if not events:
        return [Node(executable="vla_align_node", **common)]  # without `name`: it would rename both nodes
    nodes = [LifecycleNode(executable=name, name=name, **common) for name in NODES]
    if given.get("autostart", True):
        return [*nodes, *(action for node in nodes for action in _configure_and_activate(node))]
    return nodes


def _configure_and_activate(node: LifecycleNode) -> list:
    configure, activate = (
        EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    )
    configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[activate],
        handle_once=True,  # a later configure is somebody's own
    )
    return [RegisterEventHandler(configured), configure]
