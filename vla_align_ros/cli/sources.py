"""`source:` of a recipe -> what it names: a bench, LeRobotDatasets or bags.

    source: {bench: so101, robots: 4096, validation_robots: 48}
    source: {bench: so101, tasks: {reach: 0.5, pick: 0.5}, families: [zeros, wrist_roll]}
    source: {lerobot: [FOLDER, ...], validation: [FOLDER, ...], cameras: {front: observation.images.front}}
    source: {bags: {arm1: [BAG, ...], arm2: [BAG, ...]}, prompt: pick the cube}
    source: {lerobot: [FOLDER], virtual: {robots: 64, joint_zeros_rad: 0.1, camera_roll_rad: {wrist: 3.14}}}

Recorded sources without `validation` hold some robots, or later episodes, out. `virtual` makes many robots of the ones
that a source has (`training/virtual_recipe.py`).
"""

from __future__ import annotations

from dataclasses import dataclass as plain_dataclass
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from vla_align_ros.checked import problems
from vla_align_ros.experience.bag_topics import COMMAND, PROMPT, bag_topics, in_namespace
from vla_align_ros.experience.source import Sources
from vla_align_ros.observation.scaling import SCALERS
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.policy.tokenizer import clean_prompt
from vla_align_ros.training.recipe import RecipeError
from vla_align_ros.training.virtual_recipe import FAMILIES, VirtualRobots
from vla_align_ros.training.virtual_source import LARGER, virtual_sources

_TaskName = Literal["reach", "push", "pick"]
_strict = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_strict)
class Reach2Source:
    """So many arms of the bench reach2 to train on, and others to validate on."""

    bench: Literal["reach2"]
    robots: Annotated[int, Field(ge=2)] = 192
    validation_robots: Annotated[int, Field(ge=1)] = 64

    def open(self, config: ModelConfig, seed: int) -> Sources:
        from vla_align_ros.bench.reach2.source import open_sources

        return open_sources(seed, self.robots, self.validation_robots)


@dataclass(frozen=True, config=_strict)
class So101Source:
    """The same of the bench so101. tasks: a share of the samples for each of reach, push and pick, relative to each
    other. families: what the arms are shifted in (`bench/so101/shifts.py`), each arm in half of them; all where left
    out."""

    bench: Literal["so101"]
    robots: Annotated[int, Field(ge=1)] = 192
    validation_robots: Annotated[int, Field(ge=1)] = 64
    tasks: Annotated[dict[_TaskName, Annotated[float, Field(gt=0)]], Field(min_length=1)] = field(
        default_factory=lambda: {"reach": 1.0, "push": 1.0, "pick": 1.0}
    )
    families: list[str] | None = None

    def open(self, config: ModelConfig, seed: int) -> Sources:
        from vla_align_ros.bench.so101.shifts import Family
        from vla_align_ros.bench.so101.source import open_sources
        from vla_align_ros.bench.so101.tasks import Task

        known = [family.value for family in Family]
        if unknown := sorted(set(self.families or []) - set(known)):
            raise RecipeError(f"source: families: expected some of {', '.join(known)}, got {unknown}")
        shares = {Task[name.upper()]: share for name, share in self.tasks.items()}
        families = [Family(name) for name in (known if self.families is None else self.families)]
        cameras = config.architecture.cameras
        return open_sources(seed, self.robots, self.validation_robots, shares, families, cameras)


@dataclass(frozen=True, config=_strict)
class LeRobotSource:
    """LeRobotDatasets (format 3). cameras: the model's camera -> the dataset's feature, `observation.images.<camera>`
    where left out. robot_column: says which robot an episode is of; without it a dataset is one robot. prompt: where
    there is no task text."""

    lerobot: Annotated[list[Path], Field(min_length=1)]
    validation: list[Path] = field(default_factory=list)
    cameras: dict[str, str] = field(default_factory=dict)
    robot_column: str | None = None
    prompt: str | None = None

    def open(self, config: ModelConfig, seed: int) -> Sources:
        from vla_align_ros.experience.lerobot import LeRobotDataset, image_features
        from vla_align_ros.experience.lerobot_source import lerobot_sources

        cameras = image_features(config.architecture.cameras, self.cameras)
        size, scale = config.architecture.vision.image_size, SCALERS[config.architecture.conventions]
        training, validation = (
            [
                LeRobotDataset(
                    folder,
                    config.robot,
                    cameras,
                    size,
                    robot_column=self.robot_column,
                    prompt=self.prompt,
                    scale=scale,
                )
                for folder in folders
            ]
            for folders in (self.lerobot, self.validation)
        )
        return lerobot_sources(training, validation)


@dataclass(frozen=True, config=_strict)
class BagSource:
    """Bags of each robot, by a name that stays its own; a bag that is given without a name is a robot by itself.
    namespace, cameras, joints: of topics that are not as in the model (`experience/bag_topics.py`). prompt: for bags
    that have none."""

    bags: Annotated[dict[str, list[Path]] | list[Path], Field(min_length=1)]
    validation: dict[str, list[Path]] | list[Path] = field(default_factory=list)
    namespace: str = ""
    cameras: dict[str, str] = field(default_factory=dict)
    joints: dict[str, str] = field(default_factory=dict)
    prompt_topic: str = PROMPT
    command_topic: str = COMMAND
    prompt: str = ""

    def open(self, config: ModelConfig, seed: int) -> Sources:
        from vla_align_ros.experience.bag_source import bag_sources
        from vla_align_ros.experience.storage import TopicMissing
        from vla_align_ros.offline import read_bag
        from vla_align_ros.params import PolicyParams

        model, resolve = Untrained(config), in_namespace(self.namespace)
        named = {"prompt": self.prompt_topic, "command": self.command_topic}
        topics = bag_topics(config.robot, resolve, cameras=self.cameras, joints=self.joints, **named)
        params = PolicyParams.from_mapping({"experience_stride_ticks": 1})
        training, validation = (_named(bags) for bags in (self.bags, self.validation))
        horizon = config.architecture.action_horizon
        try:
            return bag_sources(
                training, validation, lambda paths: read_bag(model, paths, topics, params, self.prompt), horizon
            )
        except TopicMissing as error:
            keys = "cameras, joints, prompt_topic, prompt, command_topic"
            raise RecipeError(f"{error}. These options are keys of `source` here: {keys}") from None


@plain_dataclass(frozen=True)
class Untrained:
    """A model that has no tokenizer yet: it will be given one that knows the prompts."""

    config: ModelConfig

    def check_prompt(self, prompt: str) -> None:
        """Raises PromptError for an empty one."""
        clean_prompt(prompt)


def _named(bags: dict[str, list[Path]] | list[Path]) -> dict[str, list[Path]]:
    return bags if isinstance(bags, dict) else {str(path): [path] for path in bags}


_KINDS: dict[str, Any] = {
    "bench": Annotated[Reach2Source | So101Source, Field(discriminator="bench")],
    "lerobot": LeRobotSource,
    "bags": BagSource,
}


def parse_source(text: str) -> dict[str, Any]:
    """`source:` as it is given on a command line. Raises RecipeError for what is no mapping."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"source: cannot be read as YAML: {error}") from None
    if not isinstance(found, dict):
        raise RecipeError(f"source: expected a mapping, as {{bench: so101}}, got {text!r}")
    return found


def open_sources(raw: dict[str, Any], config: ModelConfig, seed: int) -> Sources:
    """The sources that a recipe's `source` names, for one model. Raises RecipeError naming what is wrong with it, and
    what a source raises, a ValueError, for data that do not fit."""
    real = {key: value for key, value in raw.items() if key != "virtual"}
    named = [kind for kind in _KINDS if kind in real]
    if not real:
        raise RecipeError(f"source: no data are named: one of {', '.join(_KINDS)}, or --data of vla-align train")
    if len(named) != 1:
        raise RecipeError(f"source: expected one of {', '.join(_KINDS)}, got {list(real)}")
    found: Reach2Source | So101Source | LeRobotSource | BagSource = _parsed(_KINDS[named[0]], real, named[0])
    if "virtual" not in raw:
        return found.open(config, seed)
    virtual = _virtual(raw["virtual"], config)
    return virtual_sources(found.open(_larger(config) if virtual.warps else config, seed), virtual, config)


def _virtual(raw: Any, config: ModelConfig) -> VirtualRobots:
    """`virtual:` of a source, checked against the robot before any data is read."""
    if not isinstance(raw, dict):
        raise RecipeError(f"source: virtual: expected a mapping, as {{robots: 64, joint_zeros_rad: 0.1}}, got {raw!r}")
    known = [item.name for item in fields(VirtualRobots)]
    if unknown := [key for key in raw if key not in known]:
        raise RecipeError(f"source: virtual: no family {unknown}, there are {', '.join(FAMILIES)}")
    found: VirtualRobots = _parsed(VirtualRobots, raw, "virtual")
    found.named(config.robot)
    return found


def _larger(config: ModelConfig) -> ModelConfig:
    """For pictures of another size than the model's."""
    vision = config.architecture.vision
    larger = replace(vision, image_size=LARGER * vision.image_size)
    return replace(config, architecture=replace(config.architecture, vision=larger))


def _parsed(kind: Any, raw: Any, name: str) -> Any:
    """Raises RecipeError with every problem."""
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as error:
        raise RecipeError(f"source: {problems(error, name)}") from None
