"""What helps a small model to train."""

import torch
from builders import make_inputs, make_model

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
