"""What helps a small model to train."""

from dataclasses import replace

import torch
from builders import make_experience, make_inputs, make_model

from vla_align_ros.training.aids import Aids


def test_the_regressed_chunk_is_judged_without_its_padding() -> None:
    model = make_model()
    aids, inputs = Aids(model, 0), make_inputs(model.architecture)
    model(inputs, torch.zeros(3, 5, 3), generator=torch.Generator().manual_seed(0))
    actions, mask = torch.zeros(3, 5, 3), torch.tensor([True, True, False])

    def loss(like: torch.Tensor) -> float:
        return float(aids(like, mask, torch.zeros(3, 0, 2), inputs.token_masks, 1)["regression_loss"].detach())

    expected = aids.chunk(aids.hidden["e_row"][:, 0]).unflatten(1, (5, 3))[..., :2].pow(2).mean()
    assert loss(actions) == float(expected.detach())
    assert loss(actions + torch.tensor([0.0, 0.0, 9.0])) == loss(actions)
    assert loss(actions + torch.tensor([0.0, 9.0, 0.0])) > loss(actions)


def test_a_point_outside_its_picture_teaches_nothing() -> None:
    """Nothing in the picture says where it is."""
    model = make_model()
    aids, inputs = Aids(model, 2), make_inputs(model.architecture)
    widths = model.architecture.action_expert.width, model.architecture.vlm.width
    aids.hidden = {name: torch.randn(3, 9, width) for name, width in zip(("e_row", "prefix"), widths, strict=True)}

    def loss(first: tuple[float, float], second: tuple[float, float]) -> float:
        points = torch.tensor([[first, second]]).repeat(3, 1, 1)
        found = aids(torch.zeros(3, 5, 3), torch.ones(3, dtype=torch.bool), points, inputs.token_masks, 1)
        return float(found["keypoint_loss"].detach())

    assert loss((0.2, 0.7), (0.5, 1.8)) == loss((0.2, 0.7), (-0.9, 0.5))
    assert loss((0.2, 0.7), (0.5, 0.5)) != loss((0.2, 0.7), (0.9, 0.5))
    assert loss((2.0, 0.7), (-0.9, 0.5)) == 0.0


def test_points_are_read_where_the_policy_s_own_prompt_ends() -> None:
    """pi0.5 aligns with a prefix of its own, whose prompt is shorter: it does not hold the state."""
    model = make_model(variant="pi05").train()
    aids, inputs, other = Aids(model, 2), make_inputs(model.architecture), make_inputs(model.architecture, seed=5)
    other = replace(other, tokens=other.tokens[:, :6], token_masks=other.token_masks[:, :6])
    aids.begin()
    model.prefix_cache(inputs)
    policy_prefix = aids.hidden["prefix"]
    for _ in range(2):
        aids.begin()
        experience, generator = make_experience(model.architecture, inputs), torch.Generator().manual_seed(0)
        model(inputs, torch.zeros(3, 5, 3), experience, alignment_inputs=other, generator=generator)
        assert torch.equal(aids.hidden["prefix"], policy_prefix)
    points = torch.rand(3, 2, 2)
    found = aids(torch.zeros(3, 5, 3), torch.ones(3, dtype=torch.bool), points, inputs.token_masks, 1)["keypoint_loss"]
    images = policy_prefix.shape[1] - inputs.tokens.shape[1]
    last = torch.stack(
        [row[images + int(n) - 1] for row, n in zip(policy_prefix, inputs.token_masks.sum(1), strict=True)]
    )
    expected = (aids.points(last).unflatten(1, (-1, 2)) - (points - 0.5) * 4.0).pow(2).mean()
    torch.testing.assert_close(found, expected)
