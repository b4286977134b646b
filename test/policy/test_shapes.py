"""Sizes follow the architecture: E's rows, cameras, horizon, feature grid. Nothing is a constant of one robot."""

from __future__ import annotations

import pytest
import torch
from builders import CAMERAS, LOSSES, TASKS, make_experience, make_inputs, make_model, make_noisy

from vla_align_ros.policy.pi0 import Pi0

GRIDS = [(2, 1, 4), (2, 2, 5), (4, 2, 3), (4, 4, 1)]  # grid, cells, components


def suffix_lengths(model: Pi0, with_e: bool = True) -> tuple[int, int]:
    """Tokens in the action suffix and in the alignment suffix."""
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    token = model.make_peft_token(3) if with_e else None
    embs, pads, att = model.embed_suffix(inputs.state, experience.actions, torch.rand(3), token)
    assert pads.shape == embs.shape[:2]
    assert att.shape == embs.shape[1:2]
    suffix = model.embed_alignment_suffix(inputs.state, experience, make_noisy(inputs.state, experience), token)
    assert suffix.pad_masks.shape == suffix.embs.shape[:2]
    assert suffix.att_masks.shape == suffix.embs.shape[1:2]
    return embs.shape[1], suffix.embs.shape[1]


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
@pytest.mark.parametrize("rows", [1, 4])
def test_both_suffixes_grow_by_the_rows_of_e(variant: str, rows: int) -> None:
    model = make_model(variant=variant, peft_num_tokens=rows)
    with_e, without = suffix_lengths(model), suffix_lengths(model, with_e=False)
    assert (with_e[0] - without[0], with_e[1] - without[1]) == (rows, rows)
    assert without[0] == model.architecture.action_horizon + (variant == "pi0")


@pytest.mark.parametrize("num_cameras", [1, 2, 3])
@pytest.mark.parametrize("horizon", [1, 6])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("state_tokens", [True, False])
def test_task_ranges_follow_what_was_embedded(num_cameras: int, horizon: int, rows: int, state_tokens: bool) -> None:
    for grid, cells, components in GRIDS:
        model = make_model(
            cameras=list(CAMERAS[:num_cameras]),
            action_horizon=horizon,
            peft_num_tokens=rows,
            alignment__state_tokens=state_tokens,
            alignment__features__grid=grid,
            alignment__features__cells=cells,
            alignment__features__components=components,
        )
        inputs = make_inputs(model.architecture)
        experience = make_experience(model.architecture, inputs)
        noisy = make_noisy(inputs.state, experience)
        suffix = model.embed_alignment_suffix(inputs.state, experience, noisy, model.make_peft_token(3))
        features = num_cameras * cells**2
        task_length = state_tokens + horizon + features
        assert suffix.task_ranges == {
            "perception": (rows, rows + 1),
            "dynamics": (rows + 1, rows + 1 + task_length),
            "inverse_dynamics": (rows + 1 + task_length, rows + 1 + 2 * task_length),
        }
        assert suffix.embs.shape == (3, rows + 1 + 2 * task_length, 32)
        token_dim = components * (grid // cells) ** 2
        assert experience.features.shape == (3, features, token_dim)
        v = model.denoise_alignment(model.prefix_cache(inputs), inputs.state, experience, noisy, torch.rand(3), None)
        assert {task: tuple(value.shape) for task, value in v.items()} == {
            "perception": (3, 3),
            "dynamics": (3, features, token_dim),
            "inverse_dynamics": (3, horizon, 3),
        }


@pytest.mark.parametrize("tasks", [TASKS[:1], TASKS[1:2], TASKS[2:], TASKS[::2], TASKS[1:]])
def test_only_the_tasks_that_are_asked_for_are_embedded(tasks: tuple[str, ...]) -> None:
    model = make_model()
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    noisy = make_noisy(inputs.state, experience, tasks)
    suffix = model.embed_alignment_suffix(inputs.state, experience, noisy, model.make_peft_token(3))
    assert tuple(suffix.task_ranges) == tasks
    start = suffix.num_e_rows
    for begin, end in suffix.task_ranges.values():
        assert begin == start
        start = end
    assert start == suffix.embs.shape[1]


@pytest.mark.parametrize("readout", ["tokens", "mean"])
@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_forward_gives_the_four_losses(readout: str, variant: str) -> None:
    model = make_model(alignment__dynamics_readout=readout, variant=variant)
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    total, parts = model(inputs, experience.actions, experience)
    assert tuple(parts) == LOSSES
    assert all(loss.shape == () and bool(torch.isfinite(loss)) for loss in (total, *parts.values()))


@pytest.mark.parametrize("readout", ["tokens", "mean"])
@pytest.mark.parametrize("with_e", [True, False])
@pytest.mark.parametrize("tasks", [TASKS, TASKS[1:], TASKS[2:]])
def test_each_task_is_read_out_from_its_own_tokens(readout: str, with_e: bool, tasks: tuple[str, ...]) -> None:
    model = make_model(alignment__dynamics_readout=readout, action_horizon=4)
    assert model.alignment is not None
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    noisy = make_noisy(inputs.state, experience, tasks)
    suffix = model.embed_alignment_suffix(inputs.state, experience, noisy, model.make_peft_token(3) if with_e else None)
    hidden = torch.randn(suffix.embs.shape)
    found = model.alignment.read_out(hidden[:, suffix.read], suffix, experience)
    start = 2 * with_e  # [E] [perception] [state, 4 actions, 8 features] [state, 8 features, 4 actions]
    expected = {}
    if "perception" in tasks:
        expected["perception"] = model.alignment.perception_head(hidden[:, start])
        start += 1
    if "dynamics" in tasks:
        if readout == "tokens":
            expected["dynamics"] = model.alignment.dynamics_head(hidden[:, start + 5 : start + 13])
        else:
            valid = torch.cat([torch.ones(3, 5), experience.feature_masks.float()], dim=1)[..., None]
            mean = (hidden[:, start : start + 13] * valid).sum(1) / valid.sum(1)
            expected["dynamics"] = model.alignment.dynamics_head(mean).reshape(3, 8, 5)
        start += 13
    expected["inverse_dynamics"] = model.alignment.inverse_dynamics_head(hidden[:, start + 9 : start + 13])
    assert found.keys() == expected.keys()
    for task, value in expected.items():
        torch.testing.assert_close(found[task], value)


def test_both_ways_to_initialise_e() -> None:
    assert not make_model(peft_init="zeros").peft_prefix_token.any()
    normal = make_model(peft_init="normal", peft_num_tokens=4).peft_prefix_token
    assert normal.shape == (4, 32)
    assert 0.4 < float(normal.detach().std()) < 0.6
    assert not torch.equal(normal, make_model(seed=1, peft_init="normal", peft_num_tokens=4).peft_prefix_token)


def test_the_bias_on_attention_to_e_starts_as_configured() -> None:
    assert Pi0(make_model().architecture).e_token_attention_bias.item() == -4.0
    assert Pi0(make_model(e_token_attention_bias=0.5).architecture).e_token_attention_bias.item() == 0.5


def test_a_model_without_an_alignment_expert_says_so() -> None:
    model = make_model(alignment=None)
    inputs = make_inputs(model.architecture)
    total, parts = model(inputs, torch.randn(3, 5, 3))
    assert tuple(parts) == ("action_loss",)
    assert torch.equal(total, parts["action_loss"])
    with pytest.raises(ValueError, match="no alignment expert"):
        model.embed_alignment_suffix(inputs.state, None, {}, None)


def test_sampling_needs_a_step() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        model.sample_actions(make_inputs(model.architecture), torch.randn(3, 5, 3), 0)
