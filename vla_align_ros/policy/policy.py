"""A model of the zoo, ready to use: observations in robot units in, action chunks in robot units out.

policy = load_policy("models/tiny")
chunk = policy.infer(observation)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vla_align_ros.foreign import what_is_file, what_is_folder
from vla_align_ros.observation.normalise import Normaliser, check_norm_stats, load_norm_stats
from vla_align_ros.observation.resize import letterbox
from vla_align_ros.policy import weights
from vla_align_ros.policy.config import (
    MODEL_FILE,
    Architecture,
    ModelConfig,
    ModelConfigError,
    has_golden_config,
    load_golden_architecture,
    load_model_config,
)
from vla_align_ros.policy.fast import FastSampler
from vla_align_ros.policy.features import FeatureExtractor
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.policy.statistics import STATS_FILE, AlignmentStats, load_alignment_stats
from vla_align_ros.policy.tokenizer import PromptError, PromptTokenizer
from vla_align_ros.types import ActionChunk, Experience, Observation

Device = Literal["auto", "cpu", "cuda"]
PROMPT_MAX_CHARS = 1000
BANK_FILE = "token_bank.safetensors"


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


class Policy:
    """The network, its robot and the running E-Token.

    `token` is one immutable tensor (peft_num_tokens, W): `swap_token` replaces it whole, so an inference that has begun
    ends with the token that it began with. Inference and alignment may run in different threads.

    bank: training arms' tokens (arms, n, W) as offsets from E_0. learned_step: (2, k, n * W), how a
    gradient moves a token (`alignment/step.py: descend`).
    """

    def __init__(
        self,
        model: Pi0,
        robot: Robot | None,
        features: FeatureExtractor | None,
        bank: Tensor | None,
        learned_step: Tensor | None,
        stats: AlignmentStats | None,
        weights_sha256: str,
        device: torch.device,
    ) -> None:
        self.model, self.features = model, features  # with `model` comes its sampler
        self.bank, self.learned_step, self.stats = bank, learned_step, stats
        self.weights_sha256, self.device = weights_sha256, device
        self._robot = robot
        self.token = self.initial_token()

    @property
    def model(self) -> Pi0:
        """The network. Frozen: `sample_actions` keeps what follows from its weights."""
        return self._model

    @model.setter
    def model(self, model: Pi0) -> None:
        self._model, self._sample_one = model, FastSampler(model)

    @property
    def robot(self) -> Robot:
        if self._robot is None:
            raise PolicyError(
                f"this folder has weights but no {MODEL_FILE}: use policy.model, or convert it to a zoo folder"
            )
        return self._robot

    @property
    def config(self) -> ModelConfig:
        return self.robot.config

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
        if self.features is None or self.model.alignment is None or self.stats is None:
            return "this model has no alignment expert: it can act, but not align"
        return ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the folder and does no harm, a sentence each."""
        return () if self._robot is None else self._robot.remarks

    def initial_token(self) -> Tensor | None:
        """The token that a fresh install starts with: the bank's row `initial_token`, else E_0; None without an E."""
        if self.model.peft_prefix_token is None:
            return None
        token = self.model.peft_prefix_token.detach().clone()
        if self._robot is not None and self.config.initial_token is not None and self.bank is not None:
            token += self.bank[self.config.initial_token]
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
        longest = np.ones(self.config.state_dim, np.float32)  # the largest numbers, where the prompt holds the state
        self.robot.tokenizer(prompt, longest)

    def prepare(self, observations: Sequence[Observation], state_in_prompt: bool = True) -> PolicyInput:
        """Observations -> one batch on the device: letterboxed, normalised, tokenised, padded.

        state_in_prompt: False leaves the state out of pi0.5's prompt, as its alignment expert needs it.
        Raises PolicyError for a state of another length or that is not finite, or for no camera at all; PromptError.
        """
        architecture, robot = self.model.architecture, self.robot
        size = architecture.vision.image_size
        states = np.stack([self._checked_state(item) for item in observations])
        normalised = robot.state.normalise(states)
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
        names = self.config.robot.joint_names
        if observation.state.shape != (len(names),):
            raise PolicyError(
                f"the state must have one number for each joint of {list(names)}, got shape {observation.state.shape}"
            )
        if not np.isfinite(observation.state).all():
            raise PolicyError(f"the state must be finite, got {observation.state.tolist()}")
        return observation.state.astype(np.float32)

    def prepare_experiences(self, experiences: Sequence[Experience]) -> tuple[PolicyInput, ExperienceInput]:
        """The alignment expert's view of experiences: prefix and state without the state text, commands, next features.

        Raises PolicyError when the model has no alignment expert or features, or for commands of another shape.
        """
        if self.features is None:
            raise PolicyError(self.align_problem)
        architecture, dims = self.model.architecture, self.config.state_dim
        shape = (architecture.action_horizon, dims)
        for item in experiences:
            if item.commands.shape != shape or not np.isfinite(item.commands).all():
                raise PolicyError(f"commands must be finite and of shape {shape}, got {item.commands.shape}")
        inputs = self.prepare([item.observation for item in experiences], state_in_prompt=False)
        after = self.prepare([item.next_observation for item in experiences], state_in_prompt=False)
        features, masks = self.features(after)
        actions = np.zeros((len(experiences), architecture.action_horizon, architecture.action_dim), np.float32)
        actions[..., :dims] = self.robot.actions.normalise(
            np.stack([item.commands for item in experiences]).astype(np.float32)
        )
        dim_mask = torch.arange(architecture.action_dim, device=self.device) < dims
        return inputs, ExperienceInput(torch.from_numpy(actions).to(self.device), features, masks, dim_mask)

    def warm_up(self, num_steps: int) -> None:
        """One inference on made-up input, so that the first real one is as fast as the others."""
        robot = self.config.robot
        size = self.model.architecture.vision.image_size
        black = np.zeros((size, size, 3), np.uint8)
        state = self.robot.state.denormalise(np.zeros(len(robot.joints), np.float32))
        observation = Observation(dict.fromkeys(self.model.architecture.cameras, black), state, "warm up", 0)
        self.infer(observation, torch.Generator().manual_seed(0), num_steps)

    @torch.inference_mode()
    def infer(
        self, observation: Observation, generator: torch.Generator | None = None, num_steps: int | None = None
    ) -> ActionChunk:
        """Sample one action chunk in robot units. `num_steps`: Euler steps, the model's recommendation when None."""
        architecture, robot = self.model.architecture, self.robot
        shape = (1, architecture.action_horizon, architecture.action_dim)
        noise = torch.randn(shape, generator=generator).to(self.device)
        actions = self.sample(self.prepare([observation]), noise, num_steps)[0]
        return ActionChunk(actions, observation.state, observation.stamp_ns, robot.config.robot.period_ns)

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
        """A batch of chunks in robot units, (B, H, joints) float32. token: (n, W) or (B, n, W) in place of the
        running one.
        """
        token = self.token if token is None else token
        if token is not None:
            token = token.expand(noise.shape[0], -1, -1)
        steps = self.config.recommended.num_steps if num_steps is None else num_steps
        actions = self.sample_actions(inputs, noise, steps, token)
        return self.robot.actions.denormalise(actions.cpu().numpy())[..., : self.config.state_dim]


def load_policy(folder: str | Path, device: Device | torch.device = "auto") -> Policy:
    """Load a zoo folder, or a folder with openpi's weights and a golden `config.json` (then only `policy.model` works).

    device: of torch, or a name; `auto` takes cuda where there is one. Raises ModelConfigError, WeightsError,
    NormStatsError, AlignmentStatsError or PolicyError, each with a sentence that says what is wrong in which file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        known = what_is_file(folder) or f"give a folder that holds {MODEL_FILE}, as models/tiny does"
        raise ModelConfigError(f"{folder}: no such model folder; {known}")
    target = device if isinstance(device, torch.device) else find_device(device)
    if not (folder / MODEL_FILE).exists():
        if not has_golden_config(folder):
            raise ModelConfigError(f"{folder}: {what_is_folder(folder)}")
        path = folder / "model.safetensors"
        model = _model(load_golden_architecture(folder), weights.read_tensors(path), path, target)
        return Policy(model, None, None, None, None, None, weights.sha256_of(path), target)
    config = load_model_config(folder)
    path = folder / config.weights.file
    tensors = weights.read_tensors(path)
    sha256 = weights.sha256_of(path)
    if config.weights.sha256 is not None and sha256 != config.weights.sha256:
        raise weights.WeightsError(
            f"{path}: sha256 is {sha256}, {MODEL_FILE} says {config.weights.sha256}, "
            "so these are not the weights that were described"
        )
    model = _model(config.architecture, tensors, path, target)
    features, bank, learned_step, stats = _alignment_parts(folder, config.architecture, target)
    if config.initial_token is not None and (bank is None or config.initial_token >= len(bank)):
        raise ModelConfigError(
            f"{folder}: initial_token is {config.initial_token}, the bank has {0 if bank is None else len(bank)} tokens"
        )
    return Policy(model, _robot(folder, config), features, bank, learned_step, stats, sha256, target)


def _model(architecture: Architecture, tensors: dict[str, Tensor], path: Path, device: torch.device) -> Pi0:
    """The frozen network with its weights; sizes that do not fit the tensors are seen before memory is taken."""
    ours = weights.to_our_names(tensors)
    with torch.device("meta"):
        weights.check_fits(Pi0(architecture).state_dict(), ours, path)
    model = Pi0(architecture)
    model.load_state_dict(ours)
    return model.to(device).eval().requires_grad_(False)


def _robot(folder: Path, config: ModelConfig) -> Robot:
    stats_path = folder / "norm_stats.json"
    stats = load_norm_stats(stats_path, config.robot.joint_names)
    remarks = check_norm_stats(stats, stats_path, config.robot.joint_names, config.normalisation)
    architecture = config.architecture
    return Robot(
        config,
        Normaliser(stats["state"], config.normalisation),
        Normaliser(stats["actions"], config.normalisation),
        PromptTokenizer(folder, architecture.variant, architecture.max_token_len, architecture.vocab_size),
        weights.sha256_of(stats_path),
        remarks,
    )


def _alignment_parts(
    folder: Path, architecture: Architecture, device: torch.device
) -> tuple[FeatureExtractor | None, Tensor | None, Tensor | None, AlignmentStats | None]:
    """Features, token bank, learned step and statistics; None where the model does not align."""
    if architecture.alignment is None:
        return None, None, None, None
    features = FeatureExtractor(architecture.alignment.features)
    path = folder / "features.safetensors"
    weights.load_into(features, weights.read_tensors(path), path)
    if not bool((features.scale > 0).all()):
        raise weights.WeightsError(
            f"{path}: `scale` whitens the features and must be above 0, got {features.scale.min()}"
        )
    bank_path = folder / BANK_FILE
    tensors = weights.read_tensors(bank_path)
    n, width = architecture.peft_num_tokens, architecture.action_expert.width
    for name, shape in (("offsets", (None, n, width)), ("learned_step", (2, None, n * width))):
        tensor = tensors.get(name)
        if tensor is None or not _is_finite_of(tensor, shape):
            raise weights.WeightsError(
                f"{bank_path}: expected two finite tensors, `offsets` of shape (arms, {n}, {width}) and "
                f"`learned_step` of shape (2, directions, {n * width}); `{name}` does not fit"
            )
    bank, learned_step = (tensors[name].to(device, torch.float32) for name in ("offsets", "learned_step"))
    return (
        features.to(device).eval().requires_grad_(False),
        bank,
        learned_step,
        load_alignment_stats(folder / STATS_FILE),
    )


def _is_finite_of(tensor: Tensor, shape: Sequence[int | None]) -> bool:
    """Finite, not empty and of a shape; None is any length."""
    fits = tensor.dim() == len(shape) and all(w in (None, n) for n, w in zip(tensor.shape, shape, strict=True))
    return fits and tensor.numel() > 0 and bool(torch.isfinite(tensor).all())


def find_device(name: str) -> torch.device:
    """The device of that name; `auto` takes cuda where there is one. Raises PolicyError where torch sees no GPU."""
    if name not in ("auto", "cpu", "cuda"):
        raise PolicyError(f"device must be auto, cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise PolicyError("device is cuda, but torch sees no GPU: use auto or cpu, or install a CUDA build of torch")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
