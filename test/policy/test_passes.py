"""One forward pass or several, with or without the cache, with or without E: the same numbers where they must be."""

from __future__ import annotations

import dataclasses
from typing import Any

import golden
import pytest
import torch
from builders import GOLDEN, make_experience, make_inputs, make_model, make_noisy, untame
from torch import Tensor

from vla_align_ros.policy import experts, flow, joint, pi0
from vla_align_ros.policy.config import Architecture
from vla_align_ros.policy.experts import PrefixCache
from vla_align_ros.policy.inputs import PolicyInput
from vla_align_ros.policy.joint import forward_joint
from vla_align_ros.policy.pi0 import Pi0

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
TIMES = torch.tensor([0.9, 0.5, 0.1])


def make_point(model: Pi0) -> tuple[PolicyInput, Any, dict[str, Tensor], Tensor]:
    """Inputs, experience, x_t of each task, x_t of the actions."""
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    return inputs, experience, make_noisy(inputs.state, experience), torch.randn(experience.actions.shape)


def valid(task: str, v: Tensor, experience: Any) -> Tensor:
    return v * experience.feature_masks[..., None] if task == "dynamics" else v


@pytest.mark.parametrize("with_e", [True, False])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("readout", ["tokens", "mean"])
@pytest.mark.parametrize("attention", ["one_way", "mutual"])
def test_one_joint_pass_equals_the_separate_ones(variant: str, with_e: bool, readout: str, attention: str) -> None:
    model = make_model(
        variant=variant, depth=3, alignment__dynamics_readout=readout, alignment__perception_attention=attention
    )
    inputs, experience, noisy, x_t = make_point(model)
    token = model.make_peft_token(3) if with_e else None
    actions, joint_tasks, finals = forward_joint(model, inputs, x_t, TIMES, experience, noisy, token)
    cache = model.prefix_cache(inputs)
    torch.testing.assert_close(actions, model.denoise(cache, inputs.state, x_t, TIMES, token), **CLOSE)
    alone = model.denoise_alignment(cache, inputs.state, experience, noisy, TIMES, token)
    assert joint_tasks.keys() == alone.keys() == noisy.keys()
    for task, v in alone.items():
        torch.testing.assert_close(valid(task, joint_tasks[task], experience), valid(task, v, experience), **CLOSE)
    assert len(finals) == 3


@pytest.mark.parametrize("state_tokens", [True, False])
@pytest.mark.parametrize("absent", ["dynamics", "inverse_dynamics"])
def test_a_tasks_answer_does_not_depend_on_whether_another_is_asked(absent: str, state_tokens: bool) -> None:
    model = make_model(depth=3, alignment__state_tokens=state_tokens)
    inputs, experience, noisy, _ = make_point(model)
    cache, token = model.prefix_cache(inputs), model.make_peft_token(3)
    everything = model.denoise_alignment(cache, inputs.state, experience, noisy, TIMES, token)
    fewer = {task: x_t for task, x_t in noisy.items() if task != absent}
    for task, v in model.denoise_alignment(cache, inputs.state, experience, fewer, TIMES, token).items():
        torch.testing.assert_close(valid(task, v, experience), valid(task, everything[task], experience), **CLOSE)


def test_the_joint_pass_gives_e_the_same_gradient() -> None:
    model = make_model(depth=3)
    inputs, experience, noisy, x_t = make_point(model)
    token = model.make_peft_token(3)

    def gradient(v: Tensor, tasks: dict[str, Tensor]) -> Tensor:
        total = v.pow(2).sum() + sum(valid(task, value, experience).pow(2).sum() for task, value in tasks.items())
        return torch.autograd.grad(total, model.peft_prefix_token)[0]

    v, tasks, _ = forward_joint(model, inputs, x_t, TIMES, experience, noisy, token)
    together = gradient(v, tasks)
    cache = model.prefix_cache(inputs)
    token = model.make_peft_token(3)
    apart = gradient(
        model.denoise(cache, inputs.state, x_t, TIMES, token),
        model.denoise_alignment(cache, inputs.state, experience, noisy, TIMES, token),
    )
    torch.testing.assert_close(together, apart, atol=1e-4 * float(apart.abs().max()), rtol=0)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_cache_serves_as_well_as_a_new_prefix_pass(variant: str) -> None:
    model = make_model(variant=variant)
    inputs, experience, noisy, x_t = make_point(model)
    token = model.make_peft_token(3)
    cache = model.prefix_cache(inputs)
    for _ in range(2):  # the cache is as good after its use as before
        assert torch.equal(
            model.denoise(cache, inputs.state, x_t, TIMES, token),
            model.denoise(model.prefix_cache(inputs), inputs.state, x_t, TIMES, token),
        )
        once = model.denoise_alignment(cache, inputs.state, experience, noisy, TIMES, token)
        again = model.denoise_alignment(model.prefix_cache(inputs), inputs.state, experience, noisy, TIMES, token)
        assert all(torch.equal(once[task], again[task]) for task in once)
    noise = torch.randn_like(x_t)
    assert torch.equal(model.sample_actions(inputs, noise, 3, cache=cache), model.sample_actions(inputs, noise, 3))


def test_rows_and_repeats_of_a_cache_are_those_of_the_inputs() -> None:
    model = make_model()
    inputs, _, _, x_t = make_point(model)
    index = torch.tensor([2, 0])
    picked = model.prefix_cache(inputs).rows(index)
    torch.testing.assert_close(
        model.denoise(picked, inputs.state[index], x_t[index], TIMES[index], None),
        model.denoise(model.prefix_cache(inputs[index]), inputs.state[index], x_t[index], TIMES[index], None),
        **CLOSE,
    )
    repeated = model.prefix_cache(inputs).repeat(2)
    assert torch.equal(repeated.pad_masks, model.prefix_cache(inputs).rows(torch.tensor([0, 0, 1, 1, 2, 2])).pad_masks)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_sampling_is_denoising_at_each_time_of_the_clock(variant: str) -> None:
    model = make_model(variant=variant)
    inputs, _, _, noise = make_point(model)
    token, cache = model.make_peft_token(3), model.prefix_cache(inputs)
    x = noise
    with torch.no_grad():
        for time in flow.euler_times(4):
            x = x - 0.25 * model.denoise(cache, inputs.state, x, torch.full((3,), time), token)
    torch.testing.assert_close(model.sample_actions(inputs, noise, 4), x, **CLOSE)
    torch.testing.assert_close(model.sample_actions(inputs, noise, 4, peft_token=token), x, **CLOSE)


# --- positions ---


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("rows", [1, 4])
def test_e_moves_nobodys_position(variant: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(variant=variant, peft_num_tokens=rows)
    inputs, experience, noisy, x_t = make_point(model)
    seen: list[Tensor] = []
    original = pi0.run

    def spy(streams: Any, position_ids: Tensor, *rest: Any, **named: Any) -> Any:
        seen.append(position_ids)
        return original(streams, position_ids, *rest, **named)

    for module in (pi0, joint):
        monkeypatch.setattr(module, "run", spy)

    def positions(token: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        seen.clear()
        cache = model.prefix_cache(inputs)
        model.denoise(cache, inputs.state, x_t, TIMES, token)
        model.denoise_alignment(cache, inputs.state, experience, noisy, TIMES, token)
        forward_joint(model, inputs, x_t, TIMES, experience, noisy, token)
        _, action, alignment, together = seen
        assert torch.equal(together, torch.cat([seen[0], action, alignment], dim=1))
        return seen[0], action, alignment

    prefix, action, alignment = positions(None)
    with_e = positions(model.make_peft_token(3))
    assert torch.equal(with_e[0], prefix)
    for before, after in ((action, with_e[1]), (alignment, with_e[2])):
        assert torch.equal(after[:, rows:], before)
        assert torch.equal(after[:, :rows], before[:, :1].expand(-1, rows))
    num_valid = torch.cat([*(mask[:, None].expand(-1, 4) for mask in inputs.image_masks), inputs.token_masks], 1).sum(1)
    assert torch.equal(action[:, 0], num_valid)


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_an_e_that_gets_no_attention_changes_nothing(variant: str) -> None:
    model = make_model(variant=variant, e_token_attention_bias=-1e9)
    inputs, _, _, noise = make_point(model)
    cache = model.prefix_cache(inputs)
    with_e = model.denoise(cache, inputs.state, noise, TIMES, model.make_peft_token(3))
    without = model.denoise(cache, inputs.state, noise, TIMES, None)
    torch.testing.assert_close(with_e, without, **CLOSE)
    seen = make_model(variant=variant, e_token_attention_bias=0.0)
    difference = seen.denoise(cache, inputs.state, noise, TIMES, seen.make_peft_token(3)) - without
    assert float(difference.detach().abs().max()) > 1e-3


# --- switched off is not there ---


def test_switched_off_equals_built_without_bit_for_bit() -> None:
    on, off = make_model(), make_model(use_peft_prefix_token=False)
    assert off.make_peft_token(3) is None
    own = {"peft_prefix_token", "e_token_attention_bias"}
    assert on.state_dict().keys() - off.state_dict().keys() == own
    assert all(torch.equal(value, on.state_dict()[key]) for key, value in off.state_dict().items())
    inputs, experience, _, noise = make_point(off)
    cache = on.prefix_cache(inputs)
    out = off.denoise(off.prefix_cache(inputs), inputs.state, noise, TIMES, off.make_peft_token(3))
    assert torch.equal(out, on.denoise(cache, inputs.state, noise, TIMES, None))
    del on.peft_prefix_token
    on.peft_prefix_token = None
    losses = [m(inputs, noise, experience, generator=torch.Generator().manual_seed(4))[1] for m in (off, on)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    assert torch.equal(off.sample_actions(inputs, noise, 3), on.sample_actions(inputs, noise, 3))


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_weights_that_never_saw_an_e_act_the_same_after_e_and_alignment_expert_are_added(variant: str) -> None:
    bare = golden.load(GOLDEN / variant)
    a = bare.architecture
    alignment = make_model().architecture.alignment
    assert alignment is not None
    sizes = dataclasses.replace(a.action_expert, width=48)
    grown_architecture: Architecture = dataclasses.replace(
        a, use_peft_prefix_token=True, peft_init="normal", alignment=dataclasses.replace(alignment, expert=sizes)
    )
    grown = Pi0(grown_architecture).eval()
    untame(grown)
    missing = grown.load_state_dict(bare.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith(("alignment.", "peft_prefix_token", "e_token_")) for key in missing.missing_keys)
    inputs = make_inputs(a)
    noise = torch.randn(3, a.action_horizon, a.action_dim)
    cache, grown_cache = bare.prefix_cache(inputs), grown.prefix_cache(inputs)
    for (k, v), (grown_k, grown_v) in zip(cache.key_values, grown_cache.key_values, strict=True):
        assert torch.equal(k, grown_k)
        assert torch.equal(v, grown_v)

    def left_out(model: Pi0, x: Tensor, time: float) -> Tensor:
        with torch.no_grad():
            return model.denoise(model.prefix_cache(inputs), inputs.state, x, torch.full((3,), time), None)

    x, grown_x = noise, noise
    for time in flow.euler_times(3):
        x, grown_x = x - left_out(bare, x, time) / 3, grown_x - left_out(grown, grown_x, time) / 3
        assert torch.equal(x, grown_x)
    without_e = Pi0(dataclasses.replace(grown_architecture, use_peft_prefix_token=False)).eval()
    without_e.load_state_dict(bare.state_dict(), strict=False)
    assert torch.equal(without_e.sample_actions(inputs, noise, 10), bare.sample_actions(inputs, noise, 10))


def test_only_one_stream_without_residuals_can_be_narrowed() -> None:
    model = make_model()
    token = torch.zeros(1, 1, model.architecture.vlm.width)
    streams = [experts.Stream(model.vlm, token, model.vlm.modulations(None)) for _ in range(2)]
    positions, mask, wanted = torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 1, 2, 2), torch.tensor([0])
    with pytest.raises(ValueError, match="one stream"):
        experts.run(streams, positions, mask, wanted=wanted)
    with pytest.raises(ValueError, match="without residuals"):
        experts.run(streams[:1], positions, mask, keep_residuals=True, wanted=wanted)


def test_prefixes_are_joined_with_tokens_that_nobody_sees_and_used_up() -> None:
    def part(rows: int, tokens: int) -> PrefixCache:
        kv = [(torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)) for _ in range(3)]
        return PrefixCache(kv, torch.ones(rows, tokens, dtype=torch.bool))

    short, long = part(2, 3), part(1, 5)
    were = [list(one.key_values) for one in (short, long)]
    whole = PrefixCache.joined([short, long])
    assert whole.pad_masks.tolist() == [[True] * 3 + [False] * 2] * 2 + [[True] * 5]
    for layer, pair in enumerate(whole.key_values):
        for which, joined in enumerate(pair):
            assert torch.equal(joined[:2, :, :3], were[0][layer][which])
            assert torch.equal(joined[2:], were[1][layer][which])
    assert len(whole.key_values) == 3
    assert short.key_values == long.key_values == []
