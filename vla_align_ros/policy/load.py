"""A folder -> a `Policy`: the network with its weights, the robot, and what alignment needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vla_align_ros.foreign import what_is_file, what_is_folder
from vla_align_ros.observation.normalise import Normaliser, check_norm_stats, load_norm_stats
from vla_align_ros.policy import weights
from vla_align_ros.policy.config import (
    MODEL_FILE,
    Architecture,
    ModelConfig,
    ModelConfigError,
    load_model_config,
)
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.policy import AlignmentParts, Policy
from vla_align_ros.policy.prepare import PolicyError, Robot
from vla_align_ros.policy.statistics import STATS_FILE, load_alignment_stats
from vla_align_ros.policy.tokenizer import PromptTokenizer

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["float32", "bfloat16"]
BANK_FILE = "token_bank.safetensors"
BFLOAT16_CPU_MIN_WIDTH = (
    512  # of the VLM; measured with AMX (docs/performance.md): 2.2 times as fast at 512, half at 64
)


def load_policy(folder: str | Path, device: Device | torch.device = "auto", dtype: Dtype = "float32") -> Policy:
    """Load a zoo folder.

    device: of torch, or a name; `auto` takes cuda where there is one. dtype: of the large matrices (`to_bfloat16`).
    Raises ModelConfigError, WeightsError, NormStatsError, AlignmentStatsError or PolicyError, each with a sentence that
    says what is wrong in which file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        known = what_is_file(folder) or f"give a folder that holds {MODEL_FILE}, as models/tiny does"
        raise ModelConfigError(f"{folder}: no such model folder; {known}")
    target = device if isinstance(device, torch.device) else find_device(device)
    if not (folder / MODEL_FILE).exists():
        raise ModelConfigError(f"{folder}: {what_is_folder(folder)}")
    config = load_model_config(folder)
    path = folder / config.weights.file
    tensors, sha256 = weights.read_tensors(path), weights.sha256_of(path)
    if config.weights.sha256 is not None and sha256 != config.weights.sha256:
        raise weights.WeightsError(
            f"{path}: sha256 is {sha256}, {MODEL_FILE} says {config.weights.sha256}, "
            "so these are not the weights that were described"
        )
    model = make_network(config.architecture, tensors, path, target, dtype)
    alignment = _alignment_parts(folder, config.architecture, target)
    bank = 0 if alignment is None else len(alignment.bank)
    if config.initial_token is not None and config.initial_token >= bank:
        raise ModelConfigError(f"{folder}: initial_token is {config.initial_token}, the bank has {bank} tokens")
    return Policy(model, _robot(folder, config), alignment, sha256, target)


def make_network(
    architecture: Architecture, tensors: dict[str, Tensor], path: Path, device: torch.device, dtype: Dtype
) -> Pi0:
    """The frozen network with the weights that were read from `path`, in our names or openpi's; sizes that do not fit
    the tensors are seen before memory is taken. Raises WeightsError, and PolicyError for a dtype of no use there."""
    _check_dtype(dtype, device, architecture)
    ours = weights.to_our_names(tensors)
    with torch.device("meta"):
        weights.check_fits(Pi0(architecture).state_dict(), ours, path)
    model = Pi0(architecture)
    model.load_state_dict(ours)
    if dtype == "bfloat16":
        to_bfloat16(model)
    return model.to(device).eval().requires_grad_(False)


def to_bfloat16(model: Pi0) -> None:
    """openpi's mix: SigLIP, the embedding and the matrices of VLM and action expert in bfloat16. Norms, what surrounds
    the action expert, the E-Token and the alignment expert stay float32.
    """
    for part in (model.vision_tower, model.multi_modal_projector, model.embed_tokens):
        part.bfloat16()
    for stack in (model.vlm, model.action_expert):
        for name, part in stack.named_modules():
            if isinstance(part, nn.Linear) and name.endswith("_proj"):
                part.bfloat16()


def _check_dtype(dtype: str, device: torch.device, architecture: Architecture) -> None:
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


def _robot(folder: Path, config: ModelConfig) -> Robot:
    stats_path = folder / "norm_stats.json"
    labels = {"state": config.robot.state_labels, "actions": config.robot.action_labels}
    stats = load_norm_stats(stats_path, labels)
    remarks = check_norm_stats(stats, stats_path, labels, config.normalisation)
    architecture = config.architecture
    return Robot(
        config,
        Normaliser(stats["state"], config.normalisation),
        Normaliser(stats["actions"], config.normalisation),
        PromptTokenizer(folder, architecture.variant, architecture.max_token_len, architecture.vocab_size),
        weights.sha256_of(stats_path),
        remarks,
    )


def _alignment_parts(folder: Path, architecture: Architecture, device: torch.device) -> AlignmentParts | None:
    """None where the model does not align."""
    if architecture.alignment is None:
        return None
    features = FeatureExtractor(architecture.alignment.features)
    path = folder / "features.safetensors"
    weights.load_into(features, weights.read_tensors(path), path)
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
    features = features.to(device).eval().requires_grad_(False)
    return AlignmentParts(features, bank.to(device, torch.float32), load_alignment_stats(folder / STATS_FILE))


def _is_finite_of(tensor: Tensor, shape: Sequence[int | None]) -> bool:
    """Finite, not empty and of a shape; None is any length."""
    fits = tensor.dim() == len(shape) and all(w in (None, n) for n, w in zip(tensor.shape, shape, strict=True))
    return fits and tensor.numel() > 0 and bool(torch.isfinite(tensor).all())


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` takes cuda where there is one. Raises PolicyError where torch sees no GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise PolicyError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise PolicyError("device is cuda, but torch sees no GPU: use auto or cpu, or install a CUDA build of torch")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
