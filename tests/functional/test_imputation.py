"""Noisy linear imputation against SciPy's sparse direct solver, identities and properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from captum_kd.functional import imputation
from captum_kd.functional.imputation import noisy_linear_imputation


def impute(images: Tensor, keep: Tensor) -> Tensor:
    return noisy_linear_imputation(images, keep, noise=0.0)


def solve_directly(image: Tensor, keep: Tensor) -> Tensor:
    """One image (c, h, w) in rows as ROAD states them: x_i = weighted mean of its neighbours."""
    c, h, w = image.shape
    unknown = [(y, x) for y in range(h) for x in range(w) if not keep[y, x]]
    index = {pixel: row for row, pixel in enumerate(unknown)}
    matrix = lil_matrix((len(unknown), len(unknown)))
    rhs = np.zeros((len(unknown), c))
    for (y, x), row in index.items():
        neighbours = {}
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                if (dy or dx) and 0 <= y + dy < h and 0 <= x + dx < w:
                    neighbours[y + dy, x + dx] = 1 / 6 if dy == 0 or dx == 0 else 1 / 12
        total = sum(neighbours.values())
        matrix[row, row] = 1.0
        for pixel, weight in neighbours.items():
            if pixel in index:
                matrix[row, index[pixel]] = -weight / total
            else:
                rhs[row] += weight / total * image[:, pixel[0], pixel[1]].double().numpy()
    solution = np.asarray(spsolve(matrix.tocsc(), rhs)).reshape(len(unknown), c)
    result = image.double().clone()
    for (y, x), row in index.items():
        result[:, y, x] = torch.from_numpy(solution[row])
    return result


def masks(h: int, w: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(h, w, generator=generator)
    empty = torch.zeros(h, w, dtype=torch.bool)
    centre, single, border, corners = (empty.clone() for _ in range(4))
    centre[h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = True  # all borders removed
    single[h // 4, w // 3] = True
    border[:, 0] = border[0] = True
    corners[0, 0] = corners[-1, -1] = True
    return {
        "half": uniform < 0.5,
        "fifth": uniform < 0.2,
        "scattered": uniform < 0.02,
        "centre": centre,
        "hole": ~centre,
        "single": single,
        "border": border,
        "corners": corners,
    }


@pytest.mark.parametrize("shape", [(24, 31), (17, 8)])
@pytest.mark.parametrize("name", masks(24, 31))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_equals_sparse_direct_solver(
    shape: tuple[int, int], name: str, dtype: torch.dtype, tolerance: float
) -> None:
    keep = masks(*shape)[name]
    if not keep.any():
        keep[3, 3] = keep[9, 5] = True
    image = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    expected = solve_directly(image, keep)
    result = impute(image[None], keep[None])[0]
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=tolerance)


def test_equals_sparse_direct_solver_where_most_is_removed() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 5, 5, generator=generator)
    relevance = torch.nn.functional.interpolate(coarse, size=96, mode="bilinear")[0, 0]
    keep = relevance >= relevance.quantile(0.8)
    image = torch.randn(1, 96, 96, generator=generator)
    expected = solve_directly(image, keep)
    result = impute(image[None], keep[None])[0]
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)
    result = impute(image[None].double(), keep[None])[0]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-10)


def test_weights_are_renormalised_at_the_border() -> None:
    image = torch.tensor([[[0.0, 6.0], [12.0, 30.0]]], dtype=torch.float64)
    keep = torch.tensor([[False, True], [True, True]])
    by_hand = (6 / 6 + 12 / 6 + 30 / 12) / (1 / 6 + 1 / 6 + 1 / 12)
    assert impute(image[None], keep[None])[0, 0, 0, 0].item() == pytest.approx(by_hand, abs=1e-12)


def test_imputed_pixel_is_the_mean_of_its_neighbours() -> None:
    image = torch.arange(9.0).square().view(1, 1, 3, 3)
    keep = torch.ones(1, 1, 3, 3, dtype=torch.bool)
    keep[..., 1, 1] = False
    by_hand = (1 + 9 + 25 + 49) / 6 + (0 + 4 + 36 + 64) / 12
    assert impute(image, keep)[0, 0, 1, 1].item() == pytest.approx(by_hand, rel=1e-6)


def test_batch_equals_one_by_one() -> None:
    keep = torch.stack(list(masks(40, 33).values()))
    keep = torch.cat([keep, torch.ones_like(keep[:1]), torch.zeros_like(keep[:1])])
    images = torch.randn(len(keep), 2, 40, 33, dtype=torch.float64)
    keep[-3, 20:] = False  # "corners" with one pixel left: nothing to solve
    images[0] *= 1e6
    images[1] *= 1e-6
    together = impute(images, keep)
    for index in range(len(keep)):
        alone = impute(images[index : index + 1], keep[index : index + 1])[0]
        tolerance = 1e-13 * images[index].abs().max().item()
        torch.testing.assert_close(together[index], alone, rtol=0, atol=tolerance)


def test_converged_image_is_not_updated_by_slower_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = torch.ones(1, 40, 40, dtype=torch.bool)
    fast[:, 20, 20] = False
    slow = masks(40, 40)["corners"][None]
    images = torch.randn(2, 1, 40, 40, dtype=torch.float64)

    counts = []
    original = imputation._Multigrid.__call__

    def counting(self: imputation._Multigrid, residual: Tensor) -> Tensor:
        counts[-1] += 1
        return original(self, residual)

    monkeypatch.setattr(imputation._Multigrid, "__call__", counting)
    counts.append(0)
    alone = impute(images[:1], fast)
    counts.append(0)
    together = impute(images, torch.cat([fast, slow]))
    assert counts[1] > counts[0] + 5
    assert torch.equal(together[:1], alone)


def test_iterations_stay_few_where_a_large_area_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = torch.stack([masks(224, 224)[name] for name in ("corners", "border", "scattered")])
    monkeypatch.setattr(imputation, "_MAX_ITERATIONS", 40)
    assert impute(torch.randn(3, 1, 224, 224), keep).isfinite().all()


def test_devices_without_float64_are_served_by_float32() -> None:
    keep = torch.stack(list(masks(64, 64).values()))[:, None]
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(len(keep), 1, 64, 64, generator=generator, dtype=torch.float64) * 2 - 1
    known = torch.where(keep, values, 0.0)
    exact = imputation._conjugate_gradient(known, ~keep)
    single = imputation._conjugate_gradient(known.float(), ~keep)
    assert single.dtype == torch.float32
    error = (single.double() - exact).abs().amax(dim=(1, 2, 3))
    few_are_kept = keep.flatten(1).sum(dim=1) < 3  # the worse conditioned, the fewer are kept
    assert error[~few_are_kept].max() < 1e-5
    assert error[few_are_kept].max() < 1e-4


def test_unsolved_system_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imputation, "_MAX_ITERATIONS", 2)
    parts = masks(40, 40)
    everything = torch.ones(40, 40, dtype=torch.bool)
    keep = torch.stack([parts["fifth"], everything, parts["border"]])
    images = torch.randn(3, 1, 40, 40)
    with pytest.raises(RuntimeError, match="2 of 3 images did not converge in 2 iterations"):
        impute(images, keep)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kept_pixels_are_unchanged_to_the_bit(dtype: torch.dtype) -> None:
    images = torch.randn(2, 3, 16, 16).to(dtype)
    before = images.clone()
    keep = torch.rand(2, 16, 16) < 0.3
    result = noisy_linear_imputation(images, keep, noise=0.5)
    where = keep[:, None].expand_as(images)
    assert result.dtype == dtype
    assert torch.equal(result[where], images[where])
    assert not torch.equal(result[~where], images[~where])
    assert torch.equal(images, before)


def test_all_kept_is_unchanged_and_a_copy() -> None:
    images = torch.randn(2, 3, 8, 8)
    result = noisy_linear_imputation(images, torch.ones(2, 8, 8, dtype=torch.bool))
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()


def test_nothing_kept_gives_the_mean_of_each_channel_and_noise() -> None:
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    keep = torch.zeros(2, 64, 64, dtype=torch.bool)
    mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(impute(images, keep), mean, rtol=0, atol=1e-14)
    noisy = noisy_linear_imputation(images, keep, noise=0.1) - mean
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("value", [0.1, -3.7e8, 1e-30, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_image_is_reproduced_exactly(value: float, dtype: torch.dtype) -> None:
    images = torch.full((1, 2, 19, 23), value, dtype=dtype)
    keep = torch.rand(1, 19, 23) < 0.2
    keep[0, 0, 0] = True
    assert torch.equal(impute(images, keep), images)


def test_ramp_between_kept_columns_is_restored() -> None:
    ramp = torch.linspace(-1, 1, 21, dtype=torch.float64).expand(1, 1, 13, 21)
    keep = torch.zeros(1, 13, 21, dtype=torch.bool)
    keep[..., 0] = keep[..., -1] = True
    torch.testing.assert_close(impute(ramp, keep), ramp, rtol=0, atol=1e-11)


def test_offset_and_scale_pass_through() -> None:
    images, keep = torch.randn(1, 1, 20, 20, dtype=torch.float64), masks(20, 20)["fifth"][None]
    result = impute(images, keep)
    torch.testing.assert_close(impute(images * 1e-200, keep) * 1e200, result)
    torch.testing.assert_close(impute(images + 1e5, keep) - 1e5, result, rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    h=st.integers(1, 12),
    w=st.integers(1, 12),
    share=st.floats(0.02, 0.98),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-4, 1.0, 1e4]),
)
def test_properties(h: int, w: int, share: float, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = scale * torch.randn(2, 2, h, w, generator=generator)
    keep = torch.rand(2, h, w, generator=generator) < share
    keep[:, h // 2, w // 2] = True
    result = impute(images, keep)
    where = keep[:, None]
    # The maximum principle, exactly, and the symmetry of the stencil.
    low = images.where(where, torch.tensor(torch.inf)).amin(dim=(2, 3), keepdim=True)
    high = images.where(where, torch.tensor(-torch.inf)).amax(dim=(2, 3), keepdim=True)
    assert ((low <= result) & (result <= high)).all()
    turned = impute(images.transpose(2, 3), keep.transpose(1, 2)).transpose(2, 3)
    torch.testing.assert_close(turned, result, rtol=0, atol=1e-6 * scale)
    torch.testing.assert_close(impute(result, keep), result, rtol=0, atol=0)


def test_noise_is_seeded_and_has_the_asked_spread() -> None:
    images, keep = torch.randn(2, 3, 100, 100), torch.rand(2, 100, 100) < 0.2

    def noisy(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return noisy_linear_imputation(images, keep, noise=0.05, generator=generator)

    state = torch.get_rng_state()
    first = noisy(0)
    assert torch.equal(first, noisy(0))
    assert not torch.equal(first, noisy(1))
    assert torch.equal(torch.get_rng_state(), state)
    difference = (first - impute(images, keep))[~keep[:, None].expand_as(images)]
    assert difference.std().item() == pytest.approx(0.05, rel=0.02)
    assert difference.mean().item() == pytest.approx(0.0, abs=1e-3)


def test_global_generator_draws_the_noise_unless_there_is_none() -> None:
    images, keep = torch.randn(1, 1, 9, 9), torch.rand(1, 9, 9) < 0.5
    state = torch.get_rng_state()
    impute(images, keep)
    assert torch.equal(torch.get_rng_state(), state)
    first = noisy_linear_imputation(images, keep)
    torch.set_rng_state(state)
    assert torch.equal(noisy_linear_imputation(images, keep), first)


def test_layouts() -> None:
    images, keep = torch.randn(2, 3, 12, 10), torch.rand(2, 12, 10) < 0.4
    expected = impute(images, keep)
    last = impute(images.contiguous(memory_format=torch.channels_last), keep)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, expected)
    assert torch.equal(impute(images, keep[:, None]), expected)
    strided = torch.randn(2, 3, 12, 20)[..., ::2]
    assert torch.equal(impute(strided, keep), impute(strided.contiguous(), keep))


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 1, 1), (1, 1, 1, 30), (1, 2, 2, 3)])
def test_small_shapes(shape: tuple[int, ...]) -> None:
    keep = torch.zeros(shape[0], *shape[2:], dtype=torch.bool)
    assert impute(torch.randn(shape), keep).shape == shape
    keep[..., 0] = True
    assert impute(torch.randn(shape), keep).isfinite().all()


def test_gradient_and_inference_mode() -> None:
    images = torch.randn(1, 1, 8, 8, requires_grad=True)
    keep = torch.rand(1, 8, 8) < 0.5
    result = impute(images, keep)
    assert not result.requires_grad
    with torch.inference_mode():
        assert torch.equal(impute(images.detach(), keep), result)


def _with(value: float) -> Tensor:
    images = torch.zeros(3, 1, 4, 4)
    images[1, 0, 2, 2] = value
    return images


KEEP = torch.ones(3, 4, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("images", "keep", "noise", "error", "message"),
    [
        (_with(float("nan")), KEEP, 0.0, ValueError, "1 of 3 images have NaN .* at index 1"),
        (_with(float("inf")), KEEP, 0.0, ValueError, "must be finite"),
        (torch.zeros(3, 1, 4, 4, dtype=torch.uint8), KEEP, 0.0, TypeError, "uint8"),
        (np.zeros((3, 1, 4, 4)), KEEP, 0.0, TypeError, "got ndarray"),
        (_with(0), KEEP.float(), 0.0, TypeError, "bool tensor.* got torch.float32"),
        (_with(0), [True], 0.0, TypeError, "got list"),
        (_with(0)[0], KEEP, 0.0, ValueError, r"\(n, c, h, w\), got \(1, 4, 4\)"),
        (_with(0), KEEP[:2], 0.0, ValueError, r"got \(2, 4, 4\)"),
        (_with(0), KEEP[:, None].expand(3, 2, 4, 4), 0.0, ValueError, r"got \(3, 2, 4, 4\)"),
        (_with(0), KEEP.to("meta"), 0.0, ValueError, "one device, got meta and cpu"),
        (_with(0), KEEP, -0.1, ValueError, "0 or greater, got -0.1"),
        (_with(0), KEEP, float("nan"), ValueError, "0 or greater, got nan"),
    ],
)
def test_bad_input(images: Tensor, keep: Tensor, noise: float, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        noisy_linear_imputation(images, keep, noise=noise)
