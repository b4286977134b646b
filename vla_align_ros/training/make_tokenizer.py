"""The bench's word-level tokenizer: every word of its prompts, and a newline."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from vla_align_ros.bench.reach2.task import COLOURS, TEMPLATES


def write_tokenizer(path: Path, vocab_size: int) -> None:
    """Write `tokenizer.json`. Raises ValueError when the words do not fit into `vocab_size`."""
    words = sorted({word for template in TEMPLATES for word in template.replace("{}", "").split()} | set(COLOURS))
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<bos>", "<unk>", "\n", *words])}
    if len(vocabulary) > vocab_size:
        raise ValueError(f"the prompts have {len(vocabulary)} words, vocab_size is {vocab_size}")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.save(str(path))
