"""`model.yaml` as frozen dataclasses, checked key by key.

Everything that differs between two models is here; no other file holds a size. Neighbours: `weights.py` reads the
tensors that belong to an `Architecture`, `policy.py` puts both together.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from vla_align_ros.checked import load_yaml, validated
from vla_align_ros.observation.view import View
from vla_align_ros.robot.description import RobotDescription
from vla_align_ros.types import Conventions

MODEL_FILE = "model.yaml"

_strict = ConfigDict(extra="forbid")
Size = Annotated[int, Field(ge=1, le=2**20, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Lambda = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ModelConfigError(ValueError):
    """A model description is missing, unreadable or wrong; the message names file and key."""


@dataclass(frozen=True, config=_strict)
class TransformerConfig:
    """Sizes of one Gemma stack (the VLM or an expert)."""

    width: Size
    depth: Annotated[Size, Field(le=256)]
    mlp_dim: Size
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size

    def __post_init__(self) -> None:
        if self.width % 2 or self.head_dim % 2:
            raise ValueError(
                f"width ({self.width}) and head_dim ({self.head_dim}) must be even: sine and cosine share them"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads ({self.num_kv_heads}) must divide num_heads ({self.num_heads})")


@dataclass(frozen=True, config=_strict)
class VisionConfig:
    """Sizes of a ViT: SigLIP in the prefix, DINOv2 for the features. Images are square, `image_size` pixels a side."""

    width: Size
    depth: Annotated[Size, Field(le=256)]
    mlp_dim: Size
    num_heads: Size
    image_size: Size
    patch_size: Size

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must divide width ({self.width})")
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size ({self.patch_size}) must divide image_size ({self.image_size})")


@dataclass(frozen=True, config=_strict)
class FeatureConfig:
    """DINO patches -> `grid` x `grid` pooled patches -> `components` PCA numbers each -> `cells` x `cells` tokens a
    camera.
    """

    dino: VisionConfig
    grid: Size
    cells: Size
    components: Size

    def __post_init__(self) -> None:
        patches = self.dino.image_size // self.dino.patch_size
        if patches % self.grid or self.grid % self.cells:
            raise ValueError(
                f"cells ({self.cells}) must divide grid ({self.grid}), and grid the {patches} patches a side"
            )
        if self.dino.mlp_dim % self.dino.width:
            raise ValueError(
                f"DINOv2's mlp_dim must be a multiple of its width, got {self.dino.mlp_dim} and {self.dino.width}"
            )
        if self.components > self.dino.width:
            raise ValueError(f"components ({self.components}) cannot exceed DINOv2's width ({self.dino.width})")

    @property
    def tokens_per_camera(self) -> int:
        return self.cells**2

    @property
    def token_dim(self) -> int:
        """Numbers in one feature token: the PCA components of all pooled patches in its cell, side by side."""
        return self.components * (self.grid // self.cells) ** 2


@dataclass(frozen=True, config=_strict)
class AlignmentConfig:
    """The alignment expert and what it sees.

    state_tokens: dynamics and inverse dynamics are given the state. own_features: each of their feature tokens carries
    the observation's own features of the same cell, without which motion is not read.
    """

    expert: TransformerConfig
    features: FeatureConfig
    state_tokens: bool = True
    own_features: bool = True
    perception_attention: Literal["one_way", "mutual"] = "one_way"
    dynamics_readout: Literal["tokens", "mean"] = "tokens"


@dataclass(frozen=True, config=_strict)
class Architecture:
    """Everything that decides which tensors a model has, and which numbers they are given. `action_dim` is the padded
    width of states and actions.

    conventions: whose arithmetic leads from pictures, state and prompt to the network, and back. `openpi`: its policy
    server's (pictures scaled by Pillow, statistics in float64). `lerobot`: 0.5 and later (pictures scaled without
    antialiasing, other small numbers in the normalisation, pi0's prompt as it is written, another clock). `zoo`:
    openpi's with pictures scaled by area, all in float32. discrete_state_input: the prompt has pi0.5's form and holds
    the state; None is what the variant does. Neither changes a tensor.
    """

    variant: Literal["pi0", "pi05"]
    vocab_size: Size
    max_token_len: Size
    action_dim: Size
    action_horizon: Size
    cameras: tuple[str, ...]
    vlm: TransformerConfig
    action_expert: TransformerConfig
    vision: VisionConfig
    use_peft_prefix_token: bool = False
    peft_num_tokens: Size = 1
    peft_init: Literal["zeros", "normal"] = "zeros"
    e_token_attention_bias: Finite = -4.0
    alignment: AlignmentConfig | None = None
    conventions: Conventions = "zoo"
    discrete_state_input: bool | None = None

    def __post_init__(self) -> None:
        experts = [self.action_expert] + ([self.alignment.expert] if self.alignment else [])
        for expert in experts:
            for key in ("depth", "num_heads", "num_kv_heads", "head_dim"):
                if getattr(expert, key) != getattr(self.vlm, key):
                    raise ValueError(
                        f"an expert attends to the VLM layer by layer: its {key} must be {getattr(self.vlm, key)}"
                    )
        if not self.cameras:
            raise ValueError("cameras: at least one is needed")
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"cameras: every name once, got {list(self.cameras)}")

    @property
    def state_in_prompt(self) -> bool:
        """Whether the prompt holds the state in words."""
        return self.variant == "pi05" if self.discrete_state_input is None else self.discrete_state_input


@dataclass(frozen=True, config=_strict)
class WeightsConfig:
    """Where the weights come from. `sha256` is checked at load when given; `source` and `licence` are for people."""

    file: str = "model.safetensors"
    sha256: str | None = None
    source: str = ""
    licence: str = ""


@dataclass(frozen=True, config=_strict)
class RecommendedConfig:
    """Parameters that this model asks for where the user sets none (names as in `params.py`)."""

    num_steps: Size = 10
    lambda_perc: Lambda = 1.0
    lambda_dyn: Lambda = 1.0
    lambda_inv: Lambda = 1.0
    align_min_experiences: Annotated[int, Field(ge=8, le=65536)] = 64
    align_max_experiences: Annotated[int, Field(ge=8, le=4096)] = 128


@dataclass(frozen=True, config=_strict)
class ModelConfig:
    """A whole `model.yaml`.

    name: also the name of the token store's folder. robot: what it expects of the robot that it runs on.
    normalisation: `zscore` or `quantiles`, with the numbers in `norm_stats.json`.
    initial_token: row of the token bank that a fresh install loads; None loads E_0. views: what the model is shown of a
    camera (`observation/view.py`), all of the picture where none is said.
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    architecture: Architecture
    robot: RobotDescription
    normalisation: Literal["zscore", "quantiles"]
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    recommended: RecommendedConfig = field(default_factory=RecommendedConfig)
    initial_token: Annotated[int, Field(ge=0, strict=True)] | None = None
    description: str = ""
    views: dict[str, View] = field(default_factory=dict)

    def __post_init__(self) -> None:
        robot, architecture = self.robot, self.architecture
        if set(robot.cameras) != set(architecture.cameras):
            names = list(architecture.cameras)
            raise ValueError(f"robot.cameras must name exactly architecture.cameras {names}, got {list(robot.cameras)}")
        if unknown := sorted(set(self.views) - set(robot.cameras)):
            raise ValueError(f"views: the robot has no camera {unknown}, it has {list(robot.cameras)}")
        for vector, fields in (("state", robot.state), ("action", robot.action)):
            if len(fields) > architecture.action_dim:
                text = f"{len(fields)} fields do not fit action_dim {architecture.action_dim}"
                raise ValueError(f"robot.{vector}: {text}")
        if robot.execute > architecture.action_horizon:
            raise ValueError(f"robot.execute must be 1..{architecture.action_horizon} (the action horizon)")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about it, though it runs: a sentence each, with what to do."""
        if self.robot.execute < self.architecture.action_horizon:
            return ()
        text = f"robot.execute is {self.robot.execute}, the whole action_horizon"
        return (f"{text}: a chunk is made when the last one has run out, so that each comes late; lower `execute`",)


def load_model_config(folder: Path) -> ModelConfig:
    """Read and check `folder/model.yaml`. Raises ModelConfigError with every problem in one message."""
    return load_model_description(folder / MODEL_FILE)


def load_model_description(path: Path) -> ModelConfig:
    """The same for a file of any name."""
    return load_yaml(path, ModelConfig, ModelConfigError)


def to_yaml(config: ModelConfig) -> str:
    """What `load_model_config` reads as `config`, without what is left at its default."""
    raw: dict[str, Any] = TypeAdapter(ModelConfig).dump_python(config, mode="json", exclude_defaults=True)
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def make_model_config(raw: object, origin: Path) -> ModelConfig:
    """What a `model.yaml` says, checked. Raises ModelConfigError that names `origin`."""
    return validated(raw, ModelConfig, origin, ModelConfigError)
