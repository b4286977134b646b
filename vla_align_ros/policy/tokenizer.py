"""The prompt in words -> token ids, as openpi does: cleaned words, BOS in front, for pi0 a newline behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vla_align_ros.foreign import what_is_file
from vla_align_ros.policy.config import ModelConfigError

TOKENIZER_FILE = "tokenizer.json"
SPECIAL_TOKENS = {"bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}


class PromptError(ValueError):
    """A prompt is empty, or longer than the model's max_token_len."""


def clean_prompt(prompt: str) -> str:
    """Stripped, underscores and newlines as spaces. Raises PromptError when nothing is left."""
    cleaned = prompt.strip().replace("_", " ").replace("\n", " ")
    if not cleaned.strip():
        raise PromptError("the prompt is empty: say in words what the robot should do, as in 'reach the red target'")
    return cleaned


class PromptTokenizer:
    """A transformers tokenizer with pi0's or pi0.5's prompt format.

    Raises ModelConfigError when `tokenizer.json` is missing, damaged, has ids from `vocab_size` on, or lacks a special
    token.
    """

    def __init__(self, folder: Path, variant: str, max_token_len: int, vocab_size: int | None = None) -> None:
        tokenizer = _read_tokenizer(folder / TOKENIZER_FILE, vocab_size)
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
        self.pi05, self.max_token_len = variant == "pi05", max_token_len
        self._encode = lru_cache(maxsize=256)(lambda text: tuple(self.tokenizer.encode(text, add_special_tokens=False)))

    def __call__(self, prompt: str, state: NDArray[np.float32] | None = None) -> list[int]:
        """Token ids, unpadded. state (S,): the normalised state that pi0.5 writes into its prompt; None leaves it out.

        Raises PromptError when the prompt is empty or does not fit.
        """
        words = clean_prompt(prompt)
        if self.pi05:
            text = f"Task: {words}" + ("" if state is None else f", State: {_as_text(state)}") + ";\nAction: "
            ids = [self.tokenizer.bos_token_id, *self._encode(text)]
        else:
            ids = [self.tokenizer.bos_token_id, *self._encode(words), *self._encode("\n")]
        if len(ids) > self.max_token_len:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, at most {self.max_token_len} fit: shorten {words:.40}..."
            )
        return ids

    def batch(
        self, prompts: Sequence[str], states: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Right-padded ids (B, L) and masks (B, L)."""
        ids = np.zeros((len(prompts), self.max_token_len), np.int64)
        for row, prompt in enumerate(prompts):
            tokens = self(prompt, None if states is None else states[row])
            ids[row, : len(tokens)] = tokens
            ids[row, len(tokens) :] = -1
        masks = ids >= 0
        return np.where(masks, ids, self.tokenizer.pad_token_id), masks


def _read_tokenizer(path: Path, vocab_size: int | None) -> Tokenizer:
    if not path.is_file():
        raise ModelConfigError(f"{path}: no such file; a model needs its tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        known = what_is_file(path) or "copy or download it again"
        raise ModelConfigError(f"{path}: not a tokenizers file ({error}); {known}") from None
    missing = [token for token in SPECIAL_TOKENS.values() if tokenizer.token_to_id(token) is None]
    if missing:
        raise ModelConfigError(f"{path}: the tokens {missing} are missing")
    largest = max(tokenizer.get_vocab().values())
    if vocab_size is not None and largest >= vocab_size:
        raise ModelConfigError(f"{path}: has token ids up to {largest}, the model's vocab_size is {vocab_size}")
    return tokenizer


def _as_text(state: NDArray[np.float32]) -> str:
    """pi0.5's state words: 256 bins over [-1, 1], -1 below."""
    return " ".join(map(str, np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1))
