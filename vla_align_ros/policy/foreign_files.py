"""The JSON files of an openpi or lerobot folder: what is read of them, key by key. The rest is passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, StrictBool, StrictStr
from pydantic.dataclasses import dataclass

from vla_align_ros.checked import validated
from vla_align_ros.foreign import what_is_file
from vla_align_ros.observation.normalise import LEROBOTS_EPS
from vla_align_ros.policy.config import ModelConfigError, Size

Kind = TypeVar("Kind")
_Names = list[StrictStr]
_FileName = Annotated[StrictStr, Field(pattern=r"^[^/\\\x00]+$")]  # in the folder itself


@dataclass(frozen=True)
class OpenpiConfig:
    """openpi's config.json, of checkpoints that were converted from JAX."""

    action_dim: Size | None = None
    action_horizon: Size | None = None


@dataclass(frozen=True)
class Feature:
    """type: `VISUAL` of pictures."""

    type: StrictStr


@dataclass(frozen=True)
class LerobotConfig:
    """lerobot's config.json, of 0.4 or later. use_relative_actions: None before 0.5.1, which brought it."""

    type: StrictStr
    input_features: dict[str, Feature]
    chunk_size: Size
    num_inference_steps: Size
    image_resolution: Annotated[list[Size], Field(min_length=2, max_length=2)]
    max_state_dim: Size
    max_action_dim: Size
    tokenizer_max_length: Size | None = None
    action_feature_names: _Names | None = None
    use_relative_actions: StrictBool | None = None


@dataclass(frozen=True)
class Step:
    """One of lerobot's processors. state_file: of its tensors."""

    registry_name: StrictStr | None = None
    class_name: StrictStr | None = Field(default=None, alias="class")
    config: dict[str, Any] | None = None
    state_file: _FileName | None = None

    @property
    def name(self) -> str:
        return self.registry_name or self.class_name or "without a name"


@dataclass(frozen=True)
class Pipeline:
    """policy_preprocessor.json or policy_postprocessor.json."""

    steps: list[Step]


@dataclass(frozen=True)
class Normalisation:
    """Options of the step that normalises, or back. norm_map: STATE, ACTION or VISUAL -> lerobot's word for how."""

    eps: Annotated[float, Field(strict=True)] = LEROBOTS_EPS
    norm_map: dict[str, StrictStr] = field(default_factory=dict)


@dataclass(frozen=True)
class Relative:
    """Options of the steps that make actions relative to the state, and absolute again."""

    enabled: StrictBool = False
    exclude_joints: _Names | None = None
    action_names: _Names | None = None


@dataclass(frozen=True)
class Renamed:
    """Options of the step that renames pictures: the data's key -> the policy's."""

    rename_map: dict[str, StrictStr] | None = None


@dataclass(frozen=True)
class Tokens:
    """Options of the step that makes tokens of the prompt."""

    max_length: Size | None = None


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises ModelConfigError."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelConfigError(f"{path}: cannot be read as JSON: {what_is_file(path) or error}") from None
    if not isinstance(found, dict):
        raise ModelConfigError(f"{path}: expected an object in JSON, got a {type(found).__name__}")
    return found


def read_as(path: Path, kind: type[Kind]) -> Kind:
    """What a file says. Raises ModelConfigError that names each wrong key, what was expected and what came."""
    return validated(read_json(path), kind, path, ModelConfigError)


def options_of(path: Path, steps: Mapping[str, tuple[int, Step]], name: str, kind: type[Kind]) -> Kind:
    """The options of a step by its name, the usual ones where it is not there. Raises as `read_as`."""
    number, step = steps.get(name, (0, Step()))
    said = {"steps": {number: {"config": step.config or {}}}}  # so that an error says where in the file
    whole: type[dict[str, dict[int, dict[str, Kind]]]] = dict[str, dict[int, dict[str, kind]]]  # type: ignore[valid-type]
    return validated(said, whole, path, ModelConfigError)["steps"][number]["config"]
