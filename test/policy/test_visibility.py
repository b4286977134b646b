"""Who sees whom, proved by gradients: the derivative of a block's output by another block's embeddings.

Both ways through the network are tried: one joint pass, and each expert alone against the cached prefix.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import TASKS, make_experience, make_inputs, make_model, make_noisy
from torch import Tensor

from vla_align_ros.policy import experts, pi0
from vla_align_ros.policy.joint import forward_joint
from vla_align_ros.policy.pi0 import Pi0

Block = tuple[str, int, int]  # stream, start, end

SEES: dict[str, tuple[str, ...]] = {
    "prefix": ("prefix",),
    "e_action": ("prefix", "e_action"),
    "state": ("prefix", "e_action", "state"),
    "actions": ("prefix", "e_action", "state", "actions"),
    "e_alignment": ("prefix", "e_alignment"),
    "perception": ("prefix", "e_alignment", "perception"),
    "dynamics": ("prefix", "e_alignment", "perception", "dynamics"),
    "inverse_dynamics": ("prefix", "e_alignment", "perception", "inverse_dynamics"),
}
"""Rows ask, columns answer. E stands once in each suffix; everything that isn't listed must be exactly zero."""


@dataclasses.dataclass
class Pass:
    """One pass through the network: the embeddings that went in, what came out after the final norms, their padding."""

    embeddings: dict[str, Tensor]
    outputs: dict[str, Tensor]
    pads: dict[str, Tensor]
    blocks: dict[str, Block]


def run_pass(model: Pi0, mode: str, tasks: tuple[str, ...] = TASKS, time: float = 0.4) -> Pass:
    """`mode`: joint or separate. The embeddings of each stream become leaves with a gradient."""
    embeddings: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    pads: dict[str, Tensor] = {}
    ranges: dict[str, tuple[int, int]] = {}

    def leaf(stream: str, embs: Tensor, masks: Tensor) -> Tensor:
        embeddings[stream] = embs.detach().requires_grad_(True)
        pads[stream] = masks
        return embeddings[stream]

    def wrapped(stream: str, embed: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = embed(*arguments)
            if isinstance(result, tuple):
                return leaf(stream, result[0], result[1]), *result[1:]
            ranges.update(result.task_ranges)
            return dataclasses.replace(result, embs=leaf(stream, result.embs, result.pad_masks))

        return call

    def keep(stream: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, result: Any) -> None:
            outputs[stream] = result[0]

        return hook

    def whole(*arguments: Any, wanted: Tensor | None = None, **named: Any) -> Any:
        finals, key_values = experts.run(*arguments, **named)  # the table asks every token, used or not
        return (finals if wanted is None else [finals[0][:, wanted]]), key_values

    streams = {"prefix": model.vlm, "action": model.action_expert}
    if model.alignment is not None:
        streams["alignment"] = model.alignment.expert
    hooks = [expert.norm.register_forward_hook(keep(stream)) for stream, expert in streams.items()]
    model.embed_prefix = wrapped("prefix", model.embed_prefix)  # type: ignore[method-assign]
    model.embed_suffix = wrapped("action", model.embed_suffix)  # type: ignore[method-assign]
    model.embed_alignment_suffix = wrapped("alignment", model.embed_alignment_suffix)  # type: ignore[method-assign]

    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    noisy = make_noisy(inputs.state, experience, tasks)
    times, token = torch.full((3,), time), model.make_peft_token(3)
    x_t = torch.randn(3, model.architecture.action_horizon, model.architecture.action_dim)
    try:
        pi0.run = whole
        if mode == "joint":
            forward_joint(model, inputs, x_t, times, experience, noisy, token)
        else:
            cache = model.prefix_cache(inputs)
            model.denoise(cache, inputs.state, x_t, times, token)
            model.denoise_alignment(cache, inputs.state, experience, noisy, times, token)
    finally:
        pi0.run = experts.run
        for hook in hooks:
            hook.remove()
        for name in ("embed_prefix", "embed_suffix", "embed_alignment_suffix"):
            delattr(model, name)
    return Pass(embeddings, outputs, pads, _blocks(model, embeddings, ranges))


def _blocks(model: Pi0, embeddings: dict[str, Tensor], ranges: dict[str, tuple[int, int]]) -> dict[str, Block]:
    rows = model.architecture.peft_num_tokens
    length = embeddings["action"].shape[1]
    first_action = length - model.architecture.action_horizon
    blocks: dict[str, Block] = {
        "prefix": ("prefix", 0, embeddings["prefix"].shape[1]),
        "e_action": ("action", 0, rows),
        "state": ("action", rows, first_action),
        "actions": ("action", first_action, length),
        "e_alignment": ("alignment", 0, rows),
        **{task: ("alignment", *ranges[task]) for task in ranges},
    }
    return {name: block for name, block in blocks.items() if block[1] < block[2]}


def influence(found: Pass, asking: str) -> dict[str, float]:
    """Largest |d output of `asking` / d embedding| for each block; the outputs of padding do not count."""
    stream, start, end = found.blocks[asking]
    output = found.outputs[stream][:, start:end] * found.pads[stream][:, start:end, None]
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
    gradients = torch.autograd.grad(
        (output * weights).sum(), list(found.embeddings.values()), retain_graph=True, allow_unused=True
    )
    by_stream = dict(zip(found.embeddings, gradients, strict=True))
    return {
        name: 0.0 if by_stream[key] is None else float(by_stream[key][:, begin:stop].abs().max())
        for name, (key, begin, stop) in found.blocks.items()
    }


def check_table(found: Pass) -> None:
    for asking in found.blocks:
        for answering, value in influence(found, asking).items():
            if answering in SEES[asking]:
                assert value > 1e-6, f"{asking} must see {answering}"
            else:
                assert value == 0.0, f"{asking} must not see {answering}, the derivative is {value}"


@pytest.mark.parametrize("mode", ["joint", "separate"])
@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_the_table_of_who_sees_whom(variant: str, depth: int, mode: str) -> None:
    model = make_model(variant=variant, depth=depth)
    found = run_pass(model, mode)
    assert set(found.blocks) == set(SEES) - ({"state"} if variant == "pi05" else set())
    check_table(found)


@pytest.mark.parametrize("tasks", [TASKS[:1], TASKS[1:], TASKS[2:], TASKS[::2]])
def test_the_table_holds_with_some_tasks_switched_off(tasks: tuple[str, ...]) -> None:
    check_table(run_pass(make_model(), "separate", tasks))
    check_table(run_pass(make_model(alignment__state_tokens=False), "joint", tasks))


@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_nobody_sees_padding(mode: str) -> None:
    found = run_pass(make_model(), mode)
    output = sum((out * found.pads[stream][..., None]).pow(2).sum() for stream, out in found.outputs.items())
    gradients = torch.autograd.grad(output, list(found.embeddings.values()))
    for (stream, masks), gradient in zip(found.pads.items(), gradients, strict=True):
        assert not gradient[~masks].any(), f"somebody reads the padding of the {stream}"
    assert not all(bool(found.pads[stream].all()) for stream in ("prefix", "alignment"))


def leaks(depth: int, attention: str) -> dict[str, float]:
    """Largest derivative of each task's prediction by its own answer, which the batch holds elsewhere."""
    model = make_model(depth=depth, alignment__perception_attention=attention)
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    noisy = make_noisy(inputs.state, experience)
    answers = {"perception": inputs.state, "dynamics": experience.features, "inverse_dynamics": experience.actions}
    answers = {task: answer.clone().requires_grad_(True) for task, answer in answers.items()}
    given = dataclasses.replace(experience, actions=answers["inverse_dynamics"], features=answers["dynamics"])
    cache = model.prefix_cache(inputs)
    times = torch.full((3,), 0.5)
    v = model.denoise_alignment(cache, answers["perception"], given, noisy, times, model.make_peft_token(3))
    found = {}
    for task, answer in answers.items():
        seen = v[task] * (experience.feature_masks[..., None] if task == "dynamics" else 1.0)
        (gradient,) = torch.autograd.grad(seen.pow(2).sum(), answer, retain_graph=True, allow_unused=True)
        found[task] = 0.0 if gradient is None else float(gradient.abs().max())
    return found


@pytest.mark.parametrize("depth", [1, 4])
def test_no_task_sees_its_answer(depth: int) -> None:
    assert leaks(depth, "one_way") == dict.fromkeys(TASKS, 0.0)


def test_mutual_perception_leaks_the_answers(record_property: Callable[[str, object], None]) -> None:
    found = leaks(4, "mutual")
    for task, value in found.items():
        print(f"perception_attention: mutual, depth 4: d {task} / d its answer = {value:.2e}")
        record_property(f"leak_{task}", value)
        assert value > 1e-4, f"mutual was expected to leak the answer of {task}"


def test_mutual_perception_needs_two_layers_to_leak_to_the_other_tasks() -> None:
    found = leaks(1, "mutual")
    assert found["perception"] > 1e-4  # it looks at the clean state itself
    assert found["dynamics"] == found["inverse_dynamics"] == 0.0


def test_mutual_joins_perception_to_both_tasks_and_nothing_else() -> None:
    found = run_pass(make_model(depth=1, alignment__perception_attention="mutual"), "separate")
    asking = influence(found, "perception")
    assert min(asking["dynamics"], asking["inverse_dynamics"], asking["perception"]) > 1e-6
    assert influence(found, "dynamics")["inverse_dynamics"] == influence(found, "inverse_dynamics")["dynamics"] == 0.0
    assert influence(found, "e_alignment")["perception"] == 0.0
