"""Every parameter of the package once: name, type, default, unit, range, live or not, and what it does.

One frozen dataclass a node, and `AlignParams`, which node, shell and Python API share. The ROS descriptors,
`config/*.yaml` and `docs/parameters.md` are made from these fields (`vla-align params --write`); no other file
holds a default. `descriptors.py` beside this file knows how a value is checked.

Live parameters act while the node is active. The others are read at configure and refused until the node is cleaned up;
those of a node without a lifecycle are read at its start. A live float's range is what a slider divides by 100, so that
a hundredth of it must be a step that is worth making.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, make_dataclass

from vla_align_ros.descriptors import Descriptor, ParameterError, Params, fields_of, group, parameter
from vla_align_ros.limits import CHECKS, Check

__all__ = [
    "NODES",
    "AlignParams",
    "Descriptor",
    "ManagerParams",
    "ParameterError",
    "Params",
    "PlayerParams",
    "PolicyParams",
    "RecorderParams",
    "SimParams",
    "fields_of",
]


def _limit(check: Check) -> tuple[str, str, object]:
    """The parameter `guard.<name>` of a check."""
    verb = "leaves experience out" if check.leaves_out else "refuses"
    doc = f"Limit of `{check.name}`, which {verb} {check.refuses} it; 0: the model's own. Of: {check.statistic}."
    return check.name, "float", parameter(0.0, doc, within=(0.0, check.most), live=True, in_file=False)


GuardParams: type[Params] = make_dataclass(  # a parameter for each check of `limits.py`
    "GuardParams",
    [_limit(check) for check in CHECKS],
    bases=(Params,),
    namespace={"__module__": __name__},
    frozen=True,
)


@dataclass(frozen=True)
class AlignParams(Params):
    """How `align()` updates the E-Token. The same for the node, for `vla-align align` and for Python."""

    lambda_perc: float = parameter(
        1.0,
        "Weight of the perception loss; 0 switches the task off, and the guard does not see camera faults then.",
        within=(0.0, 2.0),
        live=True,
        recommended=True,
    )
    lambda_dyn: float = parameter(
        1.0,
        "Weight of the dynamics loss; 0 switches the task off. Beside inverse dynamics it moves the gradient alone; "
        "the pick from the bank does without.",
        within=(0.0, 2.0),
        live=True,
        recommended=True,
    )
    lambda_inv: float = parameter(
        1.0,
        "Weight of the inverse-dynamics loss; 0 switches the task off, and the guard does not see faulty actions then.",
        within=(0.0, 2.0),
        live=True,
        recommended=True,
    )
    align_frequency_hz: float = parameter(
        0.0, "How often to align by itself while active; 0 is off.", unit="Hz", within=(0.0, 1.0), live=True
    )
    align_min_experiences: int = parameter(
        64,
        "New experiences needed since the last alignment before the next one.",
        within=(8, 65536),
        live=True,
        recommended=True,
    )
    align_learning_rate: float = parameter(
        0.06,
        "Adam's first step, as a share of how much the bank's robots differ (half the width of what its tokens were "
        "made of, else the tokens' standard deviation); 0 takes none: the pick from the bank alone.",
        within=(0.0, 1.0),
        live=True,
    )
    align_steps: int = parameter(
        30, "Gradient steps of one alignment, each smaller than the one before.", within=(1, 1000), live=True
    )
    align_batch_size: int = parameter(32, "Experiences in one gradient step.", within=(1, 4096), live=True)
    align_draws: int = parameter(2, "Draws of (t, noise) for each experience.", within=(1, 32), live=True)
    align_max_experiences: int = parameter(
        128,
        "Newest experiences that one alignment uses, to learn from and to judge by.",
        within=(8, 4096),
        live=True,
        recommended=True,
    )
    guard: Params = group(GuardParams, "guard.")  # noqa: RUF009 (a dataclass field)


_MODEL_DOC = "The model: its folder, or the name of a folder in models/. Must be set before configure."
_STORE_DOC = "Folder of the token versions; empty: ~/.ros/vla_align/<robot_id>/<name of the model>."
_ROBOT_DOC = (
    "Which robot this is: two robots on one computer do not share a token, and diagnostics say whose they are. Empty: "
    "the policy's namespace and name, as in arm1.vla_policy."
)
_LIKE_POLICY = " Left empty, it is that of the vla_policy in the same process."
_AUTOSTART_DOC = "Configure and activate at start; false leaves the node unconfigured for a lifecycle manager."


def _check_robot_id(robot_id: str) -> None:
    """It is the name of a folder."""
    if robot_id and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", robot_id) is None:
        raise ParameterError(f"robot_id: expected letters, digits, `_`, `-` and `.`, as in arm1, got {robot_id!r}")


@dataclass(frozen=True)
class PolicyParams(Params):
    """The node `vla_policy`."""

    model: str = parameter("", _MODEL_DOC, in_file=False)
    device: str = parameter(
        "auto",
        "Where the model runs; auto takes cuda where there is one, cuda:1 is the second GPU.",
        choices=("auto", "cpu", "cuda", *(f"cuda:{index}" for index in range(8))),
    )
    dtype: str = parameter(
        "float32",
        "Numbers of the network's large matrices; bfloat16 takes half the memory and suits a GPU.",
        choices=("float32", "bfloat16"),
    )
    prompt: str = parameter("", "Instruction to start with; empty waits for one on ~/prompt.", in_file=False)
    store: str = parameter("", _STORE_DOC, in_file=False)
    robot_id: str = parameter("", _ROBOT_DOC, in_file=False)
    autostart: bool = parameter(True, _AUTOSTART_DOC)
    seed: int = parameter(0, "Seed of the noise that actions are sampled from.", within=(0, 2**31 - 1))
    num_steps: int = parameter(10, "Euler steps from noise to actions.", within=(1, 50), live=True, recommended=True)
    image_stale_s: float = parameter(0.5, "An image older than this is refused.", unit="s", within=(0.01, 60.0))
    joint_stale_s: float = parameter(0.2, "A joint state older than this is refused.", unit="s", within=(0.01, 60.0))
    stamp_ahead_max_s: float = parameter(
        0.2,
        "A message stamped farther ahead of this node's clock is refused: the clocks of sender and node differ.",
        unit="s",
        within=(0.0, 10.0),
    )
    frozen_s: float = parameter(
        1.0,
        "A camera that still sends the very same picture this long after a joint has moved is refused as frozen; 0 "
        "switches this off, for a simulator's camera that sees no motion.",
        unit="s",
        within=(0.0, 60.0),
    )
    jump_max_s: float = parameter(
        0.125,
        "How far from where it was measured last a joint's motion may begin: as far as it goes in this time at its "
        "velocity_max.",
        unit="s",
        within=(0.001, 10.0),
    )
    ramp_ticks: int = parameter(
        2, "Control ticks in which the velocity falls to zero after the last action of a chunk.", within=(1, 50)
    )
    exploration_fraction: float = parameter(
        0.0,
        "Share of chunks that are random motion inside the limits, for varied experience. Leave 0 on a robot.",
        within=(0.0, 1.0),
        live=True,
    )
    exploration_speed_fraction: float = parameter(
        0.35, "Largest speed of random motion, as a share of each joint's velocity_max.", within=(0.01, 1.0)
    )
    excite: bool = parameter(
        False,
        "At each activation, before the policy's first chunk, move each joint a little around where it stands, for "
        "experience without a task. ~/excite does the same when it is asked.",
    )
    excite_s: float = parameter(
        30.0, "How long one excitation lasts; at least two control ticks.", unit="s", within=(0.0, 120.0), live=True
    )
    excite_size_rad: float = parameter(
        0.1,
        "How far from where it stands an excitation moves a joint; a sliding one 0.25 m for each rad. Less where a "
        "limit demands it.",
        unit="rad",
        within=(0.0, 0.5),
        live=True,
    )
    experience_lag_s: float = parameter(
        0.3, "Experience is built this long after the fact, when late messages are in.", unit="s", within=(0.01, 10.0)
    )
    experience_stride_ticks: int = parameter(
        4, "Control ticks from the start of one experience to the next.", within=(1, 1000)
    )
    experience_source: str = parameter(
        "live",
        "Whose commands make experience: live, the node's own chunks; topic, those on command_topic (a played bag, "
        "another controller, a human in charge); bag, those in the recordings of bag_folder.",
        choices=("live", "topic", "bag"),
    )
    command_topic: str = parameter(
        "~/action_chunk",
        "Source topic: the JointTrajectory topic whose commands move the robot. Source bag: its name in the bags.",
    )
    bag_folder: str = parameter(
        "", "Source bag: folder that a recorder fills; each split is read once it is closed. Must be set there."
    )
    other_command_topics: str = parameter(
        "",
        "JointTrajectory topics by which somebody else may move this robot, separated by spaces: the time that their "
        "commands cover makes no experience. Without being named: those of the robot's command groups, and with source "
        "bag every other one in a bag.",
    )
    publish_chunks: str = parameter(
        "auto",
        "Whether the node drives the robot: auto, only with the source live. Without, no chunk and no hold is sent, "
        "and nothing is inferred.",
        choices=("auto", "always", "never"),
    )
    buffer_capacity: int = parameter(1024, "Experiences that are kept; the oldest go first.", within=(8, 65536))
    align: AlignParams = group(AlignParams)  # noqa: RUF009 (a dataclass field)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_robot_id(self.robot_id)

    @property
    def drives(self) -> bool:
        """Whether chunks are made and published."""
        return self.publish_chunks == "always" or (self.publish_chunks == "auto" and self.experience_source == "live")


@dataclass(frozen=True)
class ManagerParams(Params):
    """The node `checkpoint_manager`."""

    model: str = parameter("", _MODEL_DOC + _LIKE_POLICY, in_file=False)
    store: str = parameter("", _STORE_DOC + _LIKE_POLICY, in_file=False)
    robot_id: str = parameter("", _ROBOT_DOC + _LIKE_POLICY, in_file=False)
    autostart: bool = parameter(True, _AUTOSTART_DOC)
    keep_versions: int = parameter(
        20, "Token versions that pruning leaves, beside the active and the pinned ones.", within=(1, 1000)
    )
    poll_period_s: float = parameter(
        0.5, "How often the store is looked at for a new active version.", unit="s", within=(0.05, 60.0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_robot_id(self.robot_id)


_OF_BENCH = ", by names with spaces between. Empty: all that its bench has."


@dataclass(frozen=True)
class SimParams(Params):
    """The node `sim_robot`. All rates and times are in simulated time."""

    bench: str = parameter(
        "so101",
        "Which kind of robot: so101 (six joints, before a table of cubes; needs the extra bench) or reach2 (two "
        "joints, for quick tests).",
        choices=("reach2", "so101"),
    )
    tasks: str = parameter("reach", f"What the robot is asked for in turn, of reach, push and pick{_OF_BENCH}")
    shifts: str = parameter("", f"In what it differs from the unshifted one, as wrist_roll{_OF_BENCH}")
    embodiment_seed: int = parameter(
        0, "Which arm: 0 is the unshifted one, every other number draws an embodiment.", within=(0, 2**31 - 1)
    )
    shift_scale: float = parameter(
        1.0,
        "Size of the embodiment's shifts; 0 leaves signs of joints, colours and how a wrist camera is turned.",
        within=(0.0, 2.0),
    )
    episode_seed: int = parameter(0, "Seed of start poses, tasks and prompts.", within=(0, 2**31 - 1))
    episode_s: float = parameter(
        4.8, "Length of an episode, after which task and prompt change.", unit="s", within=(0.5, 600.0)
    )
    home_s: float = parameter(
        0.0,
        "How long the arm takes to go back to its start pose after an episode, deaf to commands; 0: it stays. "
        "Not for arms whose commands and readings differ.",
        unit="s",
        within=(0.0, 10.0),
    )
    rate: float = parameter(
        1.0, "Simulated seconds a real second; other than 1 needs publish_clock.", within=(0.1, 20.0)
    )
    publish_clock: bool = parameter(False, "Publish /clock, for nodes with use_sim_time.")
    image_hz: float = parameter(30.0, "Images a second from each camera.", unit="Hz", within=(1.0, 120.0))
    joint_hz: float = parameter(100.0, "Joint states a second.", unit="Hz", within=(1.0, 1000.0))
    image_size: int = parameter(64, "Side of the square images.", unit="px", within=(32, 640))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate != 1.0 and not self.publish_clock:
            raise ParameterError(f"rate: {self.rate} needs publish_clock: true (and use_sim_time in the other nodes)")


@dataclass(frozen=True)
class RecorderParams(Params):
    """The node `bag_recorder`."""

    path: str = parameter("", "Folder of the new bag; empty: bag_<date>_<time> where the node was started.")
    model: str = parameter(
        "", "The model whose topics are recorded: its folder, or the name of a folder in models/. Not used with topics."
    )
    topics: str = parameter(
        "",
        "What to record: topic:type, or topic:type:latched for transient local topics, separated by spaces. Empty: all "
        "that an alignment reads, with the model's cameras.",
    )


@dataclass(frozen=True)
class PlayerParams(Params):
    """The node `bag_player`."""

    path: str = parameter("", "The bag: its folder, or one storage file. Must be set.")
    rate: float = parameter(
        1.0, "Seconds of the bag in one second; slower where a step takes longer.", within=(0.1, 20.0)
    )
    commands: bool = parameter(
        False,
        "Play trajectories and streams of positions too, beside cameras, joint states and texts. They move every robot "
        "that hears them: only in a ROS domain without one.",
    )
    topics: str = parameter("", "Only these topics of the bag, separated by spaces; empty: all.")
    from_ns: int = parameter(
        0, "Begin at this time of the bag, since 1970; 0: with the first message.", unit="ns", within=(0, 2**62)
    )
    until_ns: int = parameter(
        0, "End at this time, where /clock then stands; 0: with the last message.", unit="ns", within=(0, 2**62)
    )


NODES: dict[str, type[Params]] = {
    "vla_policy": PolicyParams,
    "checkpoint_manager": ManagerParams,
    "sim_robot": SimParams,
    "bag_recorder": RecorderParams,
    "bag_player": PlayerParams,
}
"""Name of each node that has parameters -> its group."""
