"""Start the simulated robot, and the nodes of vla_align.launch.py beside it.

ros2 launch vla_align_ros sim.launch.py embodiment_seed:=7
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("vla_align_ros")

# Launch argument -> type of sim_robot's parameter of the same name. Left empty, the parameter file decides.
PARAMETERS = {"embodiment_seed": int, "shift_scale": float, "rate": float}


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
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
            DeclareLaunchArgument("model", default_value="tiny", description="Model of the policy."),
            # First, so that the DDS profile that it sets holds for sim_robot too. It declares the other arguments.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "vla_align.launch.py"]))
            ),
            OpaqueFunction(function=_robot),
        ]
    )


def _robot(context: LaunchContext) -> list[Node]:
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETERS.items()
        if LaunchConfiguration(name).perform(context)
    }
    publish_clock = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    return [
        Node(
            package="vla_align_ros",
            executable="sim_robot",
            name="sim_robot",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("sim_params_file"), {"publish_clock": publish_clock, **given}],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
            emulate_tty=True,
        )
    ]
