"""A model of the zoo, ready to use: observations in ROS's units in, action chunks in ROS's units out.

The model's own units (`robot/units.py`) exist from here to the network only.

policy = load_policy("models/tiny")  # `load.py`
chunk = policy.infer(observation)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.observation.normalise import Normaliser
from vla_align_ros.observation.resize import letterbox
from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.statistics import AlignmentStats
from vla_align_ros.policy.tokenizer import PromptError, PromptTokenizer
from vla_align_ros.types import ActionChunk, Experience, Observation

PROMPT_MAX_CHARS = 1000


class PolicyError(ValueError):
    """The model cannot do what was asked of it; the message says why and what to do."""


@dataclass(frozen=True)
class Robot:
    """What a zoo folder knows beside the network: how to talk to it about a robot."""

    config: ModelConfig
    state: Normaliser
    actions: Normaliser
    tokenizer: PromptTokenizer
    norm_stats_sha256: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class AlignmentParts:
    """What a model that aligns has beside its alignment expert.

    features: what inverse dynamics and dynamics see. bank: the training robots' tokens (robots, n, W) as offsets from
    E_0. learned_step: (2, k, n * W), how a gradient moves a token (`alignment/step.py: descend`). stats: how the
    alignment's statistics looked in training.
    """

    features: FeatureExtractor
    bank: Tensor
    learned_step: Tensor
    stats: AlignmentStats


class Policy:
    """The network, its robot and the running E-Token.

    `token` is one immutable tensor (peft_num_tokens, W): `swap_token` replaces it whole, so an inference that has begun
    ends with the token that it began with. Inference and alignment may run in different threads.
    """

    def __init__(
        self, model: Pi0, robot: Robot, alignment: AlignmentParts | None, weights_sha256: str, device: torch.device
    ) -> None:
        self.model, self.robot = model, robot  # with `model` comes its sampler
        self.weights_sha256, self.device = weights_sha256, device
        self._alignment = alignment
        self.token = self.initial_token()

    @property
    def model(self) -> Pi0:
        """The network. Frozen: `sample_actions` keeps what follows from its weights."""
        return self._model

    @model.setter
    def model(self, model: Pi0) -> None:
        self._model, self._sample_one = model, FastSampler(model)

    @property
    def config(self) -> ModelConfig:
        return self.robot.config

    @property
    def alignment(self) -> AlignmentParts:
        """What it aligns with. Raises PolicyError for a model that cannot."""
        if self._alignment is None:
            raise PolicyError(self.align_problem)
        return self._alignment

    @property
    def e_0(self) -> Tensor:
        """The token (n, W) that the bank's offsets are added to. Raises PolicyError for a model without an E-Token."""
        if self.model.peft_prefix_token is None:
            raise PolicyError("this model has no E-Token")
        return self.model.peft_prefix_token.detach()

    @property
    def align_problem(self) -> str:
        """Why this model cannot align, in a sentence; empty when it can."""
        if self.token is None:
            return "this model has no E-Token: it can act, but not align"
        if self._alignment is None:
            return "this model has no alignment expert: it can act, but not align"
        return ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the folder and does no harm, a sentence each."""
        return self.robot.remarks

    def initial_token(self) -> Tensor | None:
        """The token that a fresh install starts with: the bank's row `initial_token`, else E_0; None without an E."""
        if self.model.peft_prefix_token is None:
            return None
        token = self.model.peft_prefix_token.detach().clone()
        if self.config.initial_token is not None:
            token += self.alignment.bank[self.config.initial_token]
        return token

    def swap_token(self, token: Tensor) -> None:
        """Use another E-Token from the next inference on. PolicyError: wrong shape, or not finite."""
        expected = None if self.token is None else tuple(self.token.shape)
        if tuple(token.shape) != expected:
            raise PolicyError(f"the model's E-Token has shape {expected}, got {tuple(token.shape)}")
        if not bool(torch.isfinite(token).all()):
            raise PolicyError("an E-Token must be finite")
        self.token = token.detach().to(self.device, torch.float32).clone()

    def check_prompt(self, prompt: str) -> None:
        """Return when the model can read the prompt, whatever the state; raise PromptError otherwise."""
        if len(prompt) > PROMPT_MAX_CHARS:
            raise PromptError(f"the prompt has {len(prompt)} characters, at most {PROMPT_MAX_CHARS} are read")
        # The largest numbers, where the prompt holds the state.
        longest = np.ones(len(self.config.robot.state), np.float32)
        self.robot.tokenizer(prompt, longest)

    def prepare(self, observations: Sequence[Observation], state_in_prompt: bool = True) -> PolicyInput:
        """Observations -> one batch on the device: letterboxed, normalised, tokenised, padded.

        state_in_prompt: False leaves the state out of pi0.5's prompt, as its alignment expert needs it.
        Raises PolicyError for a state of another length or that is not finite, or for no camera at all; PromptError.
        """
        architecture, robot = self.model.architecture, self.robot
        size = architecture.vision.image_size
        states = np.stack([self._checked_state(item) for item in observations])
        normalised = robot.state.normalise(robot.config.robot.state_scale.to_model(states).astype(np.float32))
        padded = np.zeros((len(observations), architecture.action_dim), np.float32)
        padded[:, : normalised.shape[1]] = normalised
        tokens, token_masks = robot.tokenizer.batch(
            [item.prompt for item in observations], normalised if state_in_prompt else None
        )
        images, masks = [], []
        for camera in architecture.cameras:
            frames = [item.images.get(camera) for item in observations]
            black = np.zeros((size, size, 3), np.uint8)
            stacked = np.stack([black if frame is None else letterbox(frame, size) for frame in frames])
            scaled = torch.from_numpy(stacked).to(self.device).movedim(-1, 1).float() / 255.0 * 2.0 - 1.0
            images.append(scaled)
            masks.append(torch.tensor([frame is not None for frame in frames], device=self.device))
        if not bool(torch.stack(masks).any(0).all()):
            raise PolicyError(f"an observation has no image of any camera of {list(architecture.cameras)}")
        to_device = [torch.from_numpy(item).to(self.device) for item in (tokens, token_masks, padded)]
        return PolicyInput(tuple(images), tuple(masks), *to_device)

    def _checked_state(self, observation: Observation) -> np.ndarray:
        labels = self.config.robot.state_labels
        if observation.state.shape != (len(labels),):
            raise PolicyError(
                f"the state must have one number for each field of {list(labels)}, got shape {observation.state.shape}"
            )
        if not np.isfinite(observation.state).all():
            raise PolicyError(f"the state must be finite, got {observation.state.tolist()}")
        return observation.state

    def prepare_experiences(self, experiences: Sequence[Experience]) -> tuple[PolicyInput, ExperienceInput]:
        """The alignment expert's view of experiences: prefix and state without the state text, commands, next features.

        Raises PolicyError when the model has no alignment expert or features, or for commands of another shape.
        """
        extract = self.alignment.features
        architecture, described = self.model.architecture, self.config.robot
        shape = (architecture.action_horizon, len(described.action))
        for item in experiences:
            if item.commands.shape != shape or not np.isfinite(item.commands).all():
                raise PolicyError(f"commands must be finite and of shape {shape}, got {item.commands.shape}")
        inputs = self.prepare([item.observation for item in experiences], state_in_prompt=False)
        after = self.prepare([item.next_observation for item in experiences], state_in_prompt=False)
        features, masks = extract(after)
        actions = np.zeros((len(experiences), architecture.action_horizon, architecture.action_dim), np.float32)
        commands = described.action_scale.to_model(np.stack([item.commands for item in experiences]))
        actions[..., : shape[1]] = self.robot.actions.normalise(commands.astype(np.float32))
        place = torch.arange(architecture.action_dim, device=self.device)
        real = (place < len(described.state), place < len(described.action))
        return inputs, ExperienceInput(torch.from_numpy(actions).to(self.device), features, masks, *real)

    def warm_up(self, num_steps: int) -> None:
        """One inference on made-up input, so that the first real one is as fast as the others."""
        robot = self.config.robot
        size = self.model.architecture.vision.image_size
        black = np.zeros((size, size, 3), np.uint8)
        middle = self.robot.state.denormalise(np.zeros(len(robot.state), np.float32))
        state = robot.state_scale.to_ros(middle).astype(np.float32)
        observation = Observation(dict.fromkeys(self.model.architecture.cameras, black), state, "warm up", 0)
        self.infer(observation, torch.Generator().manual_seed(0), num_steps)

    @torch.inference_mode()
    def infer(
        self, observation: Observation, generator: torch.Generator | None = None, num_steps: int | None = None
    ) -> ActionChunk:
        """Sample one action chunk. `num_steps`: Euler steps, the model's recommendation when None."""
        architecture, robot = self.model.architecture, self.config.robot
        shape = (1, architecture.action_horizon, architecture.action_dim)
        noise = torch.randn(shape, generator=generator).to(self.device)
        actions = self.sample(self.prepare([observation]), noise, num_steps)[0]
        start = robot.measured(observation.state).astype(np.float32)
        return ActionChunk(actions, start, observation.stamp_ns, robot.period_ns)

    @torch.inference_mode()
    def sample_actions(
        self, inputs: PolicyInput, noise: Tensor, num_steps: int = 10, token: Tensor | None = None
    ) -> Tensor:
        """`Pi0.sample_actions` with `token` (B, n, W): of one observation by the fast way, which gives the same numbers
        up to rounding, of several by the model's own."""
        sample = self._sample_one if len(noise) == 1 else self.model.sample_actions
        return sample(inputs, noise, num_steps, token)

    @torch.inference_mode()
    def sample(
        self, inputs: PolicyInput, noise: Tensor, num_steps: int | None = None, token: Tensor | None = None
    ) -> np.ndarray:
        """A batch of chunks in ROS's units, (B, H, A) float32. token: (n, W) or (B, n, W) in place of the
        running one.
        """
        token = self.token if token is None else token
        if token is not None:
            token = token.expand(noise.shape[0], -1, -1)
        steps = self.config.recommended.num_steps if num_steps is None else num_steps
        robot = self.config.robot
        actions = self.sample_actions(inputs, noise, steps, token).cpu().numpy()[..., : len(robot.action)]
        return robot.action_scale.to_ros(self.robot.actions.denormalise(actions)).astype(np.float32)
