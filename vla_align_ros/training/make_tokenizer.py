"""A word-level tokenizer of a source: every word of its prompts, and a newline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from vla_align_ros.policy.tokenizer import clean_prompt


class VocabularyError(ValueError):
    """A source's prompts have more words than the model's vocabulary holds."""


def write_tokenizer(path: Path, prompts: Iterable[str], vocab_size: int) -> None:
    """Write `tokenizer.json`. Raises VocabularyError when the words do not fit into `vocab_size`."""
    words = sorted({word for prompt in prompts for word in clean_prompt(prompt).split(" ") if word})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<bos>", "<unk>", "\n", *words])}
    if len(vocabulary) > vocab_size:
        text = f"the prompts have {len(vocabulary)} words (4 of them ours), vocab_size is {vocab_size}"
        raise VocabularyError(f"{text}: raise architecture.vocab_size in the recipe's model, or use fewer prompts")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.save(str(path))
