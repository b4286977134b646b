"""The prompt in words -> token ids, as openpi does for pi0: cleaned words, BOS in front, a newline of its own behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast


class PromptError(ValueError):
    """A prompt is empty, or longer than the model's max_token_len."""


def clean_prompt(prompt: str) -> str:
    """Stripped, underscores and newlines as spaces. Raises PromptError when nothing is left."""
    cleaned = prompt.strip().replace("_", " ").replace("\n", " ")
    if not cleaned:
        raise PromptError("the prompt is empty: say in words what the robot should do, as in 'reach the red target'")
    return cleaned


class PromptTokenizer:
    """A transformers tokenizer with pi0's or pi0.5's prompt format."""

    def __init__(self, folder: Path, variant: str, max_token_len: int) -> None:
        self.tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"), bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
        )
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
                f"the prompt has {len(ids)} tokens, the model takes at most {self.max_token_len}: shorten it ({words:.60}...)"
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


def _as_text(state: NDArray[np.float32]) -> str:
    """pi0.5's state words: 256 bins over [-1, 1], -1 below."""
    return " ".join(map(str, np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1))
