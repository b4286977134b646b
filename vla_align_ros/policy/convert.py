"""A checkpoint of openpi or lerobot -> a zoo folder, whole or not at all.

The weights are copied as they are, byte for byte, so that their hash is the one that was published; `load.py` knows
their names.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from vla_align_ros.checkpoint.durable import make_folder_synced, sync_files, sync_folder
from vla_align_ros.observation.normalise import save_norm_stats
from vla_align_ros.policy.config import MODEL_FILE, ModelConfig, ModelConfigError, WeightsConfig, to_yaml
from vla_align_ros.policy.foreign_config import ForeignSettings
from vla_align_ros.policy.load import check_network, read_folder
from vla_align_ros.policy.prepare import make_robot
from vla_align_ros.policy.tokenizer import SENTENCEPIECE_FILES, TOKENIZER_FILE
from vla_align_ros.policy.weights import check_finite, index_of, sha256_of_weights, weights_files

LICENCE = "that of the source; what was trained from PaliGemma is under the Gemma Terms of Use"


def convert(source: Path, target: Path, settings: ForeignSettings) -> tuple[str, ...]:
    """Write the zoo folder `target`, which must not be there yet. Returns what is odd about it, a sentence each.

    Raises ModelConfigError, WeightsError or NormStatsError for a source that cannot be loaded, or while another process
    writes that folder, and OSError for a disk that is full or read-only; then nothing is left behind.
    """
    _check_free(target)
    read = read_folder(source, settings)
    weights = source / read.config.weights.file
    used = check_network(read.config.architecture, weights)
    remarks = make_robot(read.config, read.stats, read.stats_path, read.tokenizer, read.remarks).remarks
    config = _named(read.config, target.name)
    check_finite(used.values(), weights)
    make_folder_synced(target.parent)
    with _written_whole(target) as fresh:
        for file in _files(weights):
            shutil.copyfile(file, fresh / file.name)
        sha256 = sha256_of_weights(fresh / WeightsConfig.file)
        about = replace(config.weights, sha256=sha256, source=source.name, licence=LICENCE)
        description = to_yaml(replace(config, weights=about))
        (fresh / MODEL_FILE).write_text(description, encoding="utf-8")
        save_norm_stats(fresh / "norm_stats.json", read.stats)
        name = SENTENCEPIECE_FILES[0] if read.tokenizer.suffix == ".model" else TOKENIZER_FILE
        shutil.copyfile(read.tokenizer, fresh / name)
    return remarks


def _check_free(target: Path) -> None:
    if target.exists():
        raise ModelConfigError(f"{target} is there already: name a folder that is not, or remove it")


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its name in the end, and is gone after an error. A flock on it tells what a
    killed process left, which is swept away, from what another one writes."""
    fresh = target.with_name(f".{target.name}.new")
    fresh.mkdir(exist_ok=True)
    descriptor = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _check_free(target)  # another process may have finished it since,
            is_ours = os.path.samestat(os.fstat(descriptor), fresh.stat())  # or failed, and taken it away
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise ModelConfigError(f"{target}: another process writes it now: name another folder, or wait")
        try:
            for left in fresh.iterdir():
                left.unlink()
            yield fresh
            sync_files(fresh)
            os.rename(fresh, target)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
    finally:
        os.close(descriptor)
    sync_folder(target.parent)


def _named(config: ModelConfig, name: str) -> ModelConfig:
    try:
        return replace(config, name=name)
    except ValidationError:
        raise ModelConfigError(f"{name!r} is no name for a model: letters, digits, `.`, `_` and `-`") from None


def _files(weights: Path) -> tuple[Path, ...]:
    files = weights_files(weights)
    return files if files == (weights,) else (*files, index_of(weights))
