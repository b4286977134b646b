"""The prompt in words -> token ids, in the form that the weights were trained with (`Architecture.conventions`).

pi0       BOS, the words, a newline: as a piece of its own (openpi), or written behind the words (lerobot)
pi0.5     BOS, "Task: words, State: 12 255 ...;\\nAction: "
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from vla_align_ros.foreign import what_is_file
from vla_align_ros.policy.config import Architecture, ModelConfigError

TOKENIZER_FILE = "tokenizer.json"
SENTENCEPIECE_FILES: Final = ("tokenizer.model", "paligemma_tokenizer.model")  # Hugging Face's name, openpi's
SPECIAL_TOKENS = {"bos_token": "<bos>", "pad_token": "<pad>", "unk_token": "<unk>"}
_WHERE_FROM: Final = (
    "PaliGemma's is a file that you download once: tokenizer.json or tokenizer.model of google/paligemma-3b-pt-224 at "
    "huggingface.co (accept the licence there first), or gs://big_vision/paligemma_tokenizer.model as openpi does. Put "
    "it into the folder, or name it"
)


class PromptError(ValueError):
    """A prompt is empty, or longer than the model's max_token_len."""


def find_tokenizer(folder: Path, named: Path | None = None) -> Path:
    """The tokenizer's file: the one that is named (or is in the folder that is), else the one in the model's folder.

    Raises ModelConfigError that says where to get PaliGemma's.
    """
    place = folder if named is None else named
    if place.is_file():
        return place
    for name in (TOKENIZER_FILE, *SENTENCEPIECE_FILES):
        if (place / name).is_file():
            return place / name
    raise ModelConfigError(f"{place}: no tokenizer here ({TOKENIZER_FILE} or {SENTENCEPIECE_FILES[0]}). {_WHERE_FROM}")


def clean_prompt(prompt: str) -> str:
    """Stripped, underscores and newlines as spaces. Raises PromptError when nothing is left."""
    cleaned = prompt.strip().replace("_", " ").replace("\n", " ")
    if not cleaned.strip():
        raise PromptError("the prompt is empty: say in words what the robot should do, as in 'reach the red cube'")
    return cleaned


class PromptTokenizer:
    """A tokenizer with the prompt's form.

    path: a `tokenizer.json` of transformers, or a sentencepiece model (`.model`). Raises ModelConfigError when it is
    missing, damaged, lacks a special token, or is not the one of the weights: it has ids from `vocab_size` on, or, of
    openpi's and lerobot's weights, fewer than these.
    """

    def __init__(self, path: Path, architecture: Architecture) -> None:
        read = _read_sentencepiece if path.suffix == ".model" else _read_tokenizer
        encode, count, self._bos, self._pad = read(path)
        self._state, self._lerobots = architecture.state_in_prompt, architecture.conventions == "lerobot"
        self.max_token_len, self._vocab_size = architecture.max_token_len, architecture.vocab_size
        self._encode = lru_cache(maxsize=256)(encode)
        if count > self._vocab_size or (count < self._vocab_size and architecture.conventions != "zoo"):
            raise ModelConfigError(
                f"{path}: has {count} token ids, the model's vocab_size is {self._vocab_size}: another model's "
                "tokenizer"
            )

    def __call__(self, prompt: str, state: NDArray[np.floating] | None = None) -> list[int]:
        """Token ids, unpadded. state (S,): the normalised state that pi0.5 writes into its prompt; None leaves it out.

        Raises PromptError when the prompt is empty or does not fit.
        """
        words = clean_prompt(prompt)
        ids = [self._bos, *(token for text in self._texts(prompt, words, state) for token in self._encode(text))]
        if len(ids) > self.max_token_len:
            raise PromptError(
                f"the prompt has {len(ids)} tokens, at most {self.max_token_len} fit: shorten {words:.40}..."
            )
        if max(ids) >= self._vocab_size:
            raise PromptError(f"the prompt holds a word that is no text for this model: {words:.40}...")
        return ids

    def _texts(self, prompt: str, words: str, state: NDArray[np.floating] | None) -> tuple[str, ...]:
        """What is tokenised, piece by piece."""
        if self._state:
            return (f"Task: {words}" + ("" if state is None else f", State: {_as_text(state)}") + ";\nAction: ",)
        if self._lerobots:
            return (prompt if prompt.endswith("\n") else f"{prompt}\n",)
        return words, "\n"

    def batch(
        self, prompts: Sequence[str], states: NDArray[np.floating] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Right-padded ids (B, L) and masks (B, L)."""
        ids = np.zeros((len(prompts), self.max_token_len), np.int64)
        for row, prompt in enumerate(prompts):
            tokens = self(prompt, None if states is None else states[row])
            ids[row, : len(tokens)] = tokens
            ids[row, len(tokens) :] = -1
        masks = ids >= 0
        return np.where(masks, ids, self._pad), masks


Encode = Callable[[str], tuple[int, ...]]


def _read_tokenizer(path: Path) -> tuple[Encode, int, int, int]:
    """Text -> ids, how many ids there are (without special ones, which are no text), BOS and padding."""
    if not path.is_file():
        raise ModelConfigError(f"{path}: no such file; a model needs its tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (tokenizers raises nothing narrower)
        known = what_is_file(path) or "copy or download it again"
        raise ModelConfigError(f"{path}: not a tokenizers file ({error}); {known}") from None
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in SPECIAL_TOKENS.values() if token not in vocabulary]:
        raise ModelConfigError(f"{path}: the tokens {missing} are missing")
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    count = max(index for index in vocabulary.values() if index not in special) + 1
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)
    return lambda text: tuple(fast.encode(text, add_special_tokens=False)), count, fast.bos_token_id, fast.pad_token_id


def _read_sentencepiece(path: Path) -> tuple[Encode, int, int, int]:
    """The same of a sentencepiece model, by the library that openpi uses."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ModelConfigError(
            f"{path}: a sentencepiece model, `pip install sentencepiece`, or give a tokenizer.json"
        ) from None
    try:
        processor = SentencePieceProcessor(model_proto=path.read_bytes())
    except (OSError, RuntimeError) as error:
        known = what_is_file(path) or "copy or download it again"
        raise ModelConfigError(f"{path}: not a sentencepiece model ({error}); {known}") from None
    if min(processor.bos_id(), processor.pad_id()) < 0:
        raise ModelConfigError(f"{path}: the tokens <bos> and <pad> are missing")
    return (
        lambda text: tuple(processor.encode(text)),
        processor.vocab_size(),
        processor.bos_id(),
        processor.pad_id(),
    )


def _as_text(state: NDArray[np.floating]) -> str:
    """pi0.5's state words: 256 bins over [-1, 1], -1 below."""
    return " ".join(map(str, np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1))
