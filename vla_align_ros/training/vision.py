"""Pretrains a ViT to find the coloured things in the bench's images: the stand-in for a VLM's or DINO's pretraining.

Each patch says which keypoints lie in it and where inside. The labels come from the bench, so features made this way
are *label-pretrained*, not self-supervised, and the model card says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vla_align_ros.bench.reach2 import camera, task
from vla_align_ros.bench.reach2.arm import forward_kinematics
from vla_align_ros.bench.reach2.embodiment import Embodiments, FloatArray, sample_embodiments
from vla_align_ros.training.recipe import VisionRecipe

NUM_KEYPOINTS = 3 + len(task.COLOURS)  # tip, elbow, base, and the target of each colour
ABSENT = -9.0


def to_model_image(images: NDArray[np.uint8] | Tensor) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, H, W) float32 in [-1, 1], as openpi does."""
    return torch.as_tensor(images).movedim(-1, -3).float() / 255.0 * 2.0 - 1.0


def keypoints(arms: Embodiments, angle_rad: FloatArray, scene: camera.Scene) -> NDArray[np.float32]:
    """Where things are in each camera's image, (n, cameras, 7, 2) in image widths; ABSENT for a colour not on the
    table.
    """
    elbow, tip = forward_kinematics(arms.link_m, angle_rad)
    joints = camera.at_height(np.stack([tip, elbow, np.zeros_like(tip)], axis=1), camera.ARM_HEIGHT_M)
    points = np.full((len(arms), len(camera.CAMERAS), NUM_KEYPOINTS, 2), ABSENT, np.float32)
    rows = np.arange(len(arms))
    for index, view in enumerate(camera.views(arms, angle_rad).values()):
        points[:, index, :3] = view.project(joints)[0]
        targets, _ = view.project(camera.at_height(scene.targets_m, 0.0))
        for target in range(scene.colours.shape[1]):
            points[rows, index, 3 + scene.colours[:, target]] = targets[:, target]
    return points


@dataclass(frozen=True)
class Frames:
    """Images (N, size, size, 3) uint8, their keypoints (N, 7, 2), sine and cosine of the joints' true angles (N, 4)."""

    images: Tensor
    points: Tensor
    pose: Tensor

    def to(self, device: torch.device) -> Frames:
        """All of it there."""
        return Frames(self.images.to(device), self.points.to(device), self.pose.to(device))


def draw_frames(count: int, size: int, seed: int) -> Frames:
    """`count` frames, half from each camera, of many arms and tables."""
    rng = np.random.default_rng([seed, 1])
    rows = (count + 1) // 2
    arms = sample_embodiments(rows, seed + 7919)
    scene = task.sample_scene(rows, rng)
    pose = task.training_pose(arms, scene, rng)
    images = camera.draw(arms, pose, scene, size)
    points = keypoints(arms, pose, scene)
    circle = np.concatenate([np.sin(pose), np.cos(pose)], axis=1).astype(np.float32)
    parts = (
        torch.from_numpy(images).flatten(0, 1),
        torch.from_numpy(points).flatten(0, 1),
        torch.from_numpy(circle).repeat_interleave(len(camera.CAMERAS), 0),
    )
    return Frames(*(part[:count] for part in parts))


def pretrain(
    patches: Callable[[Tensor], Tensor],
    eye: nn.Module,
    width: int,
    image_size: int,
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
    frames = draw_frames(recipe.frames, image_size, seed).to(device)
    held_out = recipe.frames // 20
    head = nn.Linear(width, NUM_KEYPOINTS * 3).to(device)
    pose_head = nn.Linear(width * grid * grid, frames.pose.shape[1]).to(device)
    parameters = [*eye.parameters(), *head.parameters(), *pose_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    eye.train()
    for step in range(recipe.steps):
        rows = torch.randint(held_out, recipe.frames, (recipe.batch_size,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        seen = patches(to_model_image(frames.images[rows]))
        presence, offset, _ = _keypoint_losses(head(seen), frames.points[rows], grid)
        loss = 5.0 * presence + 3.0 * offset
        if pose_weight:
            loss = loss + pose_weight * (pose_head(seen.flatten(1)) - frames.pose[rows]).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 0:
            log({"step": step, "presence_loss": float(presence.detach()), "offset_loss": float(offset.detach())})
    eye.eval()
    with torch.no_grad():
        outputs = torch.cat([head(patches(to_model_image(part))) for part in frames.images[:held_out].split(500)])
    presence, offset, hit = _keypoint_losses(outputs, frames.points[:held_out], grid)
    return {
        "presence_loss": float(presence),
        "offset_rms_px": float((offset / 2).sqrt() * image_size / grid),
        "right_patch": float(hit),
    }


def learning_rate(recipe: VisionRecipe, step: int) -> float:
    """Of an eye: 100 steps of warm-up, constant for a third, then down to a fiftieth."""
    return recipe.learning_rate * min(1.0, (step + 1) / 100) * max(0.02, min(1.0, 1.5 * (1 - step / recipe.steps)))


def _keypoint_losses(outputs: Tensor, points: Tensor, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """outputs (B, grid^2, 7*3) -> presence loss, squared offset in patches, share of keypoints found in the right
    patch.
    """
    outputs = outputs.unflatten(-1, (NUM_KEYPOINTS, 3))
    scaled = points * grid
    cell = scaled.floor()
    inside = ((cell >= 0) & (cell < grid)).all(-1)
    index = (cell[..., 1] * grid + cell[..., 0]).long().clamp(0, grid * grid - 1)
    present = torch.zeros(outputs.shape[:3], device=outputs.device).scatter_(1, index[:, None], inside[:, None].float())
    presence = functional.binary_cross_entropy_with_logits(outputs[..., 0], present)
    at = outputs[torch.arange(len(points))[:, None], index, torch.arange(NUM_KEYPOINTS)[None], 1:]
    offset = ((at - (scaled - cell - 0.5)).pow(2).sum(-1) * inside).sum() / inside.sum()
    hit = (outputs[..., 0].argmax(1) == index)[inside].float().mean()
    return presence, offset, hit
