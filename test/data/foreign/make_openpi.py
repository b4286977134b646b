"""openpi's own answers to the inputs beside this file, through its whole `Policy.infer`. README.md: how to run it.

    OPENPI=<clone of openpi> python make_openpi.py

Runs openpi's transforms, policy and network; the weights are the golden ones (../golden), on a vision tower with the 16
heads that all published weights have. Changed are sizes only: Gemma's, SigLIP's, the vocabulary's and the pictures'.
What does not take part in inference (orbax, augmax, downloads) is replaced by empty modules.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).parent
ROOT = Path(os.environ["OPENPI"])
for folder in ("src", "packages/openpi-client/src"):
    sys.path.insert(0, str(ROOT / folder))
for name in ("orbax", "orbax.checkpoint", "augmax"):
    sys.modules[name] = mock.MagicMock(name=name)
import openpi.shared  # noqa: E402

openpi.shared.download = sys.modules["openpi.shared.download"] = ModuleType("openpi.shared.download")
openpi.shared.download.maybe_download = lambda *a, **k: HERE / "tokenizer.model"
import openpi.models  # noqa: E402

utils = openpi.models.utils = sys.modules["openpi.models.utils"] = ModuleType("openpi.models.utils")
utils.fsq_tokenizer = sys.modules["openpi.models.utils.fsq_tokenizer"] = ModuleType("fsq_tokenizer")

from openpi import transforms  # noqa: E402
from openpi.models import gemma, tokenizer  # noqa: E402
from openpi.models_pytorch import gemma_pytorch, pi0_pytorch, preprocessing_pytorch  # noqa: E402
from openpi.policies.policy import Policy  # noqa: E402
from openpi.shared import normalize  # noqa: E402

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
FIELDS, STEPS, HEADS = 7, 10, 16  # make_lerobot.py: why its lines that shrink the network stand there, too


def network(variant: str, tokens: int) -> tuple[torch.nn.Module, int]:
    """The golden weights in openpi's PI0Pytorch, and the side of its pictures."""
    folder = HERE.parent / "golden" / variant
    golden = json.loads((folder / "config.json").read_text())
    vision = golden["vision"]

    def sizes(name: str) -> object:
        part = golden["vlm" if name == "gemma_2b" else "expert"]
        return gemma.Config(
            **{k: part[k] for k in ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")}
        )

    whole, expert = gemma_pytorch.PaliGemmaForConditionalGeneration, gemma_pytorch.GemmaForCausalLM

    def small(config: object) -> torch.nn.Module:
        text, eye = config.text_config, config.vision_config
        config._vocab_size = text.vocab_size = golden["vocab_size"]
        config.image_token_index = golden["vocab_size"] - 1
        text.pad_token_id = 0
        eye.hidden_size, eye.num_hidden_layers, eye.intermediate_size = (
            vision["width"],
            vision["depth"],
            vision["mlp_dim"],
        )
        eye.num_attention_heads, eye.image_size, eye.patch_size = HEADS, vision["image_size"], vision["patch_size"]
        eye.projection_dim = config.projection_dim = golden["vlm"]["width"]
        return whole(config)

    def small_expert(config: object) -> torch.nn.Module:
        config.vocab_size = golden["vocab_size"]
        return expert(config)

    config = SimpleNamespace(
        pi05=variant == "pi05",
        paligemma_variant="gemma_2b",
        action_expert_variant="gemma_300m",
        dtype="float32",
        action_dim=golden["action_dim"],
        action_horizon=golden["action_horizon"],
        max_token_len=tokens,
        pytorch_compile_mode=None,
    )
    with (
        mock.patch.object(gemma, "get_config", sizes),
        mock.patch.object(gemma_pytorch, "PaliGemmaForConditionalGeneration", small),
        mock.patch.object(gemma_pytorch, "GemmaForCausalLM", small_expert),
    ):
        net = pi0_pytorch.PI0Pytorch(config)
    weights = {name: torch.from_numpy(x) for name, x in load_file(folder / "model.safetensors").items()}
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("embed_tokens" in name for name in missing), missing
    torch.set_float32_matmul_precision("highest")
    size = vision["image_size"]
    preprocessing_pytorch.preprocess_observation_pytorch.__kwdefaults__["image_resolution"] = (size, size)
    return net, size


def policy(variant: str, quantiles: bool, mask: tuple[bool, ...] | None, state_in_prompt: bool) -> Policy:
    """With the transforms of `create_trained_policy`, in its order, at a smaller picture."""
    tokens = 200 if variant == "pi05" else 48
    net, size = network(variant, tokens)
    stats = normalize.load(HERE)
    inputs = [
        transforms.DeltaActions(mask),
        transforms.Normalize(stats, use_quantiles=quantiles),
        transforms.ResizeImages(size, size),
        transforms.TokenizePrompt(tokenizer.PaligemmaTokenizer(tokens), discrete_state_input=state_in_prompt),
        transforms.PadStatesAndActions(8),
    ]
    outputs = [
        transforms.Unnormalize(stats, use_quantiles=quantiles),
        lambda data: {**data, "actions": np.asarray(data["actions"][:, :FIELDS])},  # as LiberoOutputs, before it
        transforms.AbsoluteActions(mask),
    ]
    if mask is not None:  # openpi pushes the delta transform before the robot's own
        outputs = [outputs[0], outputs[2], outputs[1]]
    made = Policy(
        net, transforms=inputs, output_transforms=outputs, sample_kwargs={"num_steps": STEPS}, is_pytorch=True
    )
    seen = {}
    inner = made._input_transform
    made._input_transform = lambda data: seen.setdefault("inputs", inner(data))
    made.seen = seen
    return made


def observation(given: dict[str, np.ndarray], row: int, prompt: str) -> dict:
    images, masks = {}, {}
    black = np.zeros((224, 224, 3), np.uint8)
    for camera, name in enumerate(CAMERAS):
        image = given.get(f"{row}.image.{camera}")
        images[name], masks[name] = (black, np.False_) if image is None else (image, np.True_)
    return {"image": images, "image_mask": masks, "state": given[f"{row}.state"], "prompt": prompt}


def main() -> None:
    torch.set_num_threads(1)
    given, prompts = load_file(HERE / "inputs.safetensors"), json.loads((HERE / "prompts.json").read_text())
    delta = transforms.make_bool_mask(6, -1)
    cases = {
        "pi0": ("pi0", False, delta, False),
        "pi05": ("pi05", True, None, True),
        "pi05_without_state": ("pi05", True, delta, False),
    }
    found: dict[str, np.ndarray] = {}
    for case, options in cases.items():
        made = policy(*options)
        for row in range(3):
            made.seen.clear()
            answer = made.infer(observation(given, row, prompts[row]), noise=given[f"{row}.noise"])
            seen = made.seen["inputs"]
            found[f"{case}.{row}.actions"] = np.asarray(answer["actions"], np.float64)
            found[f"{case}.{row}.state"] = np.asarray(seen["state"], np.float64)
            found[f"{case}.{row}.tokens"] = seen["tokenized_prompt"][seen["tokenized_prompt_mask"]].astype(np.int32)
            if case == "pi0":
                for camera, name in enumerate(CAMERAS):
                    if f"{row}.image.{camera}" in given:
                        found[f"image.{row}.{camera}"] = np.ascontiguousarray(seen["image"][name])
    for index, prompt in enumerate(prompts):
        tokens, mask = tokenizer.PaligemmaTokenizer(200).tokenize(prompt, None)
        found[f"prompt.{index}.pi0"] = tokens[mask].astype(np.int32)
        tokens, mask = tokenizer.PaligemmaTokenizer(200).tokenize(prompt, given["1.state"])
        found[f"prompt.{index}.pi05"] = tokens[mask].astype(np.int32)
    save_file({name: np.ascontiguousarray(value) for name, value in found.items()}, HERE / "openpi.safetensors")


if __name__ == "__main__":
    main()
