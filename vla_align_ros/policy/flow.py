"""Flow matching: the only file that knows which end of t is noise (t=1 is noise, t=0 is clean).

    x_t = t * noise + (1 - t) * clean        u_t = noise - clean        loss = mean (v_t - u_t)^2

as in pi0 (Black et al. 2024, equations 1 to 3, with openpi's direction of time).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vla_align_ros.types import Conventions

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0  # of time_embedding


def sample_time(
    batch_size: int, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """t ~ Beta(1.5, 1) * 0.999 + 0.001, float32 (B,).

    Beta(1.5, 1) has the distribution function t^1.5, so a uniform number to the power 1/1.5 has its distribution.
    """
    uniform = torch.rand(batch_size, generator=generator, device=generator.device if generator else device)
    return uniform.pow(1 / 1.5) * 0.999 + 0.001


def late_time(batch_size: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """t uniform in 0.9 to 0.999, float32 (B,): nearly noise."""
    uniform = torch.rand(batch_size, generator=generator, device=generator.device if generator else device)
    return 0.9 + 0.099 * uniform


def _as_broadcast(time: Tensor, like: Tensor) -> Tensor:
    return time.reshape(-1, *[1] * (like.dim() - 1))


def interpolate(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t of shape `clean` (B, ...), for one time a row (B,)."""
    t = _as_broadcast(time, clean)
    return t * noise + (1 - t) * clean


def target_velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """u_t = dx_t/dt = noise - clean, shape of both."""
    return noise - clean


def euler_times(num_steps: int, conventions: Conventions = "zoo") -> list[float]:
    """The clock of openpi's sampler: float32, from 1, *adding* dt = float32(-1/N) while t >= -dt/2. lerobot's, from its
    0.4.3 on, counts: 1 - j / N."""
    if conventions == "lerobot":
        return [1.0 + index * (-1.0 / num_steps) for index in range(num_steps)]
    step = torch.tensor(-1.0 / num_steps, dtype=torch.float32)
    time = torch.tensor(1.0, dtype=torch.float32)
    times = []
    while time >= -step / 2:
        times.append(float(time))
        time = time + step
    return times


def euler_step(num_steps: int) -> float:
    """What a step multiplies v_t by."""
    return -1.0 / num_steps


def integrate(
    velocity: Callable[[Tensor, int], Tensor], noise: Tensor, num_steps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Euler from noise to clean in `num_steps` equal steps; `velocity(x, j)` is v_t at the clock's time j
    (`euler_times`).

    Yields (x before the step, v, x after the step) of each step; the last x is the clean sample.
    """
    x = noise
    step = euler_step(num_steps)
    for index in range(num_steps):
        v = velocity(x, index)
        x_next = x + step * v
        yield x, v, x_next
        x = x_next


def time_embedding(time: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) float32: [sin, cos] of 2 pi t / period, periods geometric from 0.004 to 4, in float64."""
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64, device=time.device)
    period = MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction
    angle = time.double()[:, None] * (1.0 / period * 2 * math.pi)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()
