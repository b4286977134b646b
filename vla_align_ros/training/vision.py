"""Pretrains a ViT to find things in labelled images of a bench: the stand-in for a VLM's or DINO's pretraining.

Each patch says which keypoints lie in it and where inside. Features made this way are *label-pretrained*, not
self-supervised, and the model card says so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.experience.source import Frames
from vla_align_ros.policy.inputs import to_model_image
from vla_align_ros.training.recipe import VisionRecipe


def pretrain(
    patches: Callable[[Tensor], Tensor],
    eye: nn.Module,
    width: int,
    frames: Frames,
    grid: int,
    recipe: VisionRecipe,
    pose_weight: float,
    seed: int,
    log: Callable[[dict[str, object]], None],
) -> dict[str, float]:
    """Train `eye` in place. patches: (B, 3, S, S) -> (B, grid * grid, width). Returns validation figures.

    pose_weight: of a second loss, a linear read-out of the joints' angles from all patches; 0 does without.
    """
    torch.manual_seed(seed)
    device = next(eye.parameters()).device
    images, points, pose = (torch.from_numpy(part).to(device) for part in (frames.images, frames.points, frames.pose))
    held_out = len(images) // 20
    head = nn.Linear(width, points.shape[1] * 3).to(device)
    pose_head = nn.Linear(width * grid * grid, pose.shape[1]).to(device)
    parameters = [*eye.parameters(), *head.parameters(), *pose_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    eye.train()
    for step in range(recipe.steps):
        rows = torch.randint(held_out, len(images), (recipe.batch_size,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        seen = patches(to_model_image(images[rows]))
        presence, offset, _ = _keypoint_losses(head(seen), points[rows], grid)
        loss = 5.0 * presence + 3.0 * offset
        if pose_weight:
            loss = loss + pose_weight * (pose_head(seen.flatten(1)) - pose[rows]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0:
            log({"step": step, "presence_loss": float(presence.detach()), "offset_loss": float(offset.detach())})
    eye.eval()
    with torch.no_grad():
        outputs = torch.cat([head(patches(to_model_image(part))) for part in images[:held_out].split(500)])
    presence, offset, hit = _keypoint_losses(outputs, points[:held_out], grid)
    return {
        "presence_loss": float(presence),
        "offset_rms_px": float((offset / 2).sqrt() * images.shape[1] / grid),
        "right_patch": float(hit),
    }


def learning_rate(recipe: VisionRecipe, step: int) -> float:
    """Of an eye: 100 steps of warm-up, constant for a third, then down to a fiftieth."""
    return recipe.learning_rate * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, 1.5 * (1 - step / recipe.steps)))


def _keypoint_losses(outputs: Tensor, points: Tensor, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """outputs (B, grid^2, K*3) -> presence loss, squared offset in patches, share of keypoints found in the right
    patch.
    """
    outputs = outputs.unflatten(-1, (-1, 3))
    scaled = points * grid
    cell = scaled.floor()
    inside = ((cell >= 0) & (cell < grid)).all(-1)
    index = (cell[..., 1] * grid + cell[..., 0]).long().clamp(0, grid * grid - 1)
    present = torch.zeros(outputs.shape[:3], device=outputs.device).scatter_(1, index[:, None], inside[:, None].float())
    presence = functional.binary_cross_entropy_with_logits(outputs[..., 0], present)
    at = outputs[torch.arange(len(points))[:, None], index, torch.arange(points.shape[1])[None], 1:]
    offset = ((at - (scaled - cell - 0.5)).pow(2).sum(-1) * inside).sum() / inside.sum()
    hit = (outputs[..., 0].argmax(1) == index)[inside].float().mean()
    return presence, offset, hit
