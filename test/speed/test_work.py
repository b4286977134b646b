"""What is counted is what there is to compute, and a random input has the shapes of a real one."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn import functional

from vla_align_ros.alignment.losses import ExperienceLosses
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.speed import measure
from vla_align_ros.speed.sizes import VARIANTS, Variant, architecture, network
from vla_align_ros.speed.work import count

FLOAT = 4  # bytes


def test_products_and_attention_are_counted_and_nothing_else() -> None:
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert vars(count(lambda: a @ b)) == {"flops": 2 * 3 * 5 * 7, "bytes": FLOAT * (15 + 35 + 21)}
    assert count(lambda: (a + 1).relu()).flops == 0
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 6, 8)
    attended = count(lambda: functional.scaled_dot_product_attention(q, k, k))
    assert attended.flops == 2 * 2 * (2 * 4 * 6 * 8)
    assert attended.bytes >= FLOAT * (q.numel() + 2 * k.numel() + q.numel())
    x = torch.zeros(3, 7)
    assert count(lambda: x.addmm_(a, b)).flops == count(lambda: a @ b).flops
    expanded = torch.randn(1, 5).expand(3, 5)
    assert count(lambda: expanded @ b).bytes == FLOAT * (5 + 35 + 21), "an expanded row is read once"


def test_a_gradient_costs_a_product_for_each_input_that_has_one() -> None:
    weight, x = torch.randn(5, 7), torch.randn(3, 5, requires_grad=True)
    assert count(lambda: torch.autograd.grad((x @ weight).sum(), x)).flops == 2 * count(lambda: x @ weight).flops


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_network_without_weights_has_the_work_of_one_with_them(variant: Variant) -> None:
    sizes, counted = architecture("golden", variant), {}
    for device in ("cpu", "meta"):
        model = network(sizes, device)
        limit = measure.Peak(1e12, 1e11)
        parts = measure.sampling(measure.plan_of(model, 3), 1, limit) | measure.aligning(model, 4, 1, limit)
        counted[device] = {name: (part["flops"], part["bytes"]) for name, part in parts.items()}
        sampled = counted[device].pop("sample_actions")
        alone = [counted[device][name] for name in ("vision", "prefix", "denoising")]
        assert sampled == tuple(map(sum, zip(*alone, strict=True)))
        assert ("share" in parts["vision"]) == (device == "cpu")
    flops = {device: {name: part[0] for name, part in parts.items()} for device, parts in counted.items()}
    for name in ("vision", "prefix", "denoising", "prefix of a row"):
        assert flops["meta"][name] == pytest.approx(flops["cpu"][name], rel=0.02), name


def test_the_memory_of_an_alignment_is_what_its_prefixes_take() -> None:
    model = network(architecture("golden", "pi0"), "cpu")
    losses = ExperienceLosses.of_inputs(model, *measure.random_inputs(model, 6), LossWeights())
    assert measure.aligning_mb(model, 6) == pytest.approx(6 * losses.bytes_per_experience / 1e6)
    plan = measure.plan_of(model, 2)
    assert 2 * plan.keys.nbytes / 1e6 < measure.sampling_mb(plan) < 5 * measure.weights_mb(model)
    assert measure.sampling_mb(measure.plan_of(network(model.architecture, "meta"), 2)) == measure.sampling_mb(plan)


def test_the_limit_is_the_slower_one_of_computing_and_copying() -> None:
    limit = measure.Peak(flops_per_s=1e9, bytes_per_s=1e8)
    assert limit.limit_ms(measure.Work(flops=10**6, bytes=10)) == pytest.approx(1.0)
    assert limit.limit_ms(measure.Work(flops=10, bytes=10**6)) == pytest.approx(10.0)


@pytest.mark.parametrize(("threads", "is_wall"), [(1, False), (2, True)])
def test_cpu_time_is_taken_for_the_time_of_a_call_with_one_thread_alone(threads: int, is_wall: bool) -> None:
    """Several threads add theirs up, so that a machine with many would seem slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ((wall_s, own_s),) = measure.timings(lambda: time.sleep(0.05), torch.device("cpu"), 1)
    finally:
        torch.set_num_threads(before)
    assert wall_s >= 0.05
    assert (own_s >= 0.05) == is_wall
