"""lerobot 0.6.1's own answers to the inputs beside this file, and the folders that it writes. README.md: how to run it.

    LEROBOT_WHEEL=<unzipped wheel> python make_lerobot.py

Runs lerobot's configs, processors, pictures, network and sampler; the weights are the golden ones (../golden), on a
vision tower with the 16 heads that all published weights have. Changed are sizes only. lerobot wants Python 3.12: the
packages' `__init__` files, which import all of it, are left out, and one class header is rewritten for 3.11.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
WHEEL = Path(os.environ["LEROBOT_WHEEL"])
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = [f"{joint}.pos" for joint in JOINTS]
PERCENT_RAD = (-0.175, 1.745)  # of the gripper's range in config/robots/so101.yaml
HEADS = 16  # make_openpi.py shrinks its network by the same lines: each runs where the other's packages are not


class ForPython311(importlib.machinery.SourceFileLoader):
    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        return data.replace(
            b"class DataProcessorPipeline[TInput, TOutput](HubMixin):",
            b"from typing import Generic\n\n@dataclass\n"
            b"class DataProcessorPipeline(HubMixin, Generic[TInput, TOutput]):",
        ).replace(b"@dataclass\nfrom typing import Generic", b"from typing import Generic")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != "lerobot.processor.pipeline":
            return None
        file = WHEEL / "lerobot/processor/pipeline.py"
        return importlib.machinery.ModuleSpec(name, ForPython311(name, str(file)), origin=str(file))


def bare(name: str, **contents: object) -> None:
    module = ModuleType(name)
    module.__path__ = [str(WHEEL / name.replace(".", "/"))]
    vars(module).update(contents)
    sys.modules[name] = module


class Pretrained(torch.nn.Module):
    """In place of PreTrainedPolicy, which adds the hub."""

    def __init__(self, config: object, **options: object) -> None:
        super().__init__()


sys.meta_path.insert(0, Finder())
for package in ("", ".configs", ".processor", ".policies", ".policies.pi0", ".policies.pi05", ".policies.common"):
    bare(f"lerobot{package}")
for package in ("lerobot.policies.rtc", "lerobot.utils"):
    bare(package)
bare("lerobot.optim", **dict.fromkeys(("LRSchedulerConfig", "OptimizerConfig", "AdamWConfig"), object))
sys.modules["lerobot.optim"].CosineDecayWithWarmupSchedulerConfig = object
bare("lerobot.policies.pretrained", PreTrainedPolicy=Pretrained, T=None)
bare("lerobot.policies.rtc.modeling_rtc", RTCProcessor=object)
bare("lerobot.policies.rtc.configuration_rtc", RTCConfig=object)
bare("lerobot.processor.observation_processor", VanillaObservationProcessorStep=object)

from lerobot.configs import policies, types  # noqa: E402

for source in (types, policies):
    vars(sys.modules["lerobot.configs"]).update({k: v for k, v in vars(source).items() if not k.startswith("_")})
import lerobot.lerobot_types as lerobot_types  # noqa: E402
from lerobot.processor import (  # noqa: E402
    batch_processor,
    device_processor,
    normalize_processor,
    pipeline,
    relative_action_processor,
    rename_processor,
    tokenizer_processor,
)

processor = sys.modules["lerobot.processor"]
parts = (
    lerobot_types,
    pipeline,
    batch_processor,
    device_processor,
    normalize_processor,
    relative_action_processor,
    rename_processor,
    tokenizer_processor,
)
for source in parts:
    vars(processor).update({k: v for k, v in vars(source).items() if not k.startswith("_")})
from lerobot.processor import factory  # noqa: E402

vars(processor).update({k: v for k, v in vars(factory).items() if not k.startswith("_")})
from lerobot.policies.pi0 import modeling_pi0, processor_pi0  # noqa: E402
from lerobot.policies.pi0.configuration_pi0 import PI0Config  # noqa: E402
from lerobot.policies.pi05 import modeling_pi05, processor_pi05  # noqa: E402
from lerobot.policies.pi05.configuration_pi05 import PI05Config  # noqa: E402

Feature, Kind = types.PolicyFeature, types.FeatureType


def tokenizer() -> PreTrainedTokenizerFast:
    """As transformers reads a tokenizer.json: BOS in front."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(HERE / "tokenizer.json"), bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )


def state_of(given: dict[str, np.ndarray], row: int) -> np.ndarray:
    """Row's first six numbers as the SO-101's in ROS's units -> lerobot's: degrees, the gripper in percent."""
    rad = given[f"{row}.state"][:6].astype(np.float64)
    low, high = PERCENT_RAD
    return np.append(np.rad2deg(rad[:5]), (rad[5] - low) / (high - low) * 100).astype(np.float32)


def statistics(given: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Around the states, with a number that never changes: wrist_roll stands still in the data."""
    stats = {}
    for key, shift in (("observation.state", 1.0), ("action", 1.3)):
        rows = np.stack([state_of(given, row) for row in range(3)])
        mean, std = shift * rows.mean(0), shift * rows.std(0) + 1
        mean[4], std[4] = rows[1, 4], 0.0
        low, high = mean - 1.5 * std, mean + 1.5 * std
        part = {"mean": mean, "std": std, "min": low - std, "max": high + std, "q01": low, "q99": high}
        part |= {"q10": low + 0.5 * std, "q90": high - 0.5 * std}
        stats[key] = {name: value.astype(np.float32) for name, value in part.items()}
    return stats


def build(variant: str, **options: object) -> tuple[torch.nn.Module, object]:
    """lerobot's policy with the golden weights, and its config."""
    folder = HERE.parent / "golden" / variant
    golden = json.loads((folder / "config.json").read_text())
    vision = golden["vision"]
    modeling, config_class = (modeling_pi0, PI0Config) if variant == "pi0" else (modeling_pi05, PI05Config)
    policy_class = modeling.PI0Policy if variant == "pi0" else modeling.PI05Policy
    config = config_class(
        device="cpu",
        chunk_size=golden["action_horizon"],
        n_action_steps=golden["action_horizon"],
        max_state_dim=golden["action_dim"],
        max_action_dim=golden["action_dim"],
        image_resolution=(vision["image_size"],) * 2,
        output_features={"action": Feature(Kind.ACTION, (6,))},
        action_feature_names=NAMES,
        push_to_hub=False,
        **options,
    )

    def sizes(name: str) -> object:
        part = golden["vlm" if name == "gemma_2b" else "expert"]
        keys = ("width", "depth", "mlp_dim", "num_heads", "num_kv_heads", "head_dim")
        return modeling.GemmaConfig(**{key: part[key] for key in keys})

    whole, expert = modeling.PaliGemmaForConditionalGenerationWithPiGemma, modeling.PiGemmaForCausalLM

    def small(config: object) -> torch.nn.Module:
        text, eye = config.text_config, config.vision_config
        config._vocab_size = text.vocab_size = golden["vocab_size"]
        config.image_token_index = config.image_token_id = golden["vocab_size"] - 1
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

    with (
        mock.patch.object(modeling, "get_gemma_config", sizes),
        mock.patch.object(modeling, "PaliGemmaForConditionalGenerationWithPiGemma", small),
        mock.patch.object(modeling, "PiGemmaForCausalLM", small_expert),
    ):
        policy = policy_class(config).eval()
    weights = {name: torch.from_numpy(x) for name, x in load_file(folder / "model.safetensors").items()}
    head = "paligemma_with_expert.paligemma.lm_head.weight"
    weights["paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"] = weights[head].clone()
    policy.model.load_state_dict(weights, strict=True)
    torch.set_float32_matmul_precision("highest")
    return policy, config


def answer(case: str, variant: str, names: list[str | None], rename: dict[str, str], **options: object) -> dict:
    """The case's folder, written by lerobot; its answers to the three observations. names: of cameras 0, 1, 2."""
    given, prompts = load_file(HERE / "inputs.safetensors"), json.loads((HERE / "prompts.json").read_text())
    policy, config = build(variant, **options)
    make = (
        processor_pi0.make_pi0_pre_post_processors if variant == "pi0" else processor_pi05.make_pi05_pre_post_processors
    )
    with mock.patch.object(tokenizer_processor.AutoTokenizer, "from_pretrained", return_value=tokenizer()):
        before, after = make(config, statistics(given))
    before.steps[0].rename_map = rename
    folder = HERE / "lerobot" / case
    folder.mkdir(parents=True, exist_ok=True)
    config._save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    (folder / "names.json").write_text(json.dumps(sorted(policy.state_dict()), indent=0) + "\n")
    found = {}
    for row in range(3):
        batch = {"observation.state": torch.from_numpy(state_of(given, row)), "task": prompts[row]}
        for camera, name in enumerate(names):
            image = given.get(f"{row}.image.{camera}")
            if name is not None and image is not None:
                batch[f"observation.images.{name}"] = torch.from_numpy(image).permute(2, 0, 1).float() / 255
        ready = before(batch)
        noise = torch.from_numpy(given[f"{row}.noise"])[None]
        with torch.no_grad():
            chunk = policy.predict_action_chunk(ready, noise=noise)
            pictures, _ = policy._preprocess_images(ready)
        found[f"{case}.{row}.actions"] = after(chunk)[0].numpy()
        found[f"{case}.{row}.normalised"] = ready["observation.state"][0].numpy()
        found[f"{case}.{row}.tokens"] = (
            ready["observation.language.tokens"][0][ready["observation.language.attention_mask"][0]].int().numpy()
        )
        if row == 0:
            found[f"{case}.picture"] = pictures[0][0].numpy()
    return found


def normalisation() -> dict[str, np.ndarray]:
    """Every mode there and back, on numbers with and without spread."""
    found, given = {}, load_file(HERE / "inputs.safetensors")
    stats, x = statistics(given)["action"], torch.from_numpy(np.stack([state_of(given, row) for row in range(3)]))
    features = {"action": Feature(Kind.ACTION, (6,))}
    for mode in ("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10"):
        options = {"features": features, "norm_map": {Kind.ACTION: types.NormalizationMode(mode)}}
        there = normalize_processor.NormalizerProcessorStep(**options, stats={"action": stats})
        back = normalize_processor.UnnormalizerProcessorStep(**options, stats={"action": stats})
        found[f"{mode}.there"] = there._normalize_action(x, inverse=False).numpy()
        found[f"{mode}.back"] = back._normalize_action(x / 50, inverse=True).numpy()
    return found | {f"stats.{name}": value for name, value in stats.items()} | {"x": x.numpy()}


def main() -> None:
    torch.set_num_threads(1)
    size = 56
    see = {name: Feature(Kind.VISUAL, (3, size, size)) for name in ("front", "wrist")}
    state = {"observation.state": Feature(Kind.STATE, (6,))}
    swapped = {f"observation.images.{name}": see[name] for name in ("wrist", "front")}
    slots = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
    found = answer(
        "pi0",
        "pi0",
        ["front", "wrist", None],
        {},
        input_features=swapped | state,
        empty_cameras=1,
        use_relative_actions=True,
    )
    found |= answer(
        "pi05",
        "pi05",
        ["front", "wrist", None],
        {f"observation.images.{name}": f"observation.images.{slot}" for name, slot in zip(see, slots, strict=False)},
        input_features=state | {f"observation.images.{slot}": Feature(Kind.VISUAL, (3, size, size)) for slot in slots},
    )
    save_file({name: np.ascontiguousarray(value) for name, value in found.items()}, HERE / "lerobot.safetensors")
    save_file(normalisation(), HERE / "lerobot_normalisation.safetensors")


if __name__ == "__main__":
    main()
