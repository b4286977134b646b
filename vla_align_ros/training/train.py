"""Train a zoo model from nothing or from a base (`base.py`), from any source: `vla-align train --config RECIPE`.

Stages, each skipped when its file exists: the policy's eye (from labels: where a source has none, it is learned with
the policy), the features' eye, the policy with its token bank, the alignment expert alone; with `--export` the limits
and the zoo folder (`export.py`). Deterministic for a seed on one machine, on its CPU: each step has its own seed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from vla_align_ros.experience.source import Source, Sources
from vla_align_ros.observation.normalise import Normaliser, check_norm_stats, save_norm_stats
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.prepare import Robot
from vla_align_ros.policy.tokenizer import TOKENIZER_FILE, PromptTokenizer
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.aids import Aids
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.base import base_parameters, compare, keep_losses, load_base, model_of
from vla_align_ros.training.begun import go_on
from vla_align_ros.training.dataset import norm_stats
from vla_align_ros.training.eyes import make_eyes
from vla_align_ros.training.feed import make_shard
from vla_align_ros.training.last_stage import train_alignment_expert
from vla_align_ros.training.loop import run_steps
from vla_align_ros.training.make_tokenizer import write_tokenizer
from vla_align_ros.training.objective import JointObjective
from vla_align_ros.training.processes import Processes, is_main
from vla_align_ros.training.progress import POLICY_FILE, Log, log_line, mend_log
from vla_align_ros.training.recipe import Recipe, RecipeError
from vla_align_ros.training.trainee import Trainee


def prepare(
    recipe: Recipe, recipe_path: Path, sources: Sources, out: Path, log: Log, device: torch.device, processes: int = 1
) -> Trainee:
    """Model, features and data on `device`, with the pretraining stages done (or loaded from `out`)."""
    out.mkdir(parents=True, exist_ok=True)
    architecture = (config := model_of(recipe, recipe_path)).architecture
    if architecture.alignment is None or not architecture.use_peft_prefix_token:
        raise RecipeError(f"{recipe.model}: training needs architecture.alignment and use_peft_prefix_token: true")
    log({**_about(sources), "processes": processes})
    if recipe.base is None:
        if architecture.variant == "pi05":
            text = "its prompt holds the state in numbers, for which a tokenizer of words has none"
            raise RecipeError(f"{recipe.model}: a pi05 cannot be trained from nothing, {text}: use variant pi0")
        robot = _robot(recipe, sources.training, config, out, log)
        torch.manual_seed(seed_of(recipe.seed, Part.MODEL))
        model = Pi0(architecture).to(device)
    else:
        model, robot = load_base(recipe, recipe_path, sources, out, device)
        for remark in robot.remarks:
            log({"stage": "statistics", "remark": remark})
    features = FeatureExtractor(architecture.alignment.features).to(device)
    motion_r2 = make_eyes(recipe, sources, config.robot, model, features, out, log)
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
    if is_main():  # the others, which come later, find them
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


def make_optimizer(trainee: Trainee, aids: Aids, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW of what is not frozen; `scale` of a group multiplies the learning rate of the moment."""
    model, decay = trainee.model, recipe.weight_decay
    of_base = [] if recipe.base is None else base_parameters(model)
    eye = [] if of_base else list(model.vision_tower.parameters())
    assert model.peft_prefix_token is not None
    own = {id(p) for p in [*eye, *of_base, model.peft_prefix_token]}
    rest = [p for p in [*model.parameters(), *aids.parameters()] if id(p) not in own]
    base_scale = 1.0 if recipe.base is None else recipe.base.learning_rate_scale
    groups = [
        ([p for p in rest if p.dim() >= 2], decay, 1.0),
        ([p for p in rest if p.dim() < 2], 0.0, 1.0),
        (eye, 0.0, recipe.vision_learning_rate_scale),
        ([model.peft_prefix_token], 0.0, recipe.e_token_learning_rate_scale),
        (list(trainee.bank.parameters()), decay, recipe.token_learning_rate_scale if trainee.bank.free else 1.0),
        ([p for p in of_base if p.dim() >= 2], decay, base_scale),
        ([p for p in of_base if p.dim() < 2], 0.0, base_scale),
    ]
    trained = (([p for p in each if p.requires_grad], decay, scale) for each, decay, scale in groups)
    wanted = [{"params": each, "weight_decay": decay, "scale": scale} for each, decay, scale in trained if each]
    return torch.optim.AdamW(wanted, recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def train_policy(
    trainee: Trainee, recipe: Recipe, out: Path, log: Log, save_every_s: float, processes: Processes
) -> None:
    """The joint training; goes on where `out` left off."""
    model = trainee.model
    torch.manual_seed(seed_of(recipe.seed, Part.AIDS))
    labels = trainee.sources.training.labels
    aids = Aids(model, 0 if labels is None else labels.num_points).to(trainee.device)
    optimizer = make_optimizer(trainee, aids, recipe)
    objective = JointObjective(model, trainee.bank, aids, recipe)

    def figures(learning_rate: float) -> dict[str, float]:
        e_token = model.peft_prefix_token
        assert e_token is not None
        assert e_token.grad is not None
        norm, grad_norm = (float(tensor.detach().norm()) for tensor in (e_token, e_token.grad))
        rate = learning_rate * recipe.e_token_learning_rate_scale
        return {"e_token_learning_rate": rate, "e_token_norm": norm, "e_token_grad_norm": grad_norm}

    model.train()
    model.e_token_is_left_out = False
    path = out / POLICY_FILE
    make = partial(make_shard, trainee, recipe)
    run_steps("policy", objective, optimizer, make, recipe, path, log, save_every_s, processes, figures)
    model.eval()


def train(
    recipe_path: Path,
    recipe: Recipe,
    sources: Sources,
    out: Path,
    log: Log,
    device: torch.device,
    save_every_s: float = 120.0,
) -> Trainee:
    """All stages up to the trained policy. `out` holds the run; a second call goes on where it stopped, or for longer
    (`begun.py`). With several processes (`processes.py`) each returns the same; the main one alone writes and logs."""
    out.mkdir(parents=True, exist_ok=True)
    processes = Processes(device)

    def record(line: dict[str, object]) -> None:
        if is_main():
            log_line(out, line)
            log(line)

    processes.own_parts(recipe.batch_parts)
    with processes.main_first():
        if is_main():
            mend_log(out)
            go_on(out, recipe, model_of(recipe, recipe_path), record)
        trainee = prepare(recipe, recipe_path, sources, out, record, processes.device, processes.count)
        if recipe.base is not None:
            keep_losses(trainee, recipe, out)
    train_policy(trainee, recipe, out, record, save_every_s, processes)
    train_alignment_expert(trainee, recipe, out, record, save_every_s, processes)
    if recipe.base is not None and is_main():
        compare(trainee, recipe, out, record)
    processes.end()
    return trainee
