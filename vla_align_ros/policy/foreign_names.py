"""openpi's and lerobot's names of tensors <-> ours.

openpi (PyTorch) stores the token embedding as `lm_head` alone; lerobot puts `model.` in front and stores both, of which
`embed_tokens` is the one that is used. The action expert's own `lm_head` is stored by both and used by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Variant = Literal["pi0", "pi05"]

_PREFIX = "model."
_ROOT = "paligemma_with_expert."
_EMBEDDING = f"{_ROOT}paligemma.model.language_model.embed_tokens.weight"
_HEAD = f"{_ROOT}paligemma.lm_head.weight"
_DEAD = f"{_ROOT}gemma_expert.lm_head.weight"
_PARTS = (  # theirs, what newer transformers leave out behind it, ours
    (f"{_ROOT}paligemma.lm_head.", "", "embed_tokens."),
    (f"{_ROOT}paligemma.model.language_model.embed_tokens.", "", "embed_tokens."),
    (f"{_ROOT}paligemma.model.vision_tower.", "vision_model.", "vision_tower."),
    (f"{_ROOT}paligemma.model.multi_modal_projector.linear.", "", "multi_modal_projector."),
    (f"{_ROOT}paligemma.model.language_model.", "", "vlm."),
    (f"{_ROOT}gemma_expert.model.", "", "action_expert."),
)
_INSIDE_LAYER = re.compile(r"^((?:vlm|action_expert)\.layers\.\d+\.)(?:self_attn|mlp)\.")
_ATTENTION = re.compile(r"^((?:vlm|action_expert)\.layers\.\d+\.)([qkvo]_proj\.)")
_MLP = re.compile(r"^((?:vlm|action_expert)\.layers\.\d+\.)((?:gate|up|down)_proj\.)")


def is_foreign(names: Iterable[str]) -> bool:
    """Are these openpi's or lerobot's names of a pi0 or pi0.5?"""
    return any(name.removeprefix(_PREFIX).startswith(_ROOT) for name in names)


def variant_of(names: Iterable[str]) -> Variant | None:
    """Which of the two the tensors are of; None where that cannot be said. openpi's config.json does not say it."""
    ends = {name.removeprefix(_PREFIX) for name in names}
    if "time_mlp_in.weight" in ends:
        return "pi05"
    return "pi0" if "action_time_mlp_in.weight" in ends else None


def to_our_names(names: Iterable[str]) -> dict[str, str]:
    """Our name -> theirs, of every tensor but those that are never used. Names that are ours already, and a second name
    for the same tensor, lead to themselves."""
    theirs = sorted(names)
    if not is_foreign(theirs):
        return {name: name for name in theirs}
    short = {name: name.removeprefix(_PREFIX) for name in theirs}
    unused = {_DEAD, _HEAD} if _EMBEDDING in short.values() else {_DEAD}
    found: dict[str, str] = {}
    for name in theirs:
        if short[name] not in unused:
            ours = _ours(short[name])
            found[name if ours in found else ours] = name
    return found


def _ours(name: str) -> str:
    for start, optional, ours in _PARTS:
        if name.startswith(start):
            name = ours + name.removeprefix(start).removeprefix(optional)
            break
    return _INSIDE_LAYER.sub(r"\1", name)


def to_openpis_name(name: str) -> str:
    """The name that openpi gives one of our tensors."""
    name = _MLP.sub(r"\1mlp.\2", _ATTENTION.sub(r"\1self_attn.\2", name))
    for start, optional, ours in _PARTS:
        if name.startswith(ours):
            return start + optional + name.removeprefix(ours)
    return name
