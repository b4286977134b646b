"""Start the simulated robot, and the nodes of vla_align.launch.py beside it.

ros2 launch vla_align_ros sim.launch.py embodiment_seed:=9 shifts:="wrist_camera wrist_roll wrist_mirror"
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from vla_align_ros import launch_arguments
from vla_align_ros.params import SimParams

RESPAWN_DELAY_S = 2.0
SHARE = FindPackageShare("vla_align_ros")

# Arguments that are parameters of sim_robot, by the same names. Left empty, the parameter file decides.
PARAMETERS = ("bench", "shifts", "embodiment_seed", "shift_scale", "rate")


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bench", default_value="", description="Kind of robot: so101 (default), or reach2 with model:=tiny."
            ),
            DeclareLaunchArgument(
                "shifts", default_value="", description="In what the arm differs, as wrist_roll; all (default)."
            ),
            DeclareLaunchArgument(
                "embodiment_seed", default_value="", description="Which arm; 0 is the unshifted one (default)."
            ),
            DeclareLaunchArgument("shift_scale", default_value="", description="Size of the shifts (default 1.0)."),
            DeclareLaunchArgument(
                "rate", default_value="", description="Multiple of real time (default 1.0); others need use_sim_time."
            ),
            DeclareLaunchArgument(
                "sim_params_file",
                default_value=PathJoinSubstitution([SHARE, "config", "sim_robot.yaml"]),
                description="Parameters of sim_robot.",
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="sim_robot publishes /clock, the nodes follow it."
            ),
            DeclareLaunchArgument("model", default_value="so101", description="Model of the policy."),
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes."),
            # Before the include, which starts a process. That comes before the robot, so that the DDS profile that it
            # sets holds for the robot too, and declares the other arguments.
            OpaqueFunction(function=_check),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "vla_align.launch.py"]))
            ),
            OpaqueFunction(function=_robot),
        ]
    )


def _robot_parameters(context: LaunchContext) -> list:
    """The robot's parameter file, and what the arguments set. Raises for a wrong argument."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    clock = {"publish_clock": launch_arguments.flag("use_sim_time", text("use_sim_time"))}
    given = launch_arguments.parameters(SimParams, {name: text(name) for name in PARAMETERS}, clock)
    path = launch_arguments.parameter_file(
        "sim_params_file", text("sim_params_file"), ("sim_robot",), text("namespace")
    )
    return [path, {name: ParameterValue(value, value_type=type(value)) for name, value in given.items()}]


def _check(context: LaunchContext) -> list:
    _robot_parameters(context)
    return []


def _robot(context: LaunchContext) -> list[Node]:
    """Beside the policy, whose launch file has checked the arguments that both have."""
    respawn = launch_arguments.flag("respawn", LaunchConfiguration("respawn").perform(context))
    return [
        Node(
            package="vla_align_ros",
            executable="sim_robot",
            name="sim_robot",
            namespace=LaunchConfiguration("namespace"),
            parameters=_robot_parameters(context),
            remappings=launch_arguments.remappings(LaunchConfiguration("remap").perform(context)),
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
            emulate_tty=True,
            respawn=respawn,
            respawn_delay=RESPAWN_DELAY_S,
            on_exit=lambda event, context: (
                [Shutdown()] if launch_arguments.ends_launch(event.returncode, respawn, context.is_shutdown) else []
            ),
        )
    ]
