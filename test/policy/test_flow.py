"""Flow matching: the distribution of t, the path, and that integration ends where the field leads."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from builders import make_experience, make_inputs, make_model

from vla_align_ros.policy import flow
from vla_align_ros.policy.losses import LossWeights
from vla_align_ros.policy.pi0 import Pi0


def test_t_has_openpis_distribution() -> None:
    time = flow.sample_time(20_000, torch.Generator().manual_seed(3))
    assert time.dtype == torch.float32
    assert float(time.min()) >= 0.001
    assert float(time.max()) <= 1.0
    beta = scipy.stats.beta(1.5, 1.0, loc=0.001, scale=0.999)
    assert scipy.stats.kstest(time.numpy(), beta.cdf).pvalue > 0.01
    other = scipy.stats.beta(1.0, 1.5, loc=0.001, scale=0.999)
    assert scipy.stats.kstest(time.numpy(), other.cdf).pvalue < 1e-6, "the test must see the wrong end of t"


def test_t_without_a_generator_is_random() -> None:
    assert not torch.equal(flow.sample_time(8), flow.sample_time(8))


def test_the_ends_of_the_path_are_noise_and_clean() -> None:
    clean, noise = torch.randn(2, 4, 3), torch.randn(2, 4, 3)
    torch.testing.assert_close(flow.interpolate(clean, noise, torch.ones(2)), noise)
    torch.testing.assert_close(flow.interpolate(clean, noise, torch.zeros(2)), clean)


def test_the_target_is_the_derivative_of_the_path() -> None:
    clean, noise, time = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([0.3, 0.8])
    slope = (flow.interpolate(clean, noise, time + 0.01) - flow.interpolate(clean, noise, time - 0.01)) / 0.02
    torch.testing.assert_close(flow.target_velocity(clean, noise), slope, atol=1e-4, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 3, 10, 50])
def test_the_true_field_leads_from_noise_to_the_clean_sample(num_steps: int) -> None:
    clean, noise = torch.randn(2, 4), torch.randn(2, 4)
    steps = list(flow.integrate(lambda x, j: flow.target_velocity(clean, noise), noise, num_steps))
    assert len(steps) == num_steps
    assert torch.equal(steps[0][0], noise)
    torch.testing.assert_close(steps[-1][2], clean, atol=1e-5, rtol=0)


def spied_draws(model: Pi0, monkeypatch: pytest.MonkeyPatch, action_draws: int = 1) -> dict[str, torch.Tensor]:
    """What `forward` drew: t and noise of the action loss, t and noise of each alignment task."""
    found: dict[str, torch.Tensor] = {}
    action_loss, alignment_losses = model.action_loss, model.alignment_losses

    def spy_action(cache, state, actions, noise, time, *rest):  # type: ignore[no-untyped-def]
        found.update(action_time=time, action=noise)
        return action_loss(cache, state, actions, noise, time, *rest)

    def spy_alignment(cache, state, experience, noise, time, token):  # type: ignore[no-untyped-def]
        found.update(alignment_time=time, **noise)
        return alignment_losses(cache, state, experience, noise, time, token)

    monkeypatch.setattr(model, "action_loss", spy_action)
    monkeypatch.setattr(model, "alignment_losses", spy_alignment)
    inputs = make_inputs(model.architecture, batch=64)
    experience = make_experience(model.architecture, inputs)
    with torch.no_grad():
        model.forward(inputs, experience.actions, experience, LossWeights(), action_draws=action_draws)
    return found


@pytest.mark.parametrize("action_draws", [1, 3])
def test_all_tasks_share_one_t_a_sample(action_draws: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spied_draws(make_model(), monkeypatch, action_draws)
    assert drawn["alignment_time"].shape == (64,)
    assert torch.equal(drawn["action_time"][::action_draws], drawn["alignment_time"])
    assert len(drawn["action_time"].unique()) == 64 * action_draws


def test_t_in_training_has_the_distribution_too(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spied_draws(make_model(), monkeypatch, action_draws=20)["action_time"]
    assert scipy.stats.kstest(drawn.numpy(), scipy.stats.beta(1.5, 1.0, loc=0.001, scale=0.999).cdf).pvalue > 0.01


def test_noise_is_standard_normal_and_independent_of_task_and_row(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spied_draws(make_model(), monkeypatch)
    noise = {name: drawn[name].flatten(1) for name in ("action", "perception", "dynamics", "inverse_dynamics")}
    for values in noise.values():
        assert scipy.stats.kstest(values.flatten().numpy(), scipy.stats.norm.cdf).pvalue > 0.01
        assert abs(float(torch.corrcoef(values[:2])[0, 1])) < 0.9
    flat = [values.flatten()[:192] for values in noise.values()]  # the shortest of them
    correlation = torch.corrcoef(torch.stack(flat)) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.3
