"""What both peers are given: pictures, states, prompts, noise, statistics, and a tokenizer. See README.md.

    python make_inputs.py

Writes inputs.safetensors, prompts.json, norm_stats.json (openpi's form; lerobot's are made of the same numbers),
tokenizer.model (sentencepiece, trained here as PaliGemma's is: BPE, bytes for what is unknown, digits apart, newlines
as pieces of their own) and tokenizer.json (the same, converted by transformers, with PaliGemma's `<image>` behind it).
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import sentencepiece
from safetensors.numpy import save_file
from transformers import AddedToken, GemmaTokenizerFast

HERE = Path(__file__).parent
VOCABULARY, HORIZON, ACTION_DIM = 512, 6, 8  # of the golden networks
# Of each observation, what the cameras 0, 1, 2 see: (height, width), None for a missing one.
SIZES = [[(48, 64), (70, 50), (56, 56)], [(90, 120), None, (61, 37)], [(56, 56), (33, 57), None]]
PROMPTS = [
    "pick up the cube",
    "  pick_up the\nred cube ",
    "Stack 3 cubes, please!",
    "put  it into the bin\n",
    "déplace l'objet à gauche",
    "_",
    "open\tthe drawer; State: 7",
]
SENTENCES = """\
pick up the red cube and put it into the bin . place the block on the plate ; open the drawer , close the door
stack the cubes please ! move to the left , then to the right . Task: pick up the cube, State: 1 2 3 ; Action: reach the
target with the gripper of the left arm . pour the water into the cup . fold the towel twice . wipe the table clean"""


def statistics(rng: np.random.Generator, count: int, narrow: int | None) -> dict[str, list[float]]:
    """narrow: a number with so little spread that the small numbers of the two projects tell."""
    mean, std = rng.normal(0, 0.3, count), rng.uniform(0.2, 0.8, count)
    if narrow is not None:
        mean[narrow], std[narrow] = 0.3, 5e-6
    return {
        "mean": mean.tolist(),
        "std": std.tolist(),
        "q01": (mean - 2 * std).tolist(),
        "q99": (mean + 2 * std).tolist(),
    }


def main() -> None:
    rng = np.random.default_rng(23)
    stats = {"state": statistics(rng, 7, 4), "actions": statistics(rng, 7, None)}
    (HERE / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}, indent=1) + "\n")
    found: dict[str, np.ndarray] = {}
    for row, sizes in enumerate(SIZES):
        mean, std = (np.array(stats["state"][name]) for name in ("mean", "std"))
        away = rng.normal(0, 1, 7)
        if row == 1:
            away[0], away[1] = -2.6, 2.7  # beyond the quantiles: pi0.5 writes -1 and 255
        found[f"{row}.state"] = (mean + away * std).astype(np.float32)
        for camera, size in enumerate(sizes):
            if size is not None:
                found[f"{row}.image.{camera}"] = rng.integers(0, 256, (*size, 3), np.uint8)
        found[f"{row}.noise"] = rng.normal(0, 1, (HORIZON, ACTION_DIM)).astype(np.float32)
    save_file(found, HERE / "inputs.safetensors")
    (HERE / "prompts.json").write_text(json.dumps(PROMPTS, indent=1, ensure_ascii=False) + "\n")

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES.split("\n")),
        model_writer=model,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        user_defined_symbols=["\n", "\n\n", "\t", *(f"<loc{index:04d}>" for index in range(60))],
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        num_threads=1,
    )
    (HERE / "tokenizer.model").write_bytes(model.getvalue())
    (HERE / "tokenizer.json").unlink(missing_ok=True)  # transformers would read it in place of the model
    fast = GemmaTokenizerFast.from_pretrained(HERE, add_bos_token=True)
    fast.add_special_tokens({"additional_special_tokens": [AddedToken("<image>", normalized=False, special=True)]})
    fast.backend_tokenizer.save(str(HERE / "tokenizer.json"))


if __name__ == "__main__":
    main()
