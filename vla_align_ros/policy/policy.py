"""A model of the zoo, ready to use: observations in ROS's units in, action chunks in ROS's units out.

The model's own units (`robot/units.py`) exist from here to the network only.

policy = load_policy("models/so101")  # `load.py`
chunk = policy.infer(observation)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.policy.config import ModelConfig
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.made_tokens import MadeTokens
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.prepare import PolicyError, Robot
from vla_align_ros.policy.statistics import AlignmentStats
from vla_align_ros.policy.tokenizer import PromptError
from vla_align_ros.types import ActionChunk, Experience, Float32Array, Observation

PROMPT_MAX_CHARS = 1000


@dataclass(frozen=True)
class AlignmentParts:
    """What a model that aligns has beside its alignment expert.

    features: what inverse dynamics and dynamics see. bank: the training robots' tokens (robots, n, W) as offsets from
    E_0. stats: the limits that an alignment is judged by. made: how the bank was made; None where each of its tokens
    was learned by itself.
    """

    features: FeatureExtractor
    bank: Tensor
    stats: AlignmentStats
    made: MadeTokens | None = None


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
        """What is odd about the folder, though it runs: a sentence each, with what to do."""
        return (*self.config.remarks, *self.robot.remarks)

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
        """`Robot.prepare` on the policy's device."""
        return self.robot.prepare(observations, self.device, state_in_prompt)

    def prepare_experiences(self, experiences: Sequence[Experience]) -> tuple[PolicyInput, ExperienceInput]:
        """The alignment expert's view of experiences: prefix and state without the state text, commands, next features.

        Raises PolicyError when the model has no alignment expert or features, or for commands of another shape.
        """
        inputs = self.prepare([item.observation for item in experiences], state_in_prompt=False)
        return inputs, self.robot.prepare_outcome(experiences, inputs, self.alignment.features, self.device)

    def middle_state(self) -> Float32Array:
        """The state in the middle of what the model knows, in ROS's units, (S,)."""
        robot = self.config.robot
        middle = self.robot.state.denormalise(np.zeros(len(robot.state), np.float32))
        return robot.state_scale.to_ros(middle).astype(np.float32)

    def warm_up(self, num_steps: int) -> None:
        """One inference on made-up input, so that the first real one is as fast as the others."""
        size = self.model.architecture.vision.image_size
        black = np.zeros((size, size, 3), np.uint8)
        images = dict.fromkeys(self.model.architecture.cameras, black)
        observation = Observation(images, self.middle_state(), "warm up", 0)
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
