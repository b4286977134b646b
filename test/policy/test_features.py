"""DINO features: pooled, projected, whitened, folded into one token a cell."""

from __future__ import annotations

import pytest
import torch
from builders import architecture, make_inputs
from torch import Tensor

from vla_align_ros.policy.features import FeatureExtractor


def make_features(grid: int = 4, cells: int = 2, components: int = 3) -> FeatureExtractor:
    a = architecture(
        alignment__features__grid=grid, alignment__features__cells=cells, alignment__features__components=components
    )
    assert a.alignment is not None
    return FeatureExtractor(a.alignment.features).eval()


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_fitted_features_are_white() -> None:
    features = make_features(components=5)
    features.fit(pictures(64))
    tokens = features.tokens(pictures(64))
    numbers = tokens.unflatten(2, (-1, 5)).flatten(0, 2)  # one row a patch
    torch.testing.assert_close(numbers.mean(0), torch.zeros(5), atol=1e-2, rtol=0)
    covariance = torch.cov(numbers.T)
    assert float((covariance - covariance.diag().diag()).abs().max()) < 2e-2
    assert (covariance.diag() > 0.8).all()
    assert (covariance.diag() < 1.05).all()


def test_a_directions_sign_does_not_depend_on_who_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    features, others, eigh = make_features(components=5), make_features(components=5), torch.linalg.eigh
    others.load_state_dict(features.state_dict())
    features.fit(pictures(64))
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    others.fit(pictures(64))
    assert torch.equal(features.components, others.components)


def test_the_components_are_the_directions_of_largest_variance() -> None:
    features = make_features(components=16)
    features.fit(pictures(64))
    assert (features.scale.diff() <= 1e-4).all()
    torch.testing.assert_close(features.components.T @ features.components, torch.eye(16), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("grid", "cells"), [(4, 2), (4, 4), (4, 1), (2, 2)])
def test_a_token_holds_the_patches_of_its_cell(grid: int, cells: int) -> None:
    features = make_features(grid, cells)
    features.fit(pictures(16))
    whitened = ((features.patches(pictures(2)) - features.mean) @ features.components) / features.scale
    maps = whitened.unflatten(1, (grid, grid))
    tokens = features.tokens(pictures(2))
    inner = grid // cells
    assert tokens.shape == (2, cells**2, 3 * inner**2)
    for row in range(cells):
        for column in range(cells):
            cell = maps[:, row * inner : (row + 1) * inner, column * inner : (column + 1) * inner]
            torch.testing.assert_close(tokens[:, row * cells + column], cell.flatten(1))


def test_patches_are_averages_of_dinos(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, coarse = make_features(4, 2), make_features(2, 2)
    coarse.load_state_dict(fine.state_dict())
    maps = fine.patches(pictures(1)).unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(coarse.patches(pictures(1)), maps, atol=1e-5, rtol=0)


def test_other_image_sizes_are_scaled() -> None:
    features = make_features()
    large = torch.nn.functional.interpolate(pictures(1), (32, 32), mode="nearest")
    assert features.tokens(large).shape == features.tokens(pictures(1)).shape


def test_cameras_come_in_order_and_missing_ones_are_masked() -> None:
    features, inputs = make_features(), make_inputs(architecture())
    tokens, masks = features(inputs)
    assert tokens.shape == (3, 8, 12)
    torch.testing.assert_close(tokens[:, :4], features.tokens(inputs.images[0]))
    torch.testing.assert_close(tokens[:, 4:], features.tokens(inputs.images[1]))
    assert masks.tolist() == [[True] * 8, [True] * 4 + [False] * 4, [True] * 4 + [False] * 4]
    assert not tokens.requires_grad
