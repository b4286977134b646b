"""Files of weights: safetensors, one file or shards, read tensor by tensor into a network that has no memory yet.

Only a header is read to know names and shapes. Pickles are never read: a folder that holds only a pickle is refused
with a sentence that says so. Other projects' names: `foreign_names.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vla_align_ros.foreign import SHARDS, missing_weights, what_is_file

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CHECKED_AT_ONCE = 2**22  # numbers that are looked at together, so that looking takes no memory


class WeightsError(ValueError):
    """Weights are missing, damaged or do not fit the model; the message names the file and the tensors."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, not read yet. dtype: safetensors' word, as F32 or BF16."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """Its numbers, in memory of their own. The file is mapped for this one tensor: the pages of a mapping that
        lives on would count as well. Raises WeightsError for a file that changed or cannot be read."""
        with _opened(self.path) as file:
            tensor: Tensor = file.get_tensor(self.name).to(device, dtype, copy=True)
        return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        known = what_is_file(path) or "copy or download it again"
        raise WeightsError(f"{path}: not a whole safetensors file ({error}); {known}") from None


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file by name, from its header; of its shards, where only their index is there.

    Raises WeightsError for a missing, truncated or foreign file.
    """
    files = weights_files(path)
    found = {tensor.name: tensor for file in files for tensor in _header(file)}
    if len(files) > 1 or files[0] != path:
        _check_index(index_of(path), found)
    return found


def weights_files(path: Path) -> tuple[Path, ...]:
    """`path` itself, or the shards that the index beside it names. Raises WeightsError where neither is there."""
    if path.is_file():
        return (path,)
    index = index_of(path)
    if not index.is_file():
        instead = missing_weights(path.parent)
        raise WeightsError(f"{path}: no such file, expected the weights as safetensors{instead}")
    files = tuple(path.parent / name for name in sorted(set(_weight_map(index).values())))
    if missing := [file.name for file in files if not file.is_file()]:
        raise WeightsError(
            f"{index}: {len(missing)} of {len(files)} files that it names are not there: {_some(missing)}"
        )
    return files


def index_of(path: Path) -> Path:
    """The file that says which shard holds what."""
    return path.with_name(path.name + SHARDS)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> file, of an index as transformers writes it."""
    try:
        found: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightsError(f"{index}: no index of shards: {what_is_file(index) or repr(error)}") from None
    names = list(found.values()) if isinstance(found, dict) else []
    if not names or any(not isinstance(name, str) or Path(name).name != name or not name for name in names):
        raise WeightsError(f"{index}: weight_map must name a file in this folder for every tensor")
    return found


def _check_index(index: Path, found: Mapping[str, StoredTensor]) -> None:
    named, there = _weight_map(index), {name: tensor.path.name for name, tensor in found.items()}
    if wrong := sorted(name for name in named.keys() | there.keys() if named.get(name) != there.get(name)):
        raise WeightsError(
            f"{index}: the files are not the ones of this index: {_some(wrong)} are elsewhere or nowhere"
        )


def _header(path: Path) -> list[StoredTensor]:
    with _opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        return [StoredTensor(path, name, tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a small safetensors file. Raises WeightsError for a missing, truncated or foreign file."""
    cpu = torch.device("cpu")
    return {name: tensor.read(cpu) for name, tensor in open_tensors(path).items()}


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_weights(path: Path) -> str:
    """Of the file; of shards that of `sha256sum`'s lines about them, in the order of their names."""
    files = weights_files(path)
    if files == (path,):
        return sha256_of(path)
    lines = [f"{sha256_of(file)}  {file.name}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def assign(model: nn.Module, given: Mapping[str, StoredTensor], device: torch.device, origin: Path) -> None:
    """Give `model`, which may lie on the meta device, its numbers: in the dtypes that it has, on `device`.

    The largest tensor first, one at a time, so that no more memory is taken than the result needs, and one small
    tensor. Raises WeightsError that lists missing, unexpected and misshapen tensors, and those that are not finite;
    the model stays as it was.
    """
    own = model.state_dict()
    found: dict[str, Tensor] = {}
    bad = []
    for name in sorted(given, key=lambda name: given[name].numel, reverse=True):
        found[name] = given[name].read(device, own[name].dtype)
        if not _is_finite(found[name]):
            bad.append(given[name].name)
    _refuse_not_finite(bad, origin)
    model.load_state_dict(found, assign=True)


def check_finite(given: Iterable[StoredTensor], origin: Path) -> None:
    """Read all of them, one at a time. Raises WeightsError that lists those with numbers that are not finite."""
    cpu = torch.device("cpu")
    _refuse_not_finite([tensor.name for tensor in given if not _is_finite(tensor.read(cpu))], origin)


def _is_finite(tensor: Tensor) -> bool:
    return all(bool(part.isfinite().all()) for part in tensor.flatten().split(_CHECKED_AT_ONCE))


def _refuse_not_finite(names: Sequence[str], origin: Path) -> None:
    if names:
        raise WeightsError(f"{origin}: the weights do not fit the model; not finite: {_some(sorted(names))}")


def check_fits(
    own: Mapping[str, Tensor],
    given: Mapping[str, StoredTensor],
    origin: Path,
    spelled: Callable[[str], str] = str,
) -> None:
    """Do the names, shapes and types of `given` fit a model whose state dict is `own`? spelled: what the file calls one
    of the model's tensors. Raises WeightsError that lists what is missing, unexpected, misshapen, and no numbers.
    """
    both = sorted(own.keys() & given.keys())
    shapes = [
        f"{given[k].name} is {list(given[k].shape)}, expected {list(own[k].shape)}"
        for k in both
        if own[k].shape != given[k].shape
    ]
    types = [f"{given[k].name} is {given[k].dtype}" for k in both if given[k].dtype not in _FLOATS]
    problems = {
        "missing": sorted(map(spelled, own.keys() - given.keys())),
        "unexpected": sorted(given[k].name for k in given.keys() - own.keys()),
        "wrong shape": shapes,
        "not floating-point numbers": types,
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise WeightsError(f"{origin}: the weights do not fit the model; {listed}")


def _some(items: Sequence[str], shown: int = 5) -> str:
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(items[:shown]) + more
