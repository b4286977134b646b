"""An openpi or lerobot checkpoint folder -> the description and the statistics that a zoo folder would have.

What the weights' shapes say is read from them (openpi's training writes no sizes); what no file of the folder says, the
user does (`ForeignSettings`). lerobot's processors: `lerobot_processors.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from vla_align_ros.observation.normalise import NormStats, NormStatsError, load_norm_stats
from vla_align_ros.policy.config import ModelConfig, ModelConfigError, make_model_config
from vla_align_ros.policy.foreign_files import LerobotConfig, OpenpiConfig, read_as, read_json
from vla_align_ros.policy.foreign_names import Variant
from vla_align_ros.policy.lerobot_processors import Processors, read_processors
from vla_align_ros.policy.tokenizer import find_tokenizer
from vla_align_ros.robot.description import RobotDescription

Shapes = Mapping[str, tuple[int, ...]]
SIGLIP_HEADS: Final = 16  # of So400m/14, which all of them have; the one size that no shape shows
_PROMPT_TOKENS: Final = {"pi0": 48, "pi05": 200}
_OPENPIS_CAMERAS: Final = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
_IMAGES: Final = re.compile(r"observation\.images?\.?")


@dataclass(frozen=True)
class ForeignSettings:
    """What a foreign folder does not say.

    robot: its fields in the order of the training data's. tokenizer, norm_stats: files, where they are not in the
    folder. action_horizon, discrete_state_input: of openpi's training config, which a PyTorch folder does not hold.
    """

    robot: RobotDescription
    tokenizer: Path | None = None
    norm_stats: Path | None = None
    action_horizon: int | None = None
    discrete_state_input: bool | None = None


@dataclass(frozen=True)
class ForeignModel:
    """What a zoo folder says in model.yaml, norm_stats.json and tokenizer.json.

    stats: `state` and `actions`, one number a field of `config.robot`; `stats_path` is the file they came from.
    tokenizer: a tokenizer.json, or a sentencepiece model. remarks: what is odd and does no harm, a sentence each.
    """

    config: ModelConfig
    stats: dict[str, NormStats]
    stats_path: Path
    tokenizer: Path
    remarks: tuple[str, ...]


def read_foreign(folder: Path, variant: Variant, shapes: Shapes, settings: ForeignSettings) -> ForeignModel:
    """Read `folder`, whose weights are of `variant` and have `shapes` by our names (`weights.to_our_names`).

    Raises ModelConfigError (a policy that is none of these, sizes that do not fit, no tokenizer, an unknown processor,
    fields that are not the robot's) and NormStatsError, each with a sentence that says what to do.
    """
    source = policy_of(folder)
    read = _read_lerobot if source == "lerobot" else _read_openpi
    return read(folder, _Sizes(folder, variant, shapes), settings)


def policy_of(folder: Path) -> Literal["openpi", "lerobot"]:
    """Whose checkpoint a folder is. Raises ModelConfigError for a config.json of another policy."""
    path = folder / "config.json"
    if not path.exists():
        return "openpi"  # its PyTorch training writes none
    config = read_json(path)
    if "type" in config:
        if config["type"] not in tuple(_PROMPT_TOKENS):  # of any JSON type
            raise ModelConfigError(f"{path}: a lerobot policy of type {config['type']!r}, read are pi0 and pi05")
        return "lerobot"
    if "paligemma_variant" in config:
        return "openpi"
    known = config.get("model_type") or config.get("architectures") or f"the keys {sorted(config)[:5]}"
    raise ModelConfigError(f"{path}: neither openpi's nor lerobot's pi0 or pi0.5, but {known}")


class _Sizes:
    """The sizes that the weights' shapes say. Raises ModelConfigError where a tensor is missing."""

    def __init__(self, folder: Path, variant: Variant, shapes: Shapes) -> None:
        self._folder, self._shapes, self.variant = folder, shapes, variant
        self.action_dim = self._of("action_in_proj.weight")[1]
        patches, width, patch = self._of("vision_tower.embeddings.position_embedding.weight")[0], *self._patch()
        self.image_size = math.isqrt(patches) * patch
        self.raw: dict[str, Any] = {
            "variant": self.variant,
            "vocab_size": self._of("embed_tokens.weight")[0],
            "action_dim": self.action_dim,
            "vlm": self._stack("vlm"),
            "action_expert": self._stack("action_expert"),
            "vision": {
                "width": width,
                "depth": self._depth("vision_tower.encoder"),
                "mlp_dim": self._of("vision_tower.encoder.layers.0.mlp.fc1.weight")[0],
                "num_heads": SIGLIP_HEADS,
                "image_size": self.image_size,
                "patch_size": patch,
            },
        }

    def _of(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            raise ModelConfigError(f"{self._folder}: the weights have no {name}, so they are of no pi0 or pi0.5")
        return self._shapes[name]

    def _patch(self) -> tuple[int, int]:
        width, _, _, patch = self._of("vision_tower.embeddings.patch_embedding.weight")
        return width, patch

    def _depth(self, stack: str) -> int:
        found = [re.match(rf"{re.escape(stack)}\.layers\.(\d+)\.", name) for name in self._shapes]
        return 1 + max((int(match[1]) for match in found if match), default=0)

    def _stack(self, name: str) -> dict[str, int]:
        """Gemma has one key-value head in every size that is used here."""
        queries, width = self._of(f"{name}.layers.0.q_proj.weight")
        head_dim = self._of(f"{name}.layers.0.k_proj.weight")[0]
        mlp_dim = self._of(f"{name}.layers.0.gate_proj.weight")[0]
        sizes = {"width": width, "depth": self._depth(name), "mlp_dim": mlp_dim}
        return sizes | {"num_heads": queries // head_dim, "num_kv_heads": 1, "head_dim": head_dim}

    def check(self, path: Path, **said: int | None) -> None:
        """Raises ModelConfigError where a config says another size than the weights have."""
        for key, value in said.items():
            if value not in (None, self.action_dim):
                raise ModelConfigError(f"{path}: {key} is {value}, the weights have {self.action_dim}")


def _read_openpi(folder: Path, sizes: _Sizes, settings: ForeignSettings) -> ForeignModel:
    path = folder / "config.json"
    said = read_as(path, OpenpiConfig) if path.exists() else OpenpiConfig()
    sizes.check(path, action_dim=said.action_dim)
    horizon = said.action_horizon if settings.action_horizon is None else settings.action_horizon
    if horizon is None:
        raise ModelConfigError(
            f"{folder}: no file here says how many actions a chunk has: give action_horizon as in openpi's training "
            "config (50 where it says nothing)"
        )
    stats_path = settings.norm_stats or _openpis_statistics(folder)
    robot, stats = settings.robot, load_norm_stats(stats_path)
    cameras = _in_order(list(robot.cameras), _OPENPIS_CAMERAS)
    if len(cameras) > len(_OPENPIS_CAMERAS):
        raise ModelConfigError(f"{folder}: openpi's policies see up to 3 cameras, the robot has {cameras}")
    remarks = []
    for name, fields in (("state", robot.state), ("actions", robot.action)):
        stats[name], remark = _cut(stats[name], len(fields), f"{stats_path}: {name}")
        remarks += remark
    raw = sizes.raw | {
        "max_token_len": _PROMPT_TOKENS[sizes.variant],
        "action_horizon": horizon,
        "cameras": cameras,
        "conventions": "openpi",
        "discrete_state_input": settings.discrete_state_input,
    }
    mode = "zscore" if sizes.variant == "pi0" else "quantiles"  # as openpi's use_quantile_norm
    config = _config(folder, raw, robot, mode, source="openpi")
    return ForeignModel(config, stats, stats_path, find_tokenizer(folder, settings.tokenizer), tuple(remarks))


def _openpis_statistics(folder: Path) -> Path:
    found = sorted(folder.glob("assets/**/norm_stats.json")) or sorted(folder.glob("norm_stats.json"))
    if not found:
        raise NormStatsError(
            f"{folder}: no assets/<robot>/norm_stats.json; openpi's converter leaves it in the JAX checkpoint: "
            "copy that folder here, or name the file (norm_stats)"
        )
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found)
        raise NormStatsError(f"{folder}: statistics of {len(found)} robots ({names}): name one of them (norm_stats)")
    return found[0]


def _cut(stats: NormStats, fields: int, name: str) -> tuple[NormStats, list[str]]:
    """Without the padding behind the robot's fields that some of openpi's files have: it is never used. Other numbers
    there are left, for `check_norm_stats` to refuse."""
    if not stats.is_padded(fields):
        return stats, []
    count = len(stats.mean)
    parts = [None if part is None else part[:fields] for part in (stats.mean, stats.std, stats.q01, stats.q99)]
    return NormStats(*parts), [f"{name} has {count} numbers: the last {count - fields} are padding"]  # type: ignore[arg-type]


def _read_lerobot(folder: Path, sizes: _Sizes, settings: ForeignSettings) -> ForeignModel:
    path = folder / "config.json"
    said = read_as(path, LerobotConfig)
    if said.type != sizes.variant:
        raise ModelConfigError(f"{path}: type is {said.type}, the weights are a {sizes.variant}'s")
    sizes.check(path, max_state_dim=said.max_state_dim, max_action_dim=said.max_action_dim)
    pictures = [key for key, feature in said.input_features.items() if feature.type == "VISUAL"]
    horizon, steps = said.chunk_size, said.num_inference_steps
    if said.image_resolution != [sizes.image_size] * 2:
        raise ModelConfigError(
            f"{path}: image_resolution is {said.image_resolution}, the weights see {sizes.image_size} pixels a side"
        )
    if settings.action_horizon not in (None, horizon):
        raise ModelConfigError(
            f"{path}: chunk_size is {horizon}, action_horizon {settings.action_horizon} was asked for"
        )
    processors = read_processors(folder, said)
    robot, remarks = _seen_by(folder, settings.robot, pictures, processors.renamed)
    if sizes.variant == "pi05" and said.use_relative_actions is None:  # which 0.5.1 brought
        remarks.append(f"{path}: of an old lerobot, whose prompts before 0.5 held the padded state, as ours do not")
    robot = _with_relative_actions(folder, robot, processors)
    stats_path, stats = processors.stats_path, processors.stats
    if settings.norm_stats is not None:
        stats_path, stats = settings.norm_stats, load_norm_stats(settings.norm_stats)
    if stats_path is None or stats is None:
        raise NormStatsError(
            f"{folder}: its processors hold no statistics of state and action, as of weights that were not trained for "
            "a robot yet: fine-tune them first, or name a file in openpi's form (norm_stats)"
        )
    raw = sizes.raw | {
        "max_token_len": processors.max_token_len,
        "action_horizon": horizon,
        "cameras": list(robot.cameras),
        "conventions": "lerobot",
        "discrete_state_input": settings.discrete_state_input,
    }
    config = _config(folder, raw, robot, processors.normalisation, "lerobot", {"num_steps": steps})
    return ForeignModel(config, stats, stats_path, find_tokenizer(folder, settings.tokenizer), tuple(remarks))


def _seen_by(
    folder: Path, robot: RobotDescription, pictures: Sequence[str], renamed: Mapping[str, str]
) -> tuple[RobotDescription, list[str]]:
    """The robot with its cameras in the policy's order, and what the policy misses. `renamed`: the data's key -> the
    policy's."""
    before = {new: old for old, new in renamed.items()}
    wanted = [before.get(key, key) for key in pictures if "empty_camera_" not in key]
    names = [_IMAGES.sub("", key, count=1) or "image" for key in wanted]
    if unknown := sorted(set(robot.cameras) - set(names)):
        raise ModelConfigError(
            f"{folder}: the policy sees the cameras {names}, the robot has {list(robot.cameras)}: give {unknown} one "
            "of these names in `robot.cameras`, or leave it out"
        )
    there = _in_order(list(robot.cameras), names)
    missing = [name for name in names if name not in robot.cameras]
    remarks = [f"{folder}: the policy was trained with {missing}, which the robot has not"] if missing else []
    return replace(robot, cameras={name: robot.cameras[name] for name in there}), remarks


def _with_relative_actions(folder: Path, robot: RobotDescription, processors: Processors) -> RobotDescription:
    """With `delta_position` for the positions that the policy gives relative to the state."""
    names, labels = processors.action_names, list(robot.action_labels)
    if names is not None and list(names) != labels:
        text = f"{folder}: its actions are {list(names)}, in this order, the robot's are {labels}"
        raise ModelConfigError(f"{text}: give the fields of `robot.action` these names and this order")
    action = []
    for index, (item, relative) in enumerate(zip(robot.action, processors.relative_mask(len(labels)), strict=True)):
        if item.kind == ("velocity" if relative else "delta_position"):
            text = f"{folder}: action {item.label!r} is {'' if relative else 'not '}relative to the state"
            raise ModelConfigError(
                f"{text}, the robot's kind is {item.kind}: say position, and it is made relative here"
            )
        if relative and (index >= len(robot.state) or robot.position_columns[index] != index):
            there = robot.state_labels[index] if index < len(robot.state) else "none"
            text = f"{folder}: action {item.label!r} is relative to number {index} of the state, which is {there!r}"
            raise ModelConfigError(f"{text}: put the fields of `robot.state` into the action's order")
        action.append(replace(item, kind="delta_position") if relative else item)
    return replace(robot, action=tuple(action))


def _in_order(names: list[str], order: Sequence[str]) -> list[str]:
    """As in `order` where every name is in it; as they are otherwise."""
    return sorted(names, key=list(order).index) if set(names) <= set(order) else names


def _config(
    folder: Path,
    architecture: dict[str, Any],
    robot: RobotDescription,
    normalisation: str,
    source: str,
    recommended: dict[str, Any] | None = None,
) -> ModelConfig:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("._-") or source
    raw = {"format": 1, "name": name, "architecture": architecture, "robot": robot, "normalisation": normalisation}
    weights = {"file": "model.safetensors", "source": source}
    return make_model_config(raw | {"weights": weights, "recommended": recommended or {}}, folder)
