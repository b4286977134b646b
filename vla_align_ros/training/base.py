"""An E-Token, a bank and an alignment expert for a base model that never had them: `vla-align train --base`.

Until the first step the action expert computes without the E-Token, so that actions are the base's to the bit. What is
frozen stays so; only the rest is saved while training. The base must stay the one that the run was begun with.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vla_align_ros.experience.source import Source, Sources
from vla_align_ros.policy import flow, load_policy
from vla_align_ros.policy.config import (
    AlignmentConfig,
    Architecture,
    FeatureConfig,
    ModelConfig,
    VisionConfig,
    WeightsConfig,
    load_model_description,
)
from vla_align_ros.policy.load import read_folder
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.seeds import Part, Stream, rng_of, seed_of
from vla_align_ros.training.dataset import make_samples
from vla_align_ros.training.processes import is_main
from vla_align_ros.training.progress import Log, replace_text, save_atomically
from vla_align_ros.training.recipe import BaseRecipe, Recipe, RecipeError
from vla_align_ros.training.trainee import Trainee
from vla_align_ros.zoo import find_model

HASH_FILE, LOSSES_FILE = "base.sha256", "base_losses.safetensors"
COMPARED, COMPARED_BATCH, DRAWS = 256, 32, 4  # samples; at a time; (t, noise) a sample
# The features of models/tiny: large enough to see an arm move, small enough to be trained from its own pictures.
FEATURES = FeatureConfig(VisionConfig(128, 2, 256, 4, 64, 16), grid=4, cells=2, components=16)


def model_of(recipe: Recipe, recipe_path: Path) -> ModelConfig:
    """What a run trains: the recipe's `model`, or its base with an E-Token and an alignment expert. Raises
    ModelConfigError, and RecipeError for a base that has one already."""
    if recipe.base is None:
        return load_model_description(recipe_path.parent / str(recipe.model))
    folder = folder_of(recipe.base, recipe_path)
    base = read_folder(folder).config
    if base.architecture.use_peft_prefix_token or base.architecture.alignment is not None:
        raise RecipeError(f"{folder}: has an E-Token already: align it (`vla-align align`), or name a model without")
    expert, given = base.architecture.action_expert, recipe.base.alignment
    architecture = replace(
        base.architecture,
        use_peft_prefix_token=True,
        peft_num_tokens=recipe.base.peft_num_tokens,
        peft_init="normal",
        alignment=AlignmentConfig(expert, FEATURES) if given is None else given,
    )
    text = f"{base.weights.source or folder.name}, with an E-Token by `vla-align train --base`"
    weights = WeightsConfig(source=text, licence=base.weights.licence)
    return replace(base, name=f"{base.name}_aligning", architecture=architecture, initial_token=0, weights=weights)


def folder_of(base: BaseRecipe, recipe_path: Path) -> Path:
    """The base's. A path in a recipe is relative to the recipe. Raises ModelConfigError where nothing is there."""
    if not base.folder:
        raise RecipeError("base: no folder is named: `--base FOLDER`, or base.folder in the recipe")
    beside = recipe_path.parent / base.folder
    return beside if beside.is_dir() else find_model(base.folder)


def load_base(
    recipe: Recipe, recipe_path: Path, sources: Sources, out: Path, device: torch.device
) -> tuple[Pi0, Robot]:
    """The base with new parts, and its robot. `out` gets what a zoo folder needs beside the weights.

    Raises RecipeError for another base than the run was begun with, and what `load_policy` and the tokenizer raise.
    """
    assert recipe.base is not None
    folder, config = folder_of(recipe.base, recipe_path), model_of(recipe, recipe_path)
    policy = load_policy(folder, device)
    _check_same_weights(out, folder, policy.weights_sha256)
    for prompt in sources.training.prompts:
        policy.check_prompt(prompt)
    for path in folder.iterdir() if is_main() else ():  # normalisation and tokenizer
        if path.suffix in (".json", ".model") and not path.name.startswith(policy.config.weights.file):
            shutil.copyfile(path, out / path.name)
    model = with_e_token(policy.model, config.architecture, recipe.base.freeze, recipe.seed).to(device)
    return model, replace(policy.robot, config=config)


def _check_same_weights(out: Path, folder: Path, sha256: str) -> None:
    path = out / HASH_FILE
    begun = path.read_text().strip() if path.exists() else sha256
    if begun != sha256:
        text = f"the weights of the base are others than its token was trained on: sha256 {sha256[:12]}..., it was"
        raise RecipeError(f"{folder}: {text} {begun[:12]}...: put the old ones back, or train in another --run folder")
    if is_main():
        replace_text(path, sha256 + "\n")


def with_e_token(base: Pi0, architecture: Architecture, freeze: str, seed: int) -> Pi0:
    """The network of `base` itself, with an E-Token that is left out until `begin`, and an alignment expert that starts
    from the action expert's weights where shapes match. freeze: `vlm` or `base`."""
    base.requires_grad_(freeze == "vlm")
    for part in (base.vision_tower, base.multi_modal_projector, base.embed_tokens, base.vlm):
        part.requires_grad_(False)
    for parameter in base.parameters():  # the sampler of a policy makes them views of fused matrices
        parameter.data = parameter.data.contiguous()
    torch.manual_seed(seed_of(seed, Part.MODEL))
    base.add_alignment(architecture)
    base.e_token_is_left_out = True
    own = base.alignment_expert().expert.state_dict()
    theirs = base.action_expert.state_dict()
    same = {name: value for name, value in theirs.items() if name in own and own[name].shape == value.shape}
    base.alignment_expert().expert.load_state_dict(own | same)
    return base


def base_parameters(model: Pi0) -> list[nn.Parameter]:
    """Those that the base came with."""
    new = ("peft_prefix_token", "e_token_attention_bias", "alignment.")
    return [parameter for name, parameter in model.named_parameters() if not name.startswith(new)]


def keep_losses(trainee: Trainee, recipe: Recipe, out: Path) -> None:
    """What the base loses on validation samples, for `compare`; measured once, before the first step."""
    if not (out / LOSSES_FILE).exists():
        save_atomically({"action_loss": _action_losses(trainee, recipe)[0]}, out / LOSSES_FILE)


def compare(trainee: Trainee, recipe: Recipe, out: Path, log: Log) -> None:
    """Is the base's own robot any worse? The action loss with its token less the base's, on the same samples and
    draws; `standard_error` is that of the difference, None for a single episode. Above 0 is worse."""
    before, (after, episodes) = load_file(out / LOSSES_FILE)["action_loss"], _action_losses(trainee, recipe)
    difference = after - before
    log(
        {
            "stage": "against the base",
            "samples": len(before),
            "episodes": len(set(episodes)),
            "base_action_loss": float(before.mean()),
            "action_loss": float(after.mean()),
            "difference": float(difference.mean()),
            "standard_error": standard_error(difference, episodes),
        }
    )


def standard_error(values: Tensor, episodes: Sequence[int]) -> float | None:
    """Of the mean of values (N,), of which those of one episode may be alike, so that each episode counts once however
    many samples it has. None where all are of one. Recordings that count their episodes alike share them, which makes
    it larger."""
    _, which = np.unique(episodes, return_inverse=True)
    off = np.bincount(which, (values - values.mean()).numpy())
    count = len(off)
    return None if count < 2 else math.sqrt(count / (count - 1) * float(off @ off)) / len(values)


@torch.no_grad()
def _action_losses(trainee: Trainee, recipe: Recipe) -> tuple[Tensor, list[int]]:
    """(COMPARED,) of the first validation robot's samples, with the token that a fresh install starts with; and which
    episode each is of."""
    model, architecture = trainee.model, trainee.model.architecture
    source: Source = trainee.sources.validation
    rng = rng_of(recipe.seed, Stream.STATISTICS, 1)
    rows = np.zeros(COMPARED, np.int64)
    raw = source.samples(rows, architecture.action_horizon, architecture.vision.image_size, rng)
    samples = make_samples(raw, trainee.robot, trainee.features)
    generator = torch.Generator(trainee.device).manual_seed(seed_of(recipe.seed, Part.JUDGING))
    e_0, found = model.peft_prefix_token, []
    assert e_0 is not None
    for part in torch.arange(COMPARED).split(COMPARED_BATCH):
        inputs, actions, count = samples.policy_input(part), samples.actions[part], len(part)
        first = torch.zeros(count, dtype=torch.long, device=trainee.device)
        cache, token = model.prefix_cache(inputs), trainee.bank.tokens(e_0, first, torch.ones_like(first).float())
        losses = []
        for _ in range(DRAWS):
            noise = torch.randn(actions.shape, generator=generator, device=trainee.device)
            times, mask = flow.sample_time(count, generator, trainee.device), samples.experience.action_mask
            losses.append(model.action_loss(cache, inputs.state, actions, noise, times, mask, token))
        found.append(torch.stack(losses).mean(0))
    return torch.cat(found).cpu(), [item.episode for item in raw.experiences]
