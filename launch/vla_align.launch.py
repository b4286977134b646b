"""Start the policy and the checkpoint manager, two lifecycle nodes in one process.

ros2 launch vla_align_ros vla_align.launch.py model:=tiny prompt:="reach the red target"
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
CONFIG = PathJoinSubstitution([FindPackageShare("vla_align_ros"), "config"])

# Launch argument -> type of the node parameter of the same name. Left empty, the parameter files decide.
PARAMETERS = {"model": str, "store": str, "prompt": str, "autostart": bool}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "model", default_value="", description="Folder of the model, or the name of one in models/."
            ),
            DeclareLaunchArgument("store", default_value="", description="Folder of the token versions."),
            DeclareLaunchArgument("prompt", default_value="", description="Instruction to start with."),
            DeclareLaunchArgument(
                "autostart", default_value="", description="false: wait for a lifecycle manager (default true)."
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([CONFIG, "vla_policy.yaml"]),
                description="Parameters of vla_policy; may hold those of checkpoint_manager too.",
            ),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of both nodes."),
            DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock."),
            DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal."),
            DeclareLaunchArgument(
                "remap",
                default_value="",
                description="Topics of this robot, as 'from=to,from=to': cameras by the topics in model.yaml, "
                "and joint_states.",
            ),
            SetEnvironmentVariable(
                PROFILE_VARIABLE,
                EnvironmentVariable(
                    PROFILE_VARIABLE, default_value=PathJoinSubstitution([CONFIG, "fastdds_profile.xml"])
                ),
            ),
            OpaqueFunction(function=_process),
        ]
    )


def _process(context: LaunchContext) -> list[Node]:
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETERS.items()
        if LaunchConfiguration(name).perform(context)
    }
    use_sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    return [
        # Without `name`: it would rename both nodes of the process.
        Node(
            package="vla_align_ros",
            executable="vla_align_node",
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                PathJoinSubstitution([CONFIG, "checkpoint_manager.yaml"]),
                LaunchConfiguration("params_file"),
                {"use_sim_time": use_sim_time, **given},
            ],
            remappings=_remappings(LaunchConfiguration("remap").perform(context)),
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
            emulate_tty=True,
        )
    ]


def _remappings(text: str) -> list[tuple[str, str]]:
    """`from=to,from=to` as pairs."""
    pairs = [tuple(part.strip() for part in item.split("=")) for item in text.split(",") if item.strip()]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError(f"remap: expected 'from=to,from=to', got {text!r}")
    return pairs
