"""What somebody gave instead of a model: sentences for folders and files that are something else, or not all there.

Nothing is opened but the first bytes of a file, and small JSON files; pickles are never read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

PICKLES: Final = ("*.pt", "*.pth", "*.bin", "*.ckpt", "*.pkl", "*.pickle")
_HEAD_BYTES: Final = 512
SHARDS: Final = ".index.json"  # behind the name of the weights, of the file that says which shard holds what
_UNFINISHED: Final = ("*.incomplete", "*.part", "*.crdownload", "*.aria2", "*.tmp")
EXPECTED: Final = "expected a folder with model.yaml, as models/so101 is, or a pi0 or pi05 of openpi or lerobot, whole"
_POLICIES: Final = {  # `type` of lerobot, beginning of `model_type` of transformers -> name
    "pi0": "PI0",
    "pi05": "PI0.5",
    "pi0_fast": "PI0-FAST",
    "pi0fast": "PI0-FAST",
    "smolvla": "SmolVLA",
    "groot": "GR00T",
    "gr00t": "GR00T",
    "act": "ACT",
    "diffusion": "Diffusion Policy",
    "openvla": "OpenVLA",
}


def what_is_file(path: Path) -> str:
    """What a file is that is not what its name says, and what to do; empty when nothing is known against it."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return ""
    words = head.lstrip().lower()
    if not head:
        return "the file is empty: copy or download it again"
    if head.startswith(b"version https://git-lfs"):
        real = re.search(rb"size (\d+)", head)
        big = f" of {int(real[1]) / 1e6:.1f} MB" if real else ""
        return (
            f"this is a Git LFS pointer, not the file{big} that it stands for: run `git lfs pull` where it was cloned"
        )
    if words.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page under the file's name, often an error page: download it again, logged in if need be"
    if not head.strip(b"\0"):
        return "the file begins with zeros: a copy that was cut off; copy or download it again"
    if head.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", head):
        return "this is a pickle, which can run code and is never loaded: convert it to safetensors"
    return _what_is_safetensors(head, size) if path.suffix == ".safetensors" else ""


def _what_is_safetensors(head: bytes, size: int) -> str:
    """The format: length of the header (8 bytes), the header as JSON, the numbers."""
    if head.isascii() and head.decode().isprintable():
        return f"this is a text ({head.decode():.60}) under the file's name: download it again"
    if head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") > size:
        return f"only a part of it is there ({size} bytes): download it again"
    return ""


def missing_weights(folder: Path) -> str:
    """What stands in a folder in place of a weights file, as the end of a sentence; empty when nothing does."""
    if pickles := _names(folder, *PICKLES):
        return f"; {_some(pickles)} is a pickle, which can run code and is never loaded: convert it to safetensors"
    if unfinished := _names(folder, *_UNFINISHED):
        return f"; {_some(unfinished)} is an unfinished download: let it end"
    return ""


def what_is_folder(folder: Path) -> str:
    """What a folder without model.yaml is, and what is expected."""
    if not any(folder.iterdir()):
        return f"the folder is empty; {EXPECTED}"
    kind = _policy(folder) or _other(folder) or "no model.yaml is here"
    broken = [f"{path.name}: {said}" for path in sorted(folder.iterdir()) if (said := what_is_file(path))]
    return "; ".join([kind, *broken[:2], EXPECTED]) + ("" if broken else missing_weights(folder))


def _policy(folder: Path) -> str:
    """The policy of another project."""
    config = _json(folder / "config.json")
    named = str(config.get("type") or config.get("model_type") or "").lower()
    known = _POLICIES.get(named) or next((name for key, name in _POLICIES.items() if named.startswith(f"{key}_")), "")
    if (folder / "adapter_config.json").exists():
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path", "its base model")
        return f"this is an adapter (LoRA): merge it into {base} first"
    if "type" in config and ("input_features" in config or "output_features" in config):
        if known in ("PI0", "PI0.5"):
            return f"this is lerobot's {known}, but weights of one are not in its model.safetensors"
        return f"this is a lerobot policy of type {named} ({known or 'a policy'}, another network), which is not read"
    if "architectures" in config or "model_type" in config:
        what = known or ", ".join(map(str, config.get("architectures") or [named]))
        return f"this is a {what} model of transformers, another network, which is not read"
    if (folder / "experiment_cfg").is_dir():
        return "this is a GR00T checkpoint, another network, which is not read"
    if "paligemma_variant" in config:
        return "this is openpi's, but weights of a pi0 or pi0.5 are not in its model.safetensors"
    if (folder / "params").is_dir():
        return "this is openpi's JAX checkpoint: convert it to PyTorch with openpi first"
    return ""


def _other(folder: Path) -> str:
    """No policy at all, or the folder above or below one."""
    inside = next(iter(sorted(folder.glob("*/model.yaml"))), None)
    if inside is not None:
        return f"the model is one folder further down: give {inside.parent}"
    if snapshots := sorted(folder.glob("snapshots/*/")):
        return f"this is a Hugging Face cache: give the folder in it, {snapshots[-1]}"
    if trained := [path for depth in ("", "*/", "*/*/") for path in sorted(folder.glob(f"{depth}pretrained_model"))]:
        return f"this is a lerobot training run, whose policy is in {trained[-1]}: give that folder"
    if (folder / "meta" / "info.json").exists():
        return "this is a LeRobotDataset, not a model"
    if (folder / "metadata.yaml").exists() or _names(folder, "*.mcap", "*.db3"):
        return "this is a recording (a bag), not a model"
    if (folder / "versions").is_dir():
        return "this is a token store, not a model: give it as store:="
    if foreign := _names(folder, "*.onnx", "*.engine", "*.gguf", "*.tflite"):
        return f"{_some(foreign)} is a model for another program"
    return ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(folder: Path, *patterns: str) -> list[str]:
    return sorted(path.name for pattern in patterns for path in folder.glob(pattern))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
