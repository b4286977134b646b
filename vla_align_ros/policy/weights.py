"""Names and files of weights: safetensors in, a state dict in our names out. openpi's names are translated here.

Pickles are never read: a folder that holds only a pickle is refused with a sentence that says so.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vla_align_ros.foreign import missing_weights, what_is_file

_OPENPI = "paligemma_with_expert."
_OPENPI_RULES = (
    (r"^paligemma_with_expert\.paligemma\.lm_head\.", "embed_tokens."),
    (r"^paligemma_with_expert\.paligemma\.model\.vision_tower\.vision_model\.", "vision_tower."),
    (r"^paligemma_with_expert\.paligemma\.model\.multi_modal_projector\.linear\.", "multi_modal_projector."),
    (r"^paligemma_with_expert\.paligemma\.model\.language_model\.", "vlm."),
    (r"^paligemma_with_expert\.gemma_expert\.model\.", "action_expert."),
    (r"^(vlm|action_expert)\.(.*)\.(?:self_attn|mlp)\.", r"\1.\2."),
)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_OPENPI_DEAD = ("paligemma_with_expert.gemma_expert.lm_head.weight",)  # stored, never used


class WeightsError(ValueError):
    """Weights are missing, damaged or do not fit the model; the message names the file and the tensors."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises WeightsError for a missing, truncated or foreign file."""
    if not path.is_file():
        instead = missing_weights(path.parent)
        raise WeightsError(f"{path}: no such file, expected the weights as safetensors{instead}")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, OSError) as error:
        known = what_is_file(path) or "copy or download it again"
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); {known}") from None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_our_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate openpi's keys; a state dict that is ours already comes back as it is."""
    if not any(key.startswith(_OPENPI) for key in tensors):
        return tensors
    renamed = {}
    for key, tensor in tensors.items():
        if key in _OPENPI_DEAD:
            continue
        for pattern, ours in _OPENPI_RULES:
            key = re.sub(pattern, ours, key)
        renamed[key] = tensor
    return renamed


def load_into(model: nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Strict load. Raises WeightsError that lists missing, unexpected and misshapen tensors; the model stays as it
    was.
    """
    check_fits(model.state_dict(), tensors, origin)
    model.load_state_dict(tensors)


def check_fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], origin: Path) -> None:
    """Do `tensors` fit a model whose state dict is `own` (which may lie on the meta device)? Raises WeightsError."""
    problems = []
    for label, keys in (("missing", own.keys() - tensors.keys()), ("unexpected", tensors.keys() - own.keys())):
        if keys:
            problems.append(f"{label}: {_some(sorted(keys))}")
    shapes = [
        f"{k} is {list(tensors[k].shape)}, expected {list(own[k].shape)}"
        for k in sorted(own.keys() & tensors.keys())
        if own[k].shape != tensors[k].shape
    ]
    if shapes:
        problems.append(f"wrong shape: {_some(shapes)}")
    floats = {k: tensor for k, tensor in sorted(tensors.items()) if k in own and tensor.dtype in _FLOATS}
    types = [
        f"{k} is {tensors[k].dtype}"
        for k in sorted(own.keys() & tensors.keys())
        if k not in floats and own[k].is_floating_point()
    ]
    if types:
        problems.append(f"not floating-point numbers: {_some(types)}")
    bad = [k for k, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        problems.append(f"not finite: {_some(bad)}")
    if problems:
        raise WeightsError(f"{origin}: the weights do not fit the model; " + "; ".join(problems))


def _some(items: list[str], shown: int = 5) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more


def hash_json(value: object) -> str:
    """Hex SHA-256 of a JSON-able value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
