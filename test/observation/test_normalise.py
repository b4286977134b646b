from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_align_ros.observation.normalise import (
    Normaliser,
    NormMode,
    NormStats,
    NormStatsError,
    load_norm_stats,
    save_norm_stats,
)

STATS = NormStats(
    mean=np.array([1, -2, 0.5], np.float32),
    std=np.array([0.5, 2, 0], np.float32),
    q01=np.array([-1, -4, 0.5], np.float32),
    q99=np.array([3, 1, 0.5], np.float32),
)
MODES: tuple[NormMode, ...] = ("zscore", "quantiles")
vectors = hnp.arrays(np.float32, (4, 3), elements=st.floats(-10, 10, width=32))


def test_zscore_is_openpis_formula() -> None:
    x = np.array([2, 0, 0.5], np.float32)
    expected = (x - STATS.mean) / (STATS.std + np.float32(1e-6))
    np.testing.assert_array_equal(Normaliser(STATS, "zscore").normalise(x), expected)
    np.testing.assert_allclose(expected, [1 / 0.500001, 2 / 2.000001, 0], rtol=1e-6)


def test_quantiles_are_openpis_formula() -> None:
    low, high = np.array([-1, -4, 0.5]), np.array([3, 1, 0.5])
    x = np.array([3, -4, 0.5])
    normalised = Normaliser(STATS, "quantiles").normalise(x.astype(np.float32))
    np.testing.assert_allclose(normalised, (x - low) / (high - low + 1e-6) * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(normalised, [1, -1, -1], atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@given(x=vectors)
def test_denormalise_undoes_normalise(mode: NormMode, x: np.ndarray) -> None:
    normaliser = Normaliser(STATS, mode)
    np.testing.assert_allclose(normaliser.denormalise(normaliser.normalise(x)), x, atol=3e-5)


@pytest.mark.parametrize("mode", MODES)
@given(x=vectors)
def test_torch_gives_what_numpy_gives(mode: NormMode, x: np.ndarray) -> None:
    normaliser = Normaliser(STATS, mode)
    for convert in (normaliser.normalise, normaliser.denormalise):
        came = convert(torch.from_numpy(x))
        assert came.dtype == torch.float32
        np.testing.assert_allclose(came.numpy(), convert(x), rtol=1e-6, atol=1e-6)


def test_gradients_pass_through_torch() -> None:
    y = torch.zeros(3, requires_grad=True)
    Normaliser(STATS, "zscore").denormalise(y).sum().backward()
    assert y.grad is not None
    np.testing.assert_allclose(y.grad.numpy(), STATS.std + 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_short_vectors_use_the_first_statistics(mode: NormMode) -> None:
    normaliser = Normaliser(STATS, mode)
    x = np.array([2, 3, 4], np.float32)
    np.testing.assert_array_equal(normaliser.normalise(x[:2]), normaliser.normalise(x)[:2])
    np.testing.assert_array_equal(normaliser.denormalise(x[:2]), normaliser.denormalise(x)[:2])


def test_padding_comes_back_as_openpi_gives_it() -> None:
    padded = np.array([0, 0, 0, 0, 7], np.float32)
    assert Normaliser(STATS, "quantiles").denormalise(padded)[3:].tolist() == [0, 7]
    np.testing.assert_allclose(Normaliser(STATS, "zscore").denormalise(padded)[3:], [0, 7 * (1 + 1e-6)], rtol=1e-7)
    np.testing.assert_array_equal(Normaliser(STATS, "zscore").denormalise(padded)[:3], STATS.mean)


def test_a_vector_longer_than_the_statistics_is_refused() -> None:
    with pytest.raises(NormStatsError, match="3 dimensions, the vector 4"):
        Normaliser(STATS, "zscore").normalise(np.zeros(4, np.float32))


def test_quantiles_without_quantiles_are_refused() -> None:
    with pytest.raises(NormStatsError, match="q01"):
        Normaliser(NormStats(STATS.mean, STATS.std), "quantiles")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(NormStatsError, match="minmax"):
        Normaliser(STATS, "minmax")  # type: ignore[arg-type]


def test_statistics_survive_the_file(tmp_path: Path) -> None:
    plain = NormStats(STATS.mean / np.float32(3), STATS.std)
    save_norm_stats(tmp_path / "norm_stats.json", {"state": STATS, "actions": plain})
    loaded = load_norm_stats(tmp_path / "norm_stats.json")
    for name, stats in (("state", STATS), ("actions", plain)):
        for field in ("mean", "std", "q01", "q99"):
            np.testing.assert_array_equal(getattr(loaded[name], field), getattr(stats, field))
    assert loaded["actions"].q01 is None


GOOD: dict[str, Any] = {"mean": [0.0, 1.0], "std": [1.0, 1.0], "q01": None, "q99": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.0, float("nan")]}, r"state\.mean: finite"),
        ({"std": [1.0]}, r"state\.std: one number per dimension"),
        ({"std": [1.0, -1.0]}, r"state\.std: must not be negative"),
        ({"mean": []}, r"state\.mean: one number per dimension"),
        ({"mean": [[0.0, 1.0]]}, r"state\.mean: one number per dimension"),
        ({"mean": ["a", "b"]}, r"state\.mean is no list of numbers"),
        ({"mean": None}, "state"),
        ({"q01": [0.0, 0.0]}, "both or none"),
        ({"q01": [0.0, 2.0], "q99": [1.0, 1.0]}, "must not exceed"),
        ({"q01": [0.0, 2.0], "q99": [1.0, float("inf")]}, r"q99: finite"),
    ],
)
def test_bad_statistics_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": {**GOOD, **change}, "actions": GOOD}}))
    with pytest.raises(NormStatsError, match=message) as caught:
        load_norm_stats(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"norm_stats": {"state": {}}}', '{"norm_stats": 3}', "\udcff"])
def test_an_unreadable_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(NormStatsError, match=r"norm_stats\.json"):
        load_norm_stats(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NormStatsError, match="nowhere"):
        load_norm_stats(tmp_path / "nowhere.json")
