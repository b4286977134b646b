"""Train a zoo model from nothing: `vla-align train --config config/train/tiny.yaml`.

Stages, each skipped when its file exists: the policy's eye, the features' eye, the policy with its token bank; with
`--export` the learned step, statistics and the zoo folder (`export.py`). Deterministic for a seed on one machine, on
its CPU: every step draws from its own seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from vla_align_ros.bench.reach2.embodiment import Embodiments, training_embodiments
from vla_align_ros.policy.config import ModelConfig, load_model_description
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.tokenizer import PromptTokenizer
from vla_align_ros.training import self_supervised, vision
from vla_align_ros.training.bank import TokenBank
from vla_align_ros.training.dataset import NUM_PREFIX_KEYPOINTS, SampleMaker, Samples, draw_samples, norm_stats
from vla_align_ros.training.make_tokenizer import write_tokenizer
from vla_align_ros.training.probe import PROBE_FRAMES, motion_r2
from vla_align_ros.training.progress import load_step, log_line, save_atomically, save_step
from vla_align_ros.training.recipe import Recipe

Log = Callable[[dict[str, object]], None]


@dataclass
class Trainee:
    """Everything that is trained, and what it is trained on."""

    config: ModelConfig
    model: Pi0
    features: FeatureExtractor
    bank: TokenBank
    arms: Embodiments
    maker: SampleMaker
    motion_r2: float

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.bank.offsets.device


def prepare(recipe: Recipe, recipe_path: Path, out: Path, log: Log, device: torch.device) -> Trainee:
    """Model, features and data on `device`, with the pretraining stages done (or loaded from `out`)."""
    out.mkdir(parents=True, exist_ok=True)
    config = load_model_description(recipe_path.parent / recipe.model)
    architecture = config.architecture
    if architecture.alignment is None or not architecture.use_peft_prefix_token:
        raise ValueError(f"{recipe.model}: training needs architecture.alignment and use_peft_prefix_token: true")
    torch.manual_seed(recipe.seed)
    model = Pi0(architecture).to(device)
    features = FeatureExtractor(architecture.alignment.features).to(device)
    grid = architecture.vision.image_size // architecture.vision.patch_size

    def eye(x: Tensor) -> Tensor:
        seen: Tensor = model.vision_tower(pixel_values=x).last_hidden_state
        return seen

    size, width = architecture.vision.image_size, architecture.vision.width
    _stage(
        out / "vision.safetensors",
        model.vision_tower,
        lambda log: vision.pretrain(
            eye, model.vision_tower, width, size, grid, recipe.vision, 0.0, recipe.seed + 11, log
        ),
        log,
    )
    dino = architecture.alignment.features.dino

    def pretrain_features(log: Log) -> dict[str, float]:
        settings, seed = recipe.vision, recipe.seed + 12
        if settings.self_supervised:
            return self_supervised.pretrain(features, settings, seed, log)
        size, grid, weight = dino.image_size, features.config.grid, settings.pose_weight
        return vision.pretrain(features.patches, features.dino, dino.width, size, grid, settings, weight, seed, log)

    _stage(out / "features.safetensors", features.dino, pretrain_features, log)
    features.eval().requires_grad_(False)
    frames = vision.draw_frames(recipe.vision.frames // 10, dino.image_size, recipe.seed + 13)
    features.fit(vision.to_model_image(frames.images.to(device)))
    r2 = motion_r2(features, dino.image_size, recipe.seed, min(PROBE_FRAMES, recipe.vision.frames))
    log({"stage": "features", "motion_r2": r2})
    arms = training_embodiments(recipe.bank_size, recipe.seed + 101)
    stats = norm_stats(arms, architecture.action_horizon, recipe.seed)
    write_tokenizer(out / "tokenizer.json", architecture.vocab_size)
    tokenizer = PromptTokenizer(out, architecture.variant, architecture.max_token_len)
    torch.manual_seed(recipe.seed + 1)
    bank = TokenBank(recipe.bank_size, architecture.peft_num_tokens, architecture.action_expert.width).to(device)
    maker = SampleMaker(stats, config.normalisation, tokenizer, features)
    return Trainee(config, model, features, bank, arms, maker, r2)


def _stage(path: Path, eye: nn.Module, pretrain: Callable[[Log], dict[str, float]], log: Log) -> None:
    """Pretrain an eye, or load what an earlier call made."""
    if not path.exists():
        figures = pretrain(lambda line: log({"stage": path.stem, **line}))
        log({"stage": path.stem, **figures})
        save_atomically(eye.state_dict(), path)
    eye.load_state_dict(load_file(path))


class Aids(nn.Module):
    """What a small model needs to train at all, outside L_total: two regressions, read from inside by forward hooks."""

    def __init__(self, model: Pi0) -> None:
        super().__init__()
        a = model.architecture
        self.chunk = nn.Sequential(
            nn.RMSNorm(a.action_expert.width), nn.Linear(a.action_expert.width, a.action_horizon * a.action_dim)
        )
        self.points = nn.Linear(a.vlm.width, NUM_PREFIX_KEYPOINTS * 2)
        self.hidden: dict[str, Tensor] = {}
        self._watch(model.action_expert.layers[-1], "input_layernorm", "e_row")
        self._watch(model.vlm.layers[-1], "post_attention_layernorm", "prefix")

    def _watch(self, layer: nn.Module, norm: str, name: str) -> None:
        """Keep what goes into a layer's norm."""

        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            self.hidden[name] = arguments[0]

        layer.get_submodule(norm).register_forward_pre_hook(hook)

    def forward(self, actions: Tensor, points: Tensor, token_masks: Tensor, draws: int) -> tuple[Tensor, Tensor]:
        """Regression loss of the chunk (B, H, A), and of the keypoints (B, K, 2), from the latest forward pass."""
        chunk = self.chunk(self.hidden["e_row"][:, 0])
        chunk_loss = (chunk - actions.flatten(1).repeat_interleave(draws, 0)).pow(2).mean()
        last = self.hidden["prefix"].shape[1] - token_masks.shape[1] + token_masks.sum(1) - 1
        read = self.points(self.hidden["prefix"][torch.arange(len(last)), last])
        return chunk_loss, (read - ((points - 0.5) * 4.0).flatten(1)).pow(2).mean()


def make_optimizer(trainee: Trainee, aids: Aids, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; `scale` of a group multiplies the learning rate of the moment."""
    model = trainee.model
    own = {id(p) for p in model.vision_tower.parameters()} | {id(model.peft_prefix_token)}
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
            "params": [trainee.bank.offsets],
            "weight_decay": recipe.weight_decay,
            "scale": recipe.token_learning_rate_scale,
        },
    ]
    return torch.optim.AdamW(groups, recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def train_policy(trainee: Trainee, recipe: Recipe, out: Path, log: Log, save_every_s: float) -> None:
    """The joint training; goes on where `out` left off."""
    model, bank = trainee.model, trainee.bank
    torch.manual_seed(recipe.seed + 2)
    aids = Aids(model).to(trainee.device)
    optimizer = make_optimizer(trainee, aids, recipe)
    modules: dict[str, nn.Module] = {"model": model, "bank": bank, "aids": aids}
    step = load_step(out, modules, optimizer)
    total = recipe.samples // recipe.batch_size
    per_epoch = recipe.shard_samples // recipe.batch_size
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    weights = LossWeights(recipe.lambda_perc, recipe.lambda_dyn, recipe.lambda_inv)
    shard, shard_index, saved = None, -1, time.monotonic()
    model.train()
    while step < total:
        epoch, within = divmod(step, per_epoch)
        if shard_index != epoch // recipe.shard_epochs or shard is None:
            shard_index = epoch // recipe.shard_epochs
            shard = make_shard(trainee, recipe, shard_index)
        order = torch.randperm(
            recipe.shard_samples, generator=torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        )
        rows = order[within * recipe.batch_size : (within + 1) * recipe.batch_size]
        learning_rate = (
            recipe.learning_rate
            * min(1.0, (step + 1) / recipe.warmup_steps)
            * max(0.01, min(1.0, 1.6 * (1 - step / total)))
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["scale"]
        losses = _losses(trainee, aids, recipe, shard, rows, weights, step)
        loss = (
            losses["total_loss"]
            + recipe.regression_weight * losses["regression_loss"]
            + recipe.keypoint_weight * losses["keypoint_loss"]
        )
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
            save_step(out, step, modules, optimizer)
            saved = time.monotonic()
    model.eval()


def make_shard(trainee: Trainee, recipe: Recipe, index: int) -> Samples:
    """The samples of one shard; a share of them from the unshifted arm (row 0)."""
    rng = np.random.default_rng([recipe.seed, 3, index])
    arm = rng.integers(0, recipe.bank_size, recipe.shard_samples)
    arm[rng.random(recipe.shard_samples) < recipe.unshifted_share] = 0
    architecture = trainee.config.architecture
    return trainee.maker(
        draw_samples(trainee.arms, arm, architecture.action_horizon, architecture.vision.image_size, rng)
    )


def _losses(
    trainee: Trainee, aids: Aids, recipe: Recipe, shard: Samples, rows: Tensor, weights: LossWeights, step: int
) -> dict[str, Tensor]:
    generator = torch.Generator(trainee.device).manual_seed(recipe.seed * 7_000_003 + step)
    keep = (torch.rand(len(rows), generator=generator, device=trainee.device) >= recipe.token_drop).float()
    e_0 = trainee.model.peft_prefix_token
    assert e_0 is not None
    token = trainee.bank.tokens(e_0, shard.arm[rows], keep)
    inputs, experience = shard.policy_input(rows), shard.experience_input(rows)
    total, parts = trainee.model(
        inputs,
        shard.actions[rows],
        experience,
        weights,
        action_draws=recipe.action_draws,
        peft_token=token,
        generator=generator,
    )
    regression, points = aids(shard.actions[rows], shard.points[rows], inputs.token_masks, recipe.action_draws)
    return {"total_loss": total, **parts, "regression_loss": regression, "keypoint_loss": points}


def train(
    recipe_path: Path, recipe: Recipe, out: Path, log: Log, device: torch.device, save_every_s: float = 120.0
) -> Trainee:
    """All stages up to the trained policy. `out` holds the run; a second call goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)

    def record(line: dict[str, object]) -> None:
        log_line(out, line)
        log(line)

    trainee = prepare(recipe, recipe_path, out, record, device)
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe.__dict__ | {"vision": recipe.vision.__dict__}))
    train_policy(trainee, recipe, out, record, save_every_s)
    return trainee
