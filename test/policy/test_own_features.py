"""The observation's own features in the alignment suffix: who reads them, and what a missing camera leaves of them."""

from __future__ import annotations

import dataclasses

import torch
from builders import make_experience, make_inputs, make_model, make_noisy

from vla_align_ros.policy.inputs import ExperienceInput


def test_both_tasks_of_motion_read_them_and_perception_does_not() -> None:
    model = make_model()
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    own = experience.own_features.requires_grad_()
    noisy = make_noisy(inputs.state, experience)
    found = model.denoise_alignment(
        model.prefix_cache(inputs), inputs.state, experience, noisy, torch.full((3,), 0.7), model.make_peft_token(3)
    )
    for task, answer in found.items():
        (slope,) = torch.autograd.grad(answer[0].sum(), own, retain_graph=True, allow_unused=True)
        assert slope is not None
        assert bool(slope[0].any()) == (task != "perception"), task
        assert not slope[1:].any(), "another row's"


def test_a_model_that_is_not_given_them_has_no_weights_for_them() -> None:
    model = make_model(alignment__own_features=False)
    assert not [name for name in model.state_dict() if "own_feature" in name]
    inputs = make_inputs(model.architecture)
    experience = make_experience(model.architecture, inputs)
    assert experience.own_features.shape[1] == 0
    noisy = make_noisy(inputs.state, experience)
    model.denoise_alignment(
        model.prefix_cache(inputs), inputs.state, experience, noisy, torch.full((3,), 0.7), model.make_peft_token(3)
    )


def test_rows_are_picked_and_joined_again() -> None:
    model = make_model()
    whole = make_experience(model.architecture, make_inputs(model.architecture))
    again = ExperienceInput.joined([whole[:1], whole[1:]])
    for field in dataclasses.fields(ExperienceInput):
        assert torch.equal(getattr(again, field.name), getattr(whole, field.name)), field.name
