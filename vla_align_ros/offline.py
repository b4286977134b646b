"""Alignment at the desk: bags through the very assembler, builder and `align()` that run on the robot; and datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from vla_align_ros.alignment.align import limits_of
from vla_align_ros.alignment.experience_check import check_request
from vla_align_ros.alignment.reasons import Verdict
from vla_align_ros.alignment.split import split
from vla_align_ros.experience.bag import BagReading
from vla_align_ros.experience.bag_summary import BagSummary
from vla_align_ros.experience.bag_topics import BagTopics
from vla_align_ros.experience.buffer import ExperienceBuffer
from vla_align_ros.experience.later import later
from vla_align_ros.experience.recording import grouped
from vla_align_ros.observation.scaling import SCALERS
from vla_align_ros.params import AlignParams, PolicyParams
from vla_align_ros.policy import Policy
from vla_align_ros.policy.prepare import Reader
from vla_align_ros.runtime import make_assembler, make_builder
from vla_align_ros.types import Experience


def read_bag(
    policy: Reader, paths: Path | Sequence[Path], topics: BagTopics, params: PolicyParams, prompt: str = ""
) -> BagReading:
    """All experiences of one recording, as the node would have built them live. Raises as BagReading."""
    assembler = make_assembler(policy, params)
    return BagReading(paths, topics, assembler, make_builder(policy, params, assembler), prompt)


def fill_buffer(
    read: Callable[[Sequence[Path]], BagReading], bags: Sequence[Path], buffer: ExperienceBuffer
) -> Iterator[BagSummary]:
    """Read the recordings one after the other into `buffer`, the newest last; the split files of one, named one by one,
    are one recording. Yields what became of each. Raises as BagReading."""
    newest: Experience | None = None
    for paths in grouped(bags):
        reading = read(paths)
        for item in later(reading, newest):
            buffer.add(item)
            newest = item
        yield reading.summary


def fill_from_datasets(
    policy: Policy,
    folders: Sequence[Path],
    cameras: Mapping[str, str],
    params: PolicyParams,
    buffer: ExperienceBuffer,
    prompt: str = "",
) -> None:
    """The same from LeRobotDatasets, one robot's, in order of time. cameras: the model's camera -> the dataset's
    feature, `observation.images.<camera>` where left out. Raises DatasetError."""
    from vla_align_ros.experience.lerobot import LeRobotDataset, image_features

    architecture = policy.config.architecture
    newest: Experience | None = None
    features = image_features(architecture.cameras, cameras)
    for folder in folders:
        dataset = LeRobotDataset(
            folder,
            policy.config.robot,
            features,
            architecture.vision.image_size,
            prompt=prompt or None,
            scale=SCALERS[architecture.conventions],
        )
        for item in later(dataset.experiences(architecture.action_horizon, params.experience_stride_ticks), newest):
            buffer.add(item)
            newest = item


def would_refuse(policy: Policy, experiences: Sequence[Experience], params: AlignParams) -> Verdict | None:
    """Why an alignment on these experiences would end before it computes anything; None where it would begin."""
    limits, used = limits_of(policy, params), list(experiences)[-params.align_max_experiences :]
    return check_request(policy, used, split(used, policy.config.robot, limits["joint_strays"]), params, limits)
