"""How long the parts of sampling and of aligning take, beside the work that is in them and what this machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.policy.fast import FastSampler, Plan
from vla_align_ros.policy.inputs import ExperienceInput, PolicyInput
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0
from vla_align_ros.speed.work import Work, count

PEAK_SIDE, PEAK_TRIES = 1024, 10
COPY_BYTES = 2**16, 2**26  # least and most that is copied
WARM_UP_CALLS = 2
Parts = dict[str, dict[str, Any]]
"""Numbers of each part by its name: those of `Times` and `Work`, limit_ms and share."""


@dataclass(frozen=True)
class Times:
    """Of single calls, in ms of wall time. own_ms: the median by `clock_of`."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    own_ms: float


@dataclass(frozen=True)
class Peak:
    """The most that this machine was seen to do in a second, with the threads that are set: a square matrix product,
    and a copy of as much as the network has, which a cache may hold; in bytes read and written."""

    flops_per_s: float
    bytes_per_s: float

    def limit_ms(self, work: Work) -> float:
        """The roofline: all products at the peak, or all bytes at the speed of a copy, whichever takes longer."""
        return max(work.flops / self.flops_per_s, work.bytes / self.bytes_per_s) * 1e3


def peak(model: nn.Module, device: torch.device, dtype: torch.dtype = torch.float32) -> Peak:
    """The best of a few tries, on a device that can run (a network on the meta device has a size, too)."""
    a, b = (torch.randn(PEAK_SIDE, PEAK_SIDE, device=device, dtype=dtype) for _ in range(2))
    copied = min(max(round(weights_mb(model) * 1e6), COPY_BYTES[0]), COPY_BYTES[1])
    source, target = torch.ones(2, copied // 8, device=device)
    product_s = min(own_s for _, own_s in timings(lambda: torch.mm(a, b), device, PEAK_TRIES))
    copy_s = min(own_s for _, own_s in timings(lambda: target.copy_(source), device, PEAK_TRIES))
    return Peak(2 * PEAK_SIDE**3 / product_s, 2 * source.nbytes / copy_s)


def clock_of(device: torch.device) -> Callable[[], float]:
    """What tells in seconds how long this process works: its CPU time, which other processes disturb least, where one
    thread does all. Several add theirs up, and a GPU's is not in it: there it is wall time."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def timings(call: Callable[[], object], device: torch.device, calls: int) -> list[tuple[float, float]]:
    """Of each call in seconds: wall time, and the time by `clock_of`."""
    found, clock = [], clock_of(device)
    for _ in range(WARM_UP_CALLS + calls):
        wall_s, own_s = time.perf_counter(), clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append((time.perf_counter() - wall_s, clock() - own_s))
    return found[WARM_UP_CALLS:]


def times(call: Callable[[], object], device: torch.device, calls: int) -> Times:
    """Of so many calls, after a warm-up."""
    wall_ms, own_ms = np.array(timings(call, device, calls)).T * 1e3
    p50, p95, p99 = np.percentile(wall_ms, (50, 95, 99))
    return Times(float(p50), float(p95), float(p99), float(np.median(own_ms)))


def measured(
    call: Callable[[], object],
    device: torch.device,
    calls: int,
    limit: Peak,
    counted: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Times, work, limit and the share of the limit that is reached. Nothing is run on the meta device. counted: does
    the same where the call is a CUDA graph, of which nothing is seen."""
    work = count(call if counted is None else counted)
    found: dict[str, Any] = {**asdict(work), "limit_ms": limit.limit_ms(work)}
    if device.type == "meta":
        return found
    taken = times(call, device, calls)
    return {**asdict(taken), **found, "share": found["limit_ms"] / taken.own_ms}


@torch.inference_mode()
def plan_of(model: Pi0, num_steps: int) -> Plan:
    """For all cameras and a full prompt."""
    a = model.architecture
    return Plan(FastSampler(model), len(a.cameras), a.max_token_len, num_steps)


@torch.inference_mode()
def sampling(plan: Plan, calls: int, limit: Peak) -> Parts:
    """One `sample_actions`, in which every camera has a new picture, and its three parts."""
    device = plan.x_t.device
    start = torch.randn(plan.x_t.shape, device=device)

    def denoise() -> None:
        plan.x_t.copy_(start)
        plan.denoise()

    def whole() -> None:
        plan.encode()
        plan.fill()
        denoise()

    def in_steps() -> None:
        for step in plan.steps:
            step()

    plan.images.copy_(torch.rand(plan.images.shape, device=device) * 2 - 1)
    plan.x_t.copy_(start)
    encode, fill, denoise_in_steps = plan.steps
    parts = {
        "vision": (plan.encode, encode),
        "prefix": (plan.fill, fill),
        "denoising": (denoise, denoise_in_steps),
        "sample_actions": (whole, in_steps),
    }
    return {name: measured(call, device, calls, limit, counted) for name, (call, counted) in parts.items()}


def aligning(model: Pi0, rows: int, calls: int, limit: Peak) -> Parts:
    """What an alignment is made of, for one row each (a row: one draw of t and noise for one experience), of `rows`
    that are computed together: the prefix of an experience, the losses of a token as the pick asks them, and the
    gradient. DINO is not in it."""
    device = model.embed_tokens.weight.device
    inputs, outcome = random_inputs(model, rows)
    token, weights = model.make_peft_token(1), LossWeights()
    if token is None:
        return {}
    which = torch.arange(rows)
    with torch.no_grad():
        losses = ExperienceLosses.of_inputs(model, inputs, outcome, weights)
    few = losses.without_dynamics()

    @torch.no_grad()
    def prefix() -> None:
        model.prefix_cache(inputs)

    @torch.no_grad()
    def score() -> None:
        few(token[0], which, 1, 0)

    def slope() -> None:
        moved = token[0].detach().requires_grad_(True)
        torch.autograd.grad(losses.weighted(losses(moved, which, 1, 0)).sum(), moved)

    calls_by_name = {"prefix of a row": prefix, "losses of a row": score, "gradient of a row": slope}
    found = {name: measured(call, device, calls, limit) for name, call in calls_by_name.items()}
    return {name: {key: _per_row(key, value, rows) for key, value in part.items()} for name, part in found.items()}


def _per_row(key: str, value: Any, rows: int) -> Any:
    return value if key == "share" else value / rows


def random_inputs(model: Pi0, rows: int) -> tuple[PolicyInput, ExperienceInput]:
    """Random inputs on the model's device, with all cameras and full prompts."""
    a, device = model.architecture, model.embed_tokens.weight.device
    assert a.alignment is not None
    size, features = a.vision.image_size, a.alignment.features
    tokens = features.tokens_per_camera * len(a.cameras)
    with torch.device(device):
        real = torch.ones(rows, a.max_token_len, dtype=torch.bool)
        inputs = PolicyInput(
            tuple(torch.rand(rows, 3, size, size) * 2 - 1 for _ in a.cameras),
            tuple(real[:, 0] for _ in a.cameras),
            torch.zeros(rows, a.max_token_len, dtype=torch.long),
            real,
            torch.randn(rows, a.action_dim),
        )
        every = torch.ones(a.action_dim, dtype=torch.bool)
        outcome = ExperienceInput(
            torch.randn(rows, a.action_horizon, a.action_dim),
            torch.randn(rows, tokens, features.token_dim),
            torch.ones(rows, tokens, dtype=torch.bool),
            torch.randn(rows, tokens if a.alignment.own_features else 0, features.token_dim),
            every,
            every,
        )
    return inputs, outcome


def weights_mb(model: nn.Module) -> float:
    """Of a network, in MB."""
    return sum(parameter.nbytes for parameter in model.parameters()) / 1e6


def sampling_mb(plan: Plan) -> float:
    """Of a plan's buffers beside the weights, in MB."""
    tensors = [x for part in (plan, plan.prefix, plan.fixed, plan.actions) for x in tree_leaves(vars(part))]
    storages = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors if isinstance(x, Tensor)}
    weights = {parameter.untyped_storage()._cdata for parameter in plan.sampler.model.parameters()}
    return sum(size for storage, size in storages.items() if storage not in weights) / 1e6


def aligning_mb(model: Pi0, experiences: int) -> float:
    """Of the prefixes' keys and values that an alignment of so many experiences holds, in MB."""
    a = model.architecture
    tokens = len(a.cameras) * (a.vision.image_size // a.vision.patch_size) ** 2 + a.max_token_len
    numbers = 2 * a.vlm.depth * a.vlm.num_kv_heads * a.vlm.head_dim * tokens
    return experiences * numbers * model.vlm.layers[0].k_proj.weight.element_size() / 1e6  # type: ignore[union-attr, operator]
