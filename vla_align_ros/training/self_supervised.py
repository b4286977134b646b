"""Pretrains the features' eye without labels: self-distillation of patches and the robot's own motion.

    teacher (mean of past students), whole image --> code of each patch  <-- student, some patches blanked
    features after - features before             --> how far the joint encoders moved

The patch term of iBOT (Zhou et al. 2022), as DINOv2 has it, without crops; the second term is inverse dynamics (Agrawal
et al. 2016) and needs nothing but the encoders of the arm that is seen. `training/vision.py` is the one with labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.experience.source import Pairs
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import to_model_image
from vla_align_ros.training.recipe import VisionRecipe
from vla_align_ros.training.vision import learning_rate

PROTOTYPES, BOTTLENECK = 256, 64
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
BLANKED_SHARE = 0.4
TEACHER_MOMENTUM, CENTRE_MOMENTUM = 0.99, 0.9


def pretrain(
    features: FeatureExtractor, pairs: Pairs, recipe: VisionRecipe, seed: int, log: Callable[[dict[str, object]], None]
) -> dict[str, float]:
    """Train `features.dino` in place.

    recipe.batch_size: of single images, a quarter as many pairs. recipe.motion_weight: of the second term; 0 leaves
    self-distillation alone. Returns the losses of the last step.
    """
    torch.manual_seed(seed)
    config = features.config
    device = features.mean.device
    images = [torch.from_numpy(part).to(device) for part in (pairs.before, pairs.after)]
    motion = torch.from_numpy(pairs.motion).to(device)
    teacher, head = copy.deepcopy(features).requires_grad_(False), _head(config.dino.width).to(device)
    teacher_head = copy.deepcopy(head).requires_grad_(False)
    num_patches, cameras = config.grid**2, pairs.before.shape[1]
    motion_head = nn.Linear(cameras * num_patches * config.dino.width, motion.shape[1]).to(device)
    student = [*features.dino.parameters(), *head.parameters()]
    parameters = [p for p in [*student, *motion_head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    centre, figures = torch.zeros(PROTOTYPES, device=device), dict[str, float]()
    features.train()
    for step in range(recipe.steps):
        rows = torch.randint(len(motion), (recipe.batch_size // 4,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        before, after = (to_model_image(part[rows]).flatten(0, 1) for part in images)
        blanked = (torch.rand(len(before), num_patches, generator=generator) < BLANKED_SHARE).to(device)
        with torch.no_grad():
            wanted = teacher_head(teacher.patches(before))
            target = functional.softmax((wanted - centre) / TEACHER_TEMPERATURE, dim=-1)
            centre = CENTRE_MOMENTUM * centre + (1 - CENTRE_MOMENTUM) * wanted.mean((0, 1))
        codes = functional.log_softmax(head(features.patches(_blank(before, blanked))) / STUDENT_TEMPERATURE, dim=-1)
        distillation = -(target * codes).sum(-1)[blanked].mean()
        loss, motion_loss = distillation, torch.zeros((), device=device)
        if recipe.motion_weight:
            seen_before, seen_after = (features.patches(part) for part in (before, after))
            read = motion_head((seen_after - seen_before).unflatten(0, (-1, cameras)).flatten(1))
            motion_loss = (read - motion[rows]).pow(2).mean()
            loss = loss + recipe.motion_weight * motion_loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            past = [*teacher.dino.parameters(), *teacher_head.parameters()]
            for old, new in zip(past, student, strict=True):
                old.lerp_(new, 1 - TEACHER_MOMENTUM)
        figures = {"distillation_loss": float(distillation.detach()), "motion_loss": float(motion_loss.detach())}
        if step % 200 == 0:
            log({"step": step, **figures})
    features.eval()
    return figures


class _Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(x, dim=-1)


def _head(width: int) -> nn.Module:
    """A patch's code: DINO's projection on prototypes of unit length."""
    prototypes = nn.utils.parametrizations.weight_norm(nn.Linear(BOTTLENECK, PROTOTYPES, bias=False))
    prototypes.parametrizations.weight.original0.requires_grad_(False).fill_(1.0)
    return nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, BOTTLENECK), _Normalise(), prototypes)


def _blank(images: Tensor, blanked: Tensor) -> Tensor:
    """images (B, 3, S, S) with the patches (B, grid * grid) of `blanked` at mid-grey."""
    side = int(blanked.shape[1] ** 0.5)
    mask = blanked.unflatten(1, (side, side))[:, None].float()
    return images * (1.0 - functional.interpolate(mask, images.shape[-2:], mode="nearest"))
