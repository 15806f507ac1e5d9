"""Distances and their pull-back: subtraction in extended precision, SciPy, autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from captum_kd.functional import distance
from captum_kd.functional.distance import merge_same_samples, pairwise_distances, pull_back


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_subtraction(x: Tensor, y: Tensor) -> np.ndarray:
    """Distances in extended precision, one pair after the other."""
    a, b = (t.double().reshape(len(t), -1).numpy().astype(np.longdouble) for t in (x, y))
    return np.array([[np.sqrt(np.square(p - q).sum()) for q in b] for p in a])


def one_ulp_apart(n: int, d: int) -> Tensor:
    """Copies of one row; row i > 0 differs from it in its i-th feature by the last bit."""
    rows = normal(1, d).repeat(n, 1)
    for i in range(1, n):
        rows[i, i] = torch.nextafter(rows[i, i], torch.tensor(9.0))
    return rows


FEATURES = {
    "generic": lambda: normal(12, 500),
    "relative differences of 1e-6": lambda: normal(1, 500) * (1 + 1e-6 * normal(12, 500, seed=1)),
    "one unit in the last place": lambda: one_ulp_apart(12, 500),
    "offset 1e4": lambda: normal(12, 500) + 1e4,
    "offset 1e6": lambda: normal(12, 500) + 1e6,
    "clusters of near-duplicates": lambda: normal(4, 500).repeat(3, 1) + 1e-5 * normal(12, 500, seed=1),
    "duplicates": lambda: normal(4, 500).repeat(3, 1),
    "one far outlier": lambda: torch.cat([normal(11, 500), 1e8 * normal(1, 500)]),
    "smallest and largest float32": lambda: torch.cat([normal(6, 50) * 1e-38, normal(6, 50) * 1e37]),
    "features of mixed scales": lambda: normal(12, 500) * torch.logspace(-10, 10, 500),
    "float16": lambda: normal(12, 500).half(),
    "bfloat16": lambda: normal(12, 500).bfloat16(),
    "float64": lambda: normal(12, 500).double() * math.pi,
    "integers": lambda: (normal(12, 20) * 100).to(torch.uint8),
    "transposed": lambda: normal(500, 12).T,
    "channels_last": lambda: normal(12, 8, 5, 5).contiguous(memory_format=torch.channels_last),
    "three slices of features": lambda: normal(4, 600_000) + 1e4,
    "one feature": lambda: normal(12),
}


def relative_error(distances: Tensor, oracle: np.ndarray) -> float:
    assert (distances.numpy()[oracle == 0] == 0).all(), "duplicates are at distance exactly 0"
    apart = oracle > 0
    return float((np.abs(distances.numpy()[apart] - oracle[apart]) / oracle[apart]).max(initial=0.0))


@pytest.mark.parametrize("name", FEATURES)
def test_relative_error_below_1e_7(name: str) -> None:
    x = FEATURES[name]()
    oracle, distances = by_subtraction(x, x), pairwise_distances(x)
    assert relative_error(distances, oracle) < 1e-7
    assert torch.equal(distances, distances.T)
    assert not distances.diagonal().any()
    first, second = x[:3], x[3:]
    assert relative_error(pairwise_distances(first, second), oracle[:3, 3:]) < 1e-7


@pytest.mark.parametrize("features", [1, 1_000, 100_000])
@pytest.mark.parametrize("closeness", [1e-5, 3e-5, 1.3e-4, 3e-4, 1e-3, 3e-3, 1e-2])
def test_no_band_of_closeness_loses_digits(features: int, closeness: float) -> None:
    """Where the Gram product cancels some digits but not all."""
    near = normal(1, features) + closeness * normal(2, features, seed=1)
    x = torch.cat([near, -near[:1]])
    oracle = by_subtraction(x, x)
    assert relative_error(pairwise_distances(x), oracle) < 1e-7
    assert relative_error(pairwise_distances(x[:1], x[1:]), oracle[:1, 1:]) < 1e-7


@pytest.mark.parametrize("shape", [(5, 3), (40, 1), (17, 4, 3, 2)])
def test_scipy(shape: tuple[int, ...]) -> None:
    x, y = normal(*shape), normal(7, *shape[1:], seed=1)
    a, b = (t.flatten(1).double().numpy() for t in (x, y))
    for ours, oracle in ((pairwise_distances(x), cdist(a, a)), (pairwise_distances(x, y), cdist(a, b))):
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours.numpy(), oracle, rtol=1e-12, atol=1e-12)


def test_never_a_tensor_of_all_differences() -> None:
    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    x = normal(64, 40_000).requires_grad_()
    with Largest() as largest:
        pairwise_distances(x).sum().backward()
    assert 0 < largest.elements <= x.numel()


def test_gradcheck() -> None:
    x, y = (normal(5, 3, seed=s).double().requires_grad_() for s in (0, 1))
    # A diagonal of zeros has no numerical gradient, but the sum of one below the other has.
    lower = torch.tril_indices(5, 5, offset=-1)
    assert torch.autograd.gradcheck(lambda a: pairwise_distances(a)[lower[0], lower[1]], x)
    assert torch.autograd.gradcheck(pairwise_distances, (x, y))
    assert torch.autograd.gradcheck(lambda a: pairwise_distances(a, y.detach()), x)
    assert torch.autograd.gradcheck(lambda b: pairwise_distances(x.detach(), b), y)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_pull_back_is_the_gradient(offset: float) -> None:
    x, y = (normal(n, 4, 3, seed=n).double() + offset for n in (6, 9))
    x.requires_grad_()
    weights = normal(6, 9, seed=2).double()
    difference = x.flatten(1)[:, None] - y.flatten(1)
    (oracle,) = torch.autograd.grad((weights * difference.square().sum(-1).sqrt()).sum(), x)
    x = x.detach()
    gradient = pull_back(weights, pairwise_distances(x, y), x, y)
    assert gradient.shape == x.shape
    assert (gradient - oracle).abs().max() <= 1e-10 * oracle.abs().max()


@pytest.mark.parametrize("with_y", [False, True])
def test_gradient_at_distance_zero_is_zero(with_y: bool) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    pairwise_distances(x, torch.ones(2, 3) if with_y else None).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(4, 3))


def test_gradient_has_the_dtype_of_the_features() -> None:
    x = normal(4, 3).bfloat16().requires_grad_()
    pairwise_distances(x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    oracle = x.detach().double().requires_grad_()
    pairwise_distances(oracle).sum().backward()
    torch.testing.assert_close(x.grad.double(), oracle.grad, rtol=2**-7, atol=2**-7)


def test_autocast_does_not_lower_the_precision() -> None:
    x, d = normal(6, 50), pairwise_distances(normal(6, 50)).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pairwise_distances(x), pull_back(d.cos(), d, x, x)
    assert torch.equal(inside[0], pairwise_distances(x))
    assert torch.equal(inside[1], pull_back(d.cos(), d, x, x))


def test_an_offset_leaves_the_cost_to_the_gram_product(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[Tensor] = []
    monkeypatch.setattr(distance, "_recomputed", lambda pairs, x, y: marked.append(pairs) or ())
    pairwise_distances(normal(12, 500) + 1e6)
    pairwise_distances(normal(5, 500) + 1e6, normal(12, 500, seed=1) + 1e6)
    assert [bool(pairs.any()) for pairs in marked] == [False, False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 5])
def test_not_finite_raises(value: float, n: int) -> None:
    x, fine = normal(n, 3), normal(2, 3)
    x[-1, 1] = value
    for pair in ((x, None), (x, fine), (fine, x)):
        with pytest.raises(ValueError, match="must be finite"):
            pairwise_distances(*pair)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.ones((3, 2)), None, TypeError, "x must be a torch.Tensor, got ndarray"),
        (torch.ones(3), [1.0], TypeError, "y must be a torch.Tensor, got list"),
        (torch.ones(3, 2, dtype=torch.complex64), None, TypeError, "real, got torch.complex64"),
        (torch.tensor(1.0), None, ValueError, r"at least one sample .* got shape \(\)"),
        (torch.ones(3, 0), None, ValueError, r"got shape \(3, 0\)"),
        (torch.ones(3, 2), torch.ones(3, 5), ValueError, "got 2 and 5"),
    ],
)
def test_bad_input(x: Tensor, y: Tensor | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pairwise_distances(x, y)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_only_distances_at_rounding_are_merged(offset: float) -> None:
    x = normal(8, 500) + offset
    rounded = x * (1 + 5e-7 * normal(8, 500, seed=1))
    distances = pairwise_distances(rounded, x)
    merged = merge_same_samples(distances, rounded, x)
    apart = ~torch.eye(8, dtype=torch.bool)
    assert distances.diagonal().all()
    assert not merged.diagonal().any()
    assert torch.equal(merged[apart], distances[apart])
    near = pairwise_distances(x + 1e-2 * normal(8, 500, seed=2), x)
    assert torch.equal(merge_same_samples(near, x + 1e-2 * normal(8, 500, seed=2), x), near)
