"""Observations and experience in ROS's units -> what the network is given: in the node, offline and in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_align_ros.observation.normalise import Normaliser, NormStats, check_norm_stats
from vla_align_ros.observation.resize import letterbox
from vla_align_ros.observation.scaling import SCALERS
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput, to_model_image
from vla_align_ros.policy.tokenizer import PromptTokenizer
from vla_align_ros.policy.weights import sha256_of
from vla_align_ros.types import Experience, Float32Array, Observation, Picture


class PolicyError(ValueError):
    """The model cannot do what was asked of it; the message says why and what to do."""


class Reader(Protocol):
    """For whom messages become observations: a policy, or a model that is still to be trained. check_prompt: raises
    ValueError for a prompt that it cannot read."""

    @property
    def config(self) -> ModelConfig: ...

    def check_prompt(self, prompt: str) -> None: ...


@dataclass(frozen=True)
class Robot:
    """What a zoo folder knows beside the network: how to talk to it about a robot."""

    config: ModelConfig
    state: Normaliser
    actions: Normaliser
    tokenizer: PromptTokenizer
    norm_stats_sha256: str
    remarks: tuple[str, ...]

    def prepare(
        self, observations: Sequence[Observation], device: torch.device, state_in_prompt: bool = True
    ) -> PolicyInput:
        """Observations -> one batch on the device: letterboxed, normalised, tokenised, padded.

        state_in_prompt: False leaves the state out of pi0.5's prompt, as its alignment expert needs it.
        Raises PolicyError for a state of another length or that is not finite, or for no camera at all; PromptError.
        """
        architecture = self.config.architecture
        states = np.stack([self._checked_state(item) for item in observations])
        normalised = self.state.normalise(self.config.robot.state_scale.to_model(states).astype(np.float32))
        padded = np.zeros((len(observations), architecture.action_dim), np.float32)
        padded[:, : normalised.shape[1]] = normalised
        tokens, token_masks = self.tokenizer.batch(
            [item.prompt for item in observations], normalised if state_in_prompt else None
        )
        images, masks = [], []
        for camera in architecture.cameras:
            frames = [item.images.get(camera) for item in observations]
            stacked = np.stack([self._picture(frame) for frame in frames])
            if (view := self.config.views.get(camera)) is not None:
                stacked = view.shown(stacked)
            images.append(to_model_image(torch.from_numpy(stacked).to(device)))
            masks.append(torch.tensor([frame is not None for frame in frames], device=device))
        if not bool(torch.stack(masks).any(0).all()):
            raise PolicyError(f"an observation has no image of any camera of {list(architecture.cameras)}")
        to_device = [torch.from_numpy(item).to(device) for item in (tokens, token_masks, padded)]
        return PolicyInput(tuple(images), tuple(masks), *to_device)

    def prepare_actions(self, actions: NDArray[np.floating], device: torch.device) -> Tensor:
        """(n, H, A) in ROS's units -> (n, H, action_dim), normalised and padded. Raises PolicyError for another shape,
        or numbers that are not finite."""
        architecture, described = self.config.architecture, self.config.robot
        shape = (architecture.action_horizon, len(described.action))
        if actions.shape[1:] != shape or not np.isfinite(actions).all():
            raise PolicyError(f"commands must be finite and of shape {shape}, got {actions.shape[1:]}")
        padded = np.zeros((len(actions), architecture.action_horizon, architecture.action_dim), np.float32)
        in_model_units = described.action_scale.to_model(actions).astype(np.float32)
        padded[..., : shape[1]] = self.actions.normalise(in_model_units)
        return torch.from_numpy(padded).to(device)

    def prepare_outcome(
        self, experiences: Sequence[Experience], before: PolicyInput, features: FeatureExtractor, device: torch.device
    ) -> ExperienceInput:
        """What was sent and what it led to: commands and features of the next observations; and features of the
        observations themselves, `before`, where the model is given them. Raises PolicyError."""
        shapes = {item.commands.shape for item in experiences}
        if len(shapes) != 1:
            raise PolicyError(f"all commands must have one shape, got {sorted(shapes)}")
        actions = self.prepare_actions(np.stack([item.commands for item in experiences]), device)
        after = self.prepare([item.next_observation for item in experiences], device, state_in_prompt=False)
        found, masks = features(after)
        place, described = torch.arange(actions.shape[-1], device=device), self.config.robot
        real = (place < len(described.state), place < len(described.action))
        own, alignment = found[:, :0], self.config.architecture.alignment
        if alignment is not None and alignment.own_features:
            seen, seen_masks = features(before)
            own = seen * seen_masks[..., None]
        return ExperienceInput(actions, found, masks, own, *real)

    def _picture(self, frame: Picture | None) -> Any:
        """(size, size, 3), black for a missing frame."""
        size, conventions = self.config.architecture.vision.image_size, self.config.architecture.conventions
        if frame is None:
            return np.zeros((size, size, 3), np.uint8)
        return letterbox(frame, size, SCALERS[conventions])

    def _checked_state(self, observation: Observation) -> Float32Array:
        labels = self.config.robot.state_labels
        if observation.state.shape != (len(labels),):
            raise PolicyError(
                f"the state must have one number for each field of {list(labels)}, got shape {observation.state.shape}"
            )
        if not np.isfinite(observation.state).all():
            raise PolicyError(f"the state must be finite, got {observation.state.tolist()}")
        return observation.state


def make_robot(
    config: ModelConfig, stats: Mapping[str, NormStats], stats_path: Path, tokenizer: Path, remarks: Sequence[str] = ()
) -> Robot:
    """stats: of `state` and `actions`, from `stats_path`. Raises NormStatsError where they do not fit the robot, and
    ModelConfigError for a tokenizer of another model."""
    robot, architecture, mode = config.robot, config.architecture, config.normalisation
    labels = {"state": robot.state_labels, "actions": robot.action_labels}
    odd = check_norm_stats(stats, stats_path, labels, mode, architecture.conventions)
    state, actions = (Normaliser(stats[part], mode, architecture.conventions) for part in ("state", "actions"))
    tokens = PromptTokenizer(tokenizer, architecture)
    return Robot(config, state, actions, tokens, sha256_of(stats_path), (*remarks, *odd))
