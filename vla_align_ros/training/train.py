"""Train a zoo model from nothing, from any source: `vla-align train --config config/train/tiny.yaml`.

Stages, each skipped when its file exists: the policy's eye (from labels: where a source has none, it is learned with
the policy), the features' eye, the policy with its token bank, the alignment expert alone; with `--export` the limits
and the zoo folder (`export.py`). Deterministic for a seed on one machine, on its CPU: each step has its own seed.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from vla_align_ros.experience.source import Source, Sources
from vla_align_ros.observation.normalise import Normaliser, check_norm_stats, save_norm_stats
from vla_align_ros.policy.config import ModelConfig, load_model_description
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.policy.tokenizer import TOKENIZER_FILE, PromptTokenizer
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.aids import Aids
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.dataset import Samples, norm_stats
from vla_align_ros.training.eyes import make_eyes
from vla_align_ros.training.feed import Feed
from vla_align_ros.training.last_stage import train_alignment_expert
from vla_align_ros.training.make_tokenizer import write_tokenizer
from vla_align_ros.training.progress import POLICY_FILE, Log, load_step, log_line, save_step
from vla_align_ros.training.recipe import Recipe, RecipeError
from vla_align_ros.training.trainee import Trainee, learning_rate_at


def prepare(recipe: Recipe, recipe_path: Path, sources: Sources, out: Path, log: Log, device: torch.device) -> Trainee:
    """Model, features and data on `device`, with the pretraining stages done (or loaded from `out`)."""
    out.mkdir(parents=True, exist_ok=True)
    config = load_model_description(recipe_path.parent / recipe.model)
    architecture = config.architecture
    if architecture.alignment is None or not architecture.use_peft_prefix_token:
        raise RecipeError(f"{recipe.model}: training needs architecture.alignment and use_peft_prefix_token: true")
    if architecture.variant == "pi05":
        text = "its prompt holds the state in numbers, for which a tokenizer of words has none"
        raise RecipeError(f"{recipe.model}: a pi05 cannot be trained from nothing, {text}: use variant pi0")
    torch.manual_seed(seed_of(recipe.seed, Part.MODEL))
    model = Pi0(architecture).to(device)
    features = FeatureExtractor(architecture.alignment.features).to(device)
    log(_about(sources))
    robot = _robot(recipe, sources.training, config, out, log)
    motion_r2 = make_eyes(recipe, sources, model, features, out, log)
    torch.manual_seed(seed_of(recipe.seed, Part.TOKEN_BANK))
    rows, width = len(sources.training.robots), architecture.action_expert.width
    shifts = sources.training.shifts
    known = None if shifts is None else shifts.values
    bank = TokenBank(rows, architecture.peft_num_tokens, width, known).to(device)
    return Trainee(sources, robot, model, features, bank, motion_r2)


def _robot(recipe: Recipe, source: Source, config: ModelConfig, out: Path, log: Log) -> Robot:
    """Statistics and tokenizer of a source, written to `out`, as the policy will read them. Raises ValueError for a
    field that never changes, and for prompts that do not fit."""
    architecture, stats_path = config.architecture, out / "norm_stats.json"
    stats = norm_stats(source, config, recipe.seed)
    labels = {"state": config.robot.state_labels, "actions": config.robot.action_labels}
    for remark in check_norm_stats(stats, stats_path, labels, config.normalisation):
        log({"stage": "statistics", "remark": remark})
    save_norm_stats(stats_path, stats)
    write_tokenizer(out / TOKENIZER_FILE, source.prompts, architecture.vocab_size)
    tokenizer = PromptTokenizer(out / TOKENIZER_FILE, architecture)
    for prompt in source.prompts:
        tokenizer(prompt, np.ones(len(config.robot.state), np.float32))
    state, actions = (Normaliser(stats[name], config.normalisation) for name in ("state", "actions"))
    return Robot(config, state, actions, tokenizer, "", ())


def _about(sources: Sources) -> dict[str, object]:
    """What a run learns from, and what it does without."""
    validation, labels = sources.validation.robots, sources.training.labels
    shared = sorted(set(validation) & set(sources.training.robots))
    line: dict[str, object] = {
        "stage": "source",
        "robots": len(sources.training.robots),
        "validation": f"later episodes of {len(shared)} of them" if shared else f"{len(validation)} other robots",
    }
    if labels is None:
        line["left_out"] = "this source has no labels: the policy's eye is not pretrained, no keypoints as an aid"
    return line


def _check_same(out: Path, recipe: Recipe) -> None:
    """A run goes on with what it was begun with, which `recipe.yaml` in it says."""
    path, now = out / "recipe.yaml", asdict(recipe)
    begun = yaml.safe_load(path.read_text()) if path.exists() else now
    if changed := [key for key in ("model", "source", "seed") if begun.get(key) != now[key]]:
        raise RecipeError(f"{out}: begun with another {' and '.join(changed)}: give each run a folder of its own")
    path.write_text(yaml.safe_dump(now))


def make_optimizer(trainee: Trainee, aids: Aids, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; `scale` of a group multiplies the learning rate of the moment."""
    model = trainee.model
    own = {id(p) for p in model.vision_tower.parameters()} | {id(model.peft_prefix_token)}
    tokens = [p for p in trainee.bank.parameters() if p.requires_grad]
    rest = [p for p in [*model.parameters(), *aids.parameters()] if id(p) not in own]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": recipe.weight_decay, "scale": 1.0},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0, "scale": 1.0},
        {
            "params": list(model.vision_tower.parameters()),
            "weight_decay": 0.0,
            "scale": recipe.vision_learning_rate_scale,
        },
        {"params": [model.peft_prefix_token], "weight_decay": 0.0, "scale": recipe.e_token_learning_rate_scale},
        {
            "params": tokens,
            "weight_decay": recipe.weight_decay,
            "scale": recipe.token_learning_rate_scale if trainee.bank.free else 1.0,
        },
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def train_policy(trainee: Trainee, recipe: Recipe, out: Path, log: Log, save_every_s: float) -> None:
    """The joint training; goes on where `out` left off."""
    model, bank = trainee.model, trainee.bank
    torch.manual_seed(seed_of(recipe.seed, Part.AIDS))
    labels = trainee.sources.training.labels
    aids = Aids(model, 0 if labels is None else labels.num_points).to(trainee.device)
    optimizer = make_optimizer(trainee, aids, recipe)
    modules: dict[str, nn.Module] = {"model": model, "bank": bank, "aids": aids}
    step = load_step(out / POLICY_FILE, modules, optimizer)
    total = recipe.samples // recipe.batch_size
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    weights, saved = LossWeights(recipe.lambda_perc, recipe.lambda_dyn, recipe.lambda_inv), time.monotonic()
    feed = Feed(trainee.sources.training, trainee.robot, trainee.features, recipe, total, log)
    model.train()
    while step < total:
        shard, rows = feed.batch(step)
        learning_rate = learning_rate_at(step, total, recipe)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        losses = _losses(trainee, aids, recipe, shard, rows, weights, step)
        loss = losses["total_loss"] + recipe.regression_weight * losses["regression_loss"]
        if "keypoint_loss" in losses:
            loss = loss + recipe.keypoint_weight * losses["keypoint_loss"]
        optimizer.zero_grad()
        loss.backward()
        e_token = model.peft_prefix_token
        assert e_token is not None
        assert e_token.grad is not None
        record: dict[str, object] = {"stage": "policy", "step": step, "learning_rate": learning_rate}
        record |= {"e_token_learning_rate": learning_rate * recipe.e_token_learning_rate_scale}
        record |= {
            "e_token_norm": float(e_token.detach().norm()),
            "e_token_grad_norm": float(e_token.grad.norm()),
        }
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        log(record | {name: float(value.detach()) for name, value in losses.items()})
        if time.monotonic() - saved > save_every_s or step == total:
            save_step(out / POLICY_FILE, step, modules, optimizer)
            saved = time.monotonic()
    model.eval()


def _losses(
    trainee: Trainee, aids: Aids, recipe: Recipe, shard: Samples, rows: Tensor, weights: LossWeights, step: int
) -> dict[str, Tensor]:
    generator = torch.Generator(trainee.device).manual_seed(seed_of(recipe.seed, Part.FLOW, step))
    keep = (torch.rand(len(rows), generator=generator, device=trainee.device) >= recipe.token_drop).float()
    e_0 = trainee.model.peft_prefix_token
    assert e_0 is not None
    token = trainee.bank.tokens(e_0, shard.row[rows], keep)
    inputs = shard.policy_input(rows)
    total, parts = trainee.model(
        inputs,
        shard.actions[rows],
        shard.experience[rows],
        weights,
        action_draws=recipe.action_draws,
        peft_token=token,
        generator=generator,
    )
    action_mask = shard.experience.action_mask
    helped = aids(shard.actions[rows], action_mask, shard.points[rows], inputs.token_masks, recipe.action_draws)
    return {"total_loss": total, **parts, **helped}


def train(
    recipe_path: Path,
    recipe: Recipe,
    sources: Sources,
    out: Path,
    log: Log,
    device: torch.device,
    save_every_s: float = 120.0,
) -> Trainee:
    """All stages up to the trained policy. `out` holds the run; a second call goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)
    _check_same(out, recipe)

    def record(line: dict[str, object]) -> None:
        log_line(out, line)
        log(line)

    trainee = prepare(recipe, recipe_path, sources, out, record, device)
    train_policy(trainee, recipe, out, record, save_every_s)
    train_alignment_expert(trainee, recipe, out, record, save_every_s)
    return trainee
