"""How far and where a gradient of the alignment losses should move the token: learned from the training robots.

The plain gradient hardly points to where a robot acts better. Each training robot gives one example: the gradient at a
start that was picked from the tokens of all *others*, and what is missing from there to its own token. Ridge
regression, along the bank's largest directions, maps one to the other. It takes the place of a meta-finetune through
unrolled steps. The map fits the lambdas that the model recommends, and starts that were picked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.alignment.pick import pick
from vla_align_ros.alignment.step import gradient
from vla_align_ros.experience.source import EXPERIENCES, Source
from vla_align_ros.policy import Policy
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.seeds import Part, seed_of
from vla_align_ros.training.progress import save_atomically

DRAWS = 4
DIRECTIONS, RIDGE = 8, 3.0  # chosen on validation arms


class TrainingError(RuntimeError):
    """What was trained is of no use for what comes next."""


def learn_step(
    policy: Policy, source: Source, seed: int, examples: Path, log: Callable[[dict[str, object]], None]
) -> Tensor:
    """(2, k, n * W): one gradient g of all experience moves a token by -step[1].T @ step[0] @ g.

    source: its robots are the bank's, in its order; a single one has nothing to tell, and the step is nil. examples: a
    file that belongs to this model; a second call goes on from it. Raises TrainingError where a robot is always at its
    stops.
    """
    if len(source.robots) < 2:
        log({"stage": "learned step", "left_out": "one robot alone does not tell which way tokens differ"})
        return torch.zeros(2, 1, policy.alignment.bank[0].numel())
    gradients, missing = _load(examples)
    for arm in range(len(gradients), len(source.robots)):
        one_gradient, one_missing = _example(policy, source, arm, seed_of(seed, Part.ROBOT, arm))
        gradients, missing = [*gradients, one_gradient], [*missing, one_missing]
        save_atomically({"gradients": torch.stack(gradients), "missing": torch.stack(missing)}, examples)
        log({"stage": "examples", "step": arm + 1})
    step, r2 = fit(policy.alignment.bank.flatten(1).cpu(), torch.stack(gradients), torch.stack(missing))
    log({"stage": "learned step", "left_out_r2": r2})
    return step


def fit(bank: Tensor, gradients: Tensor, missing: Tensor) -> tuple[Tensor, float]:
    """The step from examples, all (arms, n * W); and the share of what is missing that it finds for an arm that was
    left out, along the directions used."""
    directions = min(DIRECTIONS, len(bank) - 1)
    _, scales, along = np.linalg.svd((bank - bank.mean(0)).double().numpy(), full_matrices=False)
    spread = along[:directions] * (scales[:directions, None] / len(bank) ** 0.5)  # one standard deviation each
    read = gradients.double().numpy() @ spread.T
    size = float(read.std())
    if size == 0:  # tokens or gradients that are all the same
        return torch.zeros(2, 1, bank.shape[1]), 0.0
    wanted = missing.double().numpy() @ (along[:directions] / (scales[:directions, None] / len(bank) ** 0.5)).T
    inputs = read / size
    inverse = np.linalg.inv(inputs.T @ inputs + RIDGE * np.eye(directions))
    mapping = inverse @ inputs.T @ wanted
    leverage = np.einsum("ij,jk,ik->i", inputs, inverse, inputs)
    left_out = (wanted - inputs @ mapping) / (1.0 - leverage)[:, None]
    r2 = 1.0 - float((left_out**2).sum() / (wanted**2).sum())
    step = np.stack([-(mapping.T @ spread) / size, spread])
    return torch.from_numpy(step).float(), r2


def _example(policy: Policy, source: Source, arm: int, seed: int) -> tuple[Tensor, Tensor]:
    """The gradient (n * W,) at a start from the other arms' tokens, and what is missing to the own one."""
    bank = policy.alignment.bank
    advice = policy.config.recommended
    weights = LossWeights(advice.lambda_perc, advice.lambda_dyn, advice.lambda_inv)
    experiences = source.experiences(arm, policy, seed, EXPERIENCES)
    if not experiences:
        raise TrainingError(f"robot {source.robots[arm]} never moves freely with this policy: no step to learn from it")
    losses = ExperienceLosses(policy, experiences, weights)
    rows = torch.arange(len(losses))
    others = torch.arange(len(bank)) != arm
    known = policy.e_0 + bank[others]
    _, best_known = pick(losses.without_dynamics(), rows, known, seed)
    found, _ = gradient(losses, best_known, rows, DRAWS, seed)
    return found.flatten().cpu(), (policy.e_0 + bank[arm] - best_known).flatten().cpu()


def _load(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    if not path.exists():
        return [], []
    tensors = load_file(path)
    return list(tensors["gradients"]), list(tensors["missing"])
