"""Pooling against torch's adaptive pooling, and channel means."""

from __future__ import annotations

import pytest
import torch

from captum_kd.functional.pooling import centered, channel_mean, pool_activations
from tests.functional.test_cam import normal, plain_pool


@pytest.mark.parametrize(
    ("spatial", "grid"), [((5, 7), 3), ((6, 6), 2), ((8,), 5), ((4, 3, 5), 3), ((4, 4), 4)]
)
def test_pooling(spatial: tuple[int, ...], grid: int) -> None:
    activations = normal(2, 3, *spatial, seed=0)
    torch.testing.assert_close(pool_activations(activations, grid), plain_pool(activations, grid))


@pytest.mark.parametrize("grid", [0, -1, 6])
def test_pooling_to_a_grid_that_does_not_fit(grid: int) -> None:
    with pytest.raises(ValueError, match=rf"between 1 and .* got {grid} for .* \(2, 3, 5, 7\)"):
        pool_activations(torch.ones(2, 3, 5, 7), grid)


def test_channel_mean_weighs_samples_not_batches() -> None:
    activations = normal(7, 3, 4, 5, seed=0)
    mean = channel_mean([activations[:5], activations[5:]])
    torch.testing.assert_close(mean, activations.mean(dim=(0, 2, 3)))


def test_centred_activations_have_no_mean_or_lack_the_given_one() -> None:
    activations = normal(7, 3, 4, 5, seed=0)
    assert channel_mean([centered(activations)]).abs().max() < 1e-12
    mean = torch.tensor([1.0, 2.0, 3.0], dtype=activations.dtype)
    torch.testing.assert_close(centered(activations, mean) + mean.reshape(1, 3, 1, 1), activations)
