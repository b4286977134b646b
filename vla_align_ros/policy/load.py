"""A folder -> a `Policy`: the network with its weights, the robot, and what alignment needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vla_align_ros.foreign import EXPECTED, what_is_file, what_is_folder
from vla_align_ros.observation.normalise import load_norm_stats
from vla_align_ros.policy import made_tokens, weights
from vla_align_ros.policy.config import (
    MODEL_FILE,
    Architecture,
    ModelConfigError,
    WeightsConfig,
    load_model_config,
)
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.foreign_config import ForeignModel, ForeignSettings, read_foreign
from vla_align_ros.policy.foreign_names import is_foreign, to_openpis_name, to_our_names, variant_of
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.policy import AlignmentParts, Policy
from vla_align_ros.policy.prepare import PolicyError, make_robot
from vla_align_ros.policy.statistics import STATS_FILE, load_alignment_stats
from vla_align_ros.policy.tokenizer import find_tokenizer
from vla_align_ros.policy.vision import number_the_patches

Device = str  # a name for `find_device`
Dtype = Literal["float32", "bfloat16"]
BANK_FILE = "token_bank.safetensors"
BFLOAT16_CPU_MIN_WIDTH = (
    512  # of the VLM; measured with AMX (docs/performance.md): 2.2 times as fast at 512, half at 64
)


def load_policy(
    folder: str | Path,
    device: Device | torch.device = "auto",
    dtype: Dtype = "float32",
    settings: ForeignSettings | None = None,
) -> Policy:
    """Load a zoo folder, or openpi's or lerobot's checkpoint of a pi0 or pi0.5.

    device: of torch, or a name for `find_device`. dtype: of the large matrices (`to_bfloat16`). settings: what another
    project's folder does not say, above all which robot it is for; None for a zoo folder, which says everything.
    Raises ModelConfigError, WeightsError, NormStatsError, AlignmentStatsError or PolicyError, each with a sentence that
    says what is wrong in which file.
    """
    folder = Path(folder)
    target = device if isinstance(device, torch.device) else find_device(device)
    read = read_folder(folder, settings)
    config = read.config
    path = folder / config.weights.file
    sha256 = weights.sha256_of_weights(path)
    if config.weights.sha256 is not None and sha256 != config.weights.sha256:
        raise weights.WeightsError(
            f"{path}: sha256 is {sha256}, {MODEL_FILE} says {config.weights.sha256}, "
            "so these are not the weights that were described"
        )
    model = make_network(config.architecture, path, target, dtype)
    alignment = _alignment_parts(folder, config.architecture, target)
    bank = 0 if alignment is None else len(alignment.bank)
    if config.initial_token is not None and config.initial_token >= bank:
        raise ModelConfigError(f"{folder}: initial_token is {config.initial_token}, the bank has {bank} tokens")
    robot = make_robot(config, read.stats, read.stats_path, read.tokenizer, read.remarks)
    return Policy(model, robot, alignment, sha256, target)


def read_folder(folder: Path, settings: ForeignSettings | None = None) -> ForeignModel:
    """What a zoo folder, or another project's, says beside its weights, of which only names and shapes are read.

    Raises ModelConfigError, WeightsError or NormStatsError.
    """
    if not folder.is_dir():
        known = "this is a file: give the folder that it is in" if folder.is_file() else EXPECTED
        raise ModelConfigError(f"{folder}: no such model folder; {what_is_file(folder) or known}")
    if (folder / MODEL_FILE).exists():
        if settings is not None:
            raise ModelConfigError(f"{folder} is a zoo folder already, and says what robot it is for in {MODEL_FILE}")
        config, stats_path = load_model_config(folder), folder / "norm_stats.json"
        try:
            weights.weights_files(folder / config.weights.file)
        except weights.WeightsError as error:
            raise weights.WeightsError(
                f"{error}; they are from: {config.weights.source or 'nobody says where'}"
            ) from None
        labels = {"state": config.robot.state_labels, "actions": config.robot.action_labels}
        return ForeignModel(config, load_norm_stats(stats_path, labels), stats_path, find_tokenizer(folder), ())
    path, damage = folder / WeightsConfig.file, ""
    try:
        stored = weights.open_tensors(path)
    except weights.WeightsError as error:
        stored, damage = {}, _damage(path, error)
    variant = variant_of(stored)
    if variant is None or not is_foreign(stored):
        raise ModelConfigError(f"{folder}: {what_is_folder(folder)}{damage}")
    if settings is None:
        raise ModelConfigError(
            f"{folder}: a {variant} of openpi or lerobot, which does not say what robot it is for: "
            f"`vla-align convert {folder} models/NAME --robot FILE`, with a file as config/robots/so101.yaml, makes a "
            "model of it; in Python: load_policy(folder, settings=ForeignSettings(load_description(file)))"
        )
    shapes = {name: stored[theirs].shape for name, theirs in to_our_names(stored).items()}
    return read_foreign(folder, variant, shapes, settings)


def _damage(path: Path, error: weights.WeightsError) -> str:
    """What is wrong with weights that are there, unless their first bytes say it, as `what_is_folder` does."""
    there = [file for file in (path, weights.index_of(path)) if file.is_file()]
    return f"; {error}" if there and not any(map(what_is_file, there)) else ""


def memory_of(architecture: Architecture, dtype: Dtype) -> int:
    """Bytes of the network's numbers. `load_policy` takes a little more (benchmarks/load_memory.py)."""
    with torch.device("meta"):
        model = Pi0(architecture)
    if dtype == "bfloat16":
        to_bfloat16(model)
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def check_network(architecture: Architecture, path: Path) -> dict[str, weights.StoredTensor]:
    """The weights in `path` by our names, whose names, shapes and types fit. Their numbers are not read. Raises
    WeightsError."""
    return _on_meta(architecture, path)[1]


def _on_meta(architecture: Architecture, path: Path) -> tuple[Pi0, dict[str, weights.StoredTensor]]:
    """A network without memory, and its weights by its own names."""
    stored = weights.open_tensors(path)
    ours = {name: stored[theirs] for name, theirs in to_our_names(stored).items()}
    with torch.device("meta"):
        model = Pi0(architecture)
    weights.check_fits(model.state_dict(), ours, path, to_openpis_name if is_foreign(stored) else str)
    return model, ours


def make_network(architecture: Architecture, path: Path, device: torch.device, dtype: Dtype) -> Pi0:
    """The frozen network with the weights in `path`, under our names, openpi's or lerobot's. Sizes that do not fit them
    are seen before memory is taken. Raises WeightsError, and PolicyError for a dtype of no use there."""
    check_dtype(dtype, device, architecture)
    model, ours = _on_meta(architecture, path)
    if dtype == "bfloat16":
        to_bfloat16(model)
    weights.assign(model, ours, device, path)
    number_the_patches(model.vision_tower, device)
    return model.eval().requires_grad_(False)


def to_bfloat16(model: Pi0) -> None:
    """openpi's mix: SigLIP, the embedding and the matrices of VLM and action expert in bfloat16. SigLIP's patch and
    position embeddings, the norms of both stacks, what surrounds the action expert, the E-Token and the alignment
    expert stay float32.
    """
    tower = model.vision_tower
    for part in (tower.encoder, tower.post_layernorm, model.multi_modal_projector, model.embed_tokens):
        part.bfloat16()
    for stack in (model.vlm, model.action_expert):
        for name, part in stack.named_modules():
            if isinstance(part, nn.Linear) and name.endswith("_proj"):
                part.bfloat16()


def check_dtype(dtype: str, device: torch.device, architecture: Architecture) -> None:
    """Raises PolicyError for an unknown one, and for bfloat16 where a CPU is slower with it than with float32."""
    if dtype not in ("float32", "bfloat16"):
        raise PolicyError(f"dtype must be float32 or bfloat16, got {dtype!r}")
    if dtype == "float32" or device.type != "cpu":
        return
    if not torch.cpu._is_amx_tile_supported():
        raise PolicyError("bfloat16 is slower than float32 on this CPU, which has no AMX: use float32")
    width = architecture.vlm.width
    if width < BFLOAT16_CPU_MIN_WIDTH:
        raise PolicyError(
            f"on a CPU bfloat16 is slower than float32 for a model this small (its VLM is {width} wide, "
            f"{BFLOAT16_CPU_MIN_WIDTH} are needed): use float32"
        )


def _alignment_parts(folder: Path, architecture: Architecture, device: torch.device) -> AlignmentParts | None:
    """None where the model does not align."""
    if architecture.alignment is None:
        return None
    features = FeatureExtractor(architecture.alignment.features)
    path = folder / "features.safetensors"
    stored = weights.open_tensors(path)
    weights.check_fits(features.state_dict(), stored, path)
    weights.assign(features, stored, device, path)
    if not bool((features.scale > 0).all()):
        raise weights.WeightsError(
            f"{path}: `scale` whitens the features and must be above 0, got {features.scale.min()}"
        )
    bank_path = folder / BANK_FILE
    tensors = weights.read_tensors(bank_path)
    n, width = architecture.peft_num_tokens, architecture.action_expert.width
    bank = tensors.get("offsets")
    if bank is None or not _is_finite_of(bank, (None, n, width)):
        raise weights.WeightsError(f"{bank_path}: expected a finite tensor `offsets` of shape (robots, {n}, {width})")
    try:
        made = made_tokens.from_tensors(tensors, n, width, device)
    except ValueError as error:
        raise weights.WeightsError(f"{bank_path}: {error}") from None
    if made is not None and len(made.shifts) != len(bank):
        raise weights.WeightsError(f"{bank_path}: {len(bank)} `offsets`, but {len(made.shifts)} `shifts`")
    features, stats = features.eval().requires_grad_(False), load_alignment_stats(folder / STATS_FILE)
    return AlignmentParts(features, bank.to(device, torch.float32), stats, made)


def _is_finite_of(tensor: Tensor, shape: Sequence[int | None]) -> bool:
    """Finite, not empty and of a shape; None is any length."""
    fits = tensor.dim() == len(shape) and all(w in (None, n) for n, w in zip(tensor.shape, shape, strict=True))
    return fits and tensor.numel() > 0 and bool(torch.isfinite(tensor).all())


def find_device(name: Device) -> torch.device:
    """The device of that name; `auto` takes cuda where there is one. Raises PolicyError where torch sees none."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise PolicyError(f"device must be auto, cpu, cuda, or cuda:1 for the second GPU, got {name!r}")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise PolicyError(f"device is {name}, but torch sees no GPU: use auto or cpu, or install a CUDA build of torch")
    device, count = torch.device("cuda" if name == "auto" else name), torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise PolicyError(f"device is {name}, but torch sees {count} GPUs, the last one is cuda:{count - 1}")
    return device
