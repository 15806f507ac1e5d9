"""Samples of a model: distances among themselves, or to a reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from captum_kd.attr.reference import model_reference
from captum_kd.attr.samples import model_samples


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ACTIVATIONS = [normal(5, 3, 6, 6, seed=0), normal(5, 8, 4, 4, seed=1)]
REFERENCE = [normal(7, 3, 6, 6, seed=2), normal(7, 8, 4, 4, seed=3)]
TARGET, REFERENCE_TARGET = torch.tensor([0, 2, 1, 5, 2]), torch.tensor([2, 0, 0, 1, 1, 2, 3])
EMBEDDINGS = normal(6, 4, seed=4)
SPLIT = [3, 4]


def scipy_distances(x: Tensor, y: Tensor, pool: int | None) -> np.ndarray:
    if pool is not None:
        x, y = (torch.nn.functional.adaptive_avg_pool2d(t, pool) for t in (x, y))
    return cdist(*(t.flatten(1).double().numpy() for t in (x, y)))


def label_rows(target: Tensor, embeddings: Tensor | None) -> Tensor:
    return (torch.eye(6) if embeddings is None else embeddings)[target]


def in_batches(tensors: list[Tensor]) -> list[tuple[Tensor, ...]]:
    return list(zip(*(t.split(SPLIT) for t in tensors), strict=True))


@pytest.mark.parametrize("embeddings", [None, EMBEDDINGS], ids=["one-hot", "embeddings"])
@pytest.mark.parametrize("pool", [None, 1, 2])
def test_among_themselves(pool: int | None, embeddings: Tensor | None) -> None:
    samples = model_samples(ACTIVATIONS, TARGET, embeddings, pool, None)
    for layer, activations in zip(samples.layers, ACTIVATIONS, strict=True):
        assert layer.activations is activations
        assert layer.distances.within is None
        assert layer.reference_mean is None
        np.testing.assert_allclose(
            layer.distances.to, scipy_distances(activations, activations, pool), rtol=1e-5, atol=1e-6
        )
    assert samples.labels is not None
    rows = label_rows(TARGET, embeddings)
    np.testing.assert_allclose(samples.labels.to, scipy_distances(rows, rows, None), atol=1e-6)
    assert model_samples(ACTIVATIONS, None, embeddings, pool, None).labels is None


@pytest.mark.parametrize("embeddings", [None, EMBEDDINGS], ids=["one-hot", "embeddings"])
@pytest.mark.parametrize("pool", [None, 1, 2])
def test_to_a_reference(pool: int | None, embeddings: Tensor | None) -> None:
    reference = model_reference(in_batches(REFERENCE), REFERENCE_TARGET.split(SPLIT), pool)
    samples = model_samples(ACTIVATIONS, TARGET, embeddings, pool, reference)
    for layer, activations, others in zip(samples.layers, ACTIVATIONS, REFERENCE, strict=True):
        to, within = layer.distances
        assert within is not None
        np.testing.assert_allclose(to, scipy_distances(activations, others, pool), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(within, scipy_distances(others, others, pool), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(layer.reference_mean, others.mean(dim=(0, 2, 3)))
        assert len(layer.others) == 7
    assert samples.labels is not None
    assert samples.labels.within is not None
    rows, others = (label_rows(t, embeddings) for t in (TARGET, REFERENCE_TARGET))
    np.testing.assert_allclose(samples.labels.to, scipy_distances(rows, others, None), atol=1e-6)
    np.testing.assert_allclose(samples.labels.within, scipy_distances(others, others, None), atol=1e-6)


@pytest.mark.parametrize("which", ["samples", "reference", "one batch of the reference"])
def test_target_on_one_side_only_gives_no_labels(which: str) -> None:
    targets: list[Tensor | None] = list(REFERENCE_TARGET.split(SPLIT))
    if which == "reference":
        targets = [None, None]
    elif which == "one batch of the reference":
        targets[1] = None
    reference = model_reference(in_batches(REFERENCE), targets, None)
    target = None if which == "samples" else TARGET
    assert model_samples(ACTIVATIONS, target, None, None, reference).labels is None


def test_a_sample_does_not_depend_on_the_others() -> None:
    reference = model_reference(in_batches(REFERENCE), [None, None], None)
    together = model_samples(ACTIVATIONS, None, None, None, reference).layers
    alone = model_samples([a[2:3] for a in ACTIVATIONS], None, None, None, reference).layers
    for t, a in zip(together, alone, strict=True):
        torch.testing.assert_close(a.distances.to, t.distances.to[2:3], rtol=1e-12, atol=0)


def test_reference_of_another_size() -> None:
    reference = model_reference(in_batches([normal(7, 3, 5, 5, seed=0)]), [None, None], None)
    with pytest.raises(
        ValueError, match=r"reference has .* \(3, 5, 5\) .* inputs of \(3, 6, 6\)\. .* set pool"
    ):
        model_samples(ACTIVATIONS[:1], None, None, None, reference)
    pooled = model_reference(in_batches([normal(7, 3, 5, 5, seed=0)]), [None, None], 2)
    assert model_samples(ACTIVATIONS[:1], None, None, 2, pooled).layers[0].distances.to.shape == (5, 7)
