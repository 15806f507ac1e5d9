"""Masks that keep an exact share, ROAD and I * H."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from captum.attr import LayerAttribution
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from captum_kd.functional.imputation import noisy_linear_imputation
from captum_kd.functional.perturbation import keep_mask, multiply, road


@settings(max_examples=80, deadline=None)
@given(
    h=st.integers(1, 15),
    w=st.integers(1, 15),
    share=st.floats(0, 1),
    levels=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_exact_share_and_the_most_relevant(h: int, w: int, share: float, levels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(levels, (2, 1, h, w), generator=generator).float()
    keep = keep_mask(maps, share)
    assert keep.shape == (2, h, w)
    assert keep.dtype == torch.bool
    for one, kept in zip(maps[:, 0], keep, strict=True):
        assert int(kept.sum()) == round(share * h * w)
        if 0 < int(kept.sum()) < h * w:
            assert one[kept].min() >= one[~kept].max()


def test_without_ties_equals_topk() -> None:
    maps = torch.randn(3, 20, 20, dtype=torch.float64)
    keep = keep_mask(maps, 0.3)
    expected = torch.zeros(3, 400, dtype=torch.bool)
    expected.scatter_(1, maps.flatten(1).topk(120).indices, True)
    assert torch.equal(keep.flatten(1), expected)


@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_constant_map_favours_no_place(value: float) -> None:
    keep = keep_mask(torch.full((2, 1, 40, 40), value), 0.2)
    assert keep.flatten(1).sum(dim=1).tolist() == [320, 320]
    assert torch.equal(keep[0], keep[1])
    quarters = keep[0].view(2, 20, 2, 20).sum(dim=(1, 3)) / 400
    # Five standard deviations of 400 draws around 0.2.
    assert (quarters - 0.2).abs().max() < 0.1
    assert keep[0].any(dim=0).sum() > 35
    assert keep[0].any(dim=1).sum() > 35


def test_ties_do_not_depend_on_call_batch_dtype_or_random_state() -> None:
    maps = torch.randint(3, (4, 1, 14, 14))
    first = keep_mask(maps.float(), 0.4)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(keep_mask(maps.float(), 0.4), first)
    assert torch.equal(keep_mask(maps[2:].half(), 0.4), first[2:])
    assert torch.equal(keep_mask(maps, 0.4), first)
    assert torch.equal(keep_mask(maps[:, 0].double(), 0.4), first)
    torch.set_rng_state(state)
    keep_mask(maps, 0.4)
    assert torch.equal(torch.get_rng_state(), state)


def test_larger_share_keeps_the_same_and_more() -> None:
    maps = torch.randint(3, (2, 10, 10))
    assert (keep_mask(maps, 0.5) | ~keep_mask(maps, 0.2)).all()


def test_road_keeps_the_share_and_imputes_the_rest() -> None:
    images, maps = torch.randn(3, 3, 28, 28), torch.randn(3, 1, 28, 28)
    keep = keep_mask(maps, 0.2)
    expected = noisy_linear_imputation(images, keep, noise=0.1, generator=torch.Generator().manual_seed(3))
    result = road(images, maps, share=0.2, noise=0.1, generator=torch.Generator().manual_seed(3))
    assert torch.equal(result, expected)
    assert ((result == images).all(dim=1).flatten(1).sum(dim=1) == round(0.2 * 784)).all()


def test_road_upsamples_as_captum_does() -> None:
    images, maps = torch.randn(2, 3, 28, 28), torch.rand(2, 1, 7, 7)
    upsampled = LayerAttribution.interpolate(maps, (28, 28), interpolate_mode="bilinear")
    quiet = partial(road, share=0.3, noise=0.0)
    torch.testing.assert_close(quiet(images, maps), quiet(images, upsampled))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 0.0])
def test_upsampled_constant_map_is_still_constant(value: float) -> None:
    images = torch.randn(1, 1, 56, 56)
    keep = keep_mask(torch.zeros(1, 56, 56), 0.5)
    expected = noisy_linear_imputation(images, keep, noise=0.0)
    for dtype, size in product((torch.float16, torch.float32, torch.float64), ((7, 5), (5, 56), (56, 5))):
        maps = torch.full((1, 1, *size), value, dtype=dtype)
        assert torch.equal(road(images, maps, noise=0.0), expected)


def test_share_one_changes_nothing_and_share_zero_everything() -> None:
    images, maps = torch.randn(1, 3, 8, 8), torch.rand(1, 8, 8)
    assert torch.equal(road(images, maps, share=1.0), images)
    assert (road(images, maps, share=0.0) != images).all()


def test_multiply_by_hand() -> None:
    images = torch.tensor([[[[2.0, -4.0], [6.0, 8.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    maps = torch.tensor([[[0.5, 2.0], [-3.0, 0.0]], [[10.0, 5.0], [2.5, 0.0]]])
    expected = torch.tensor([[[[0.5, -4.0], [0.0, 0.0]]], [[[1.0, 0.5], [0.25, 0.0]]]])
    assert torch.equal(multiply(images, maps), expected)
    assert torch.equal(multiply(images, 1e-3 * maps[:, None]), expected)


def test_multiply_upsamples_as_captum_does() -> None:
    images, maps = torch.randn(2, 3, 30, 21), torch.rand(2, 1, 7, 7)
    upsampled = LayerAttribution.interpolate(maps, (30, 21), interpolate_mode="bilinear")
    expected = images * upsampled / upsampled.amax(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(multiply(images, maps), expected)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_multiply_by_a_map_without_relevance_gives_zeros(value: float) -> None:
    maps = torch.stack([torch.full((5, 5), value), torch.ones(5, 5)])
    images = torch.randn(2, 3, 10, 10)
    result = multiply(images, maps)
    assert torch.equal(result[0], torch.zeros(3, 10, 10))
    assert torch.equal(result[1], images[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("perturb", [road, multiply])
def test_dtype_is_kept_and_inputs_are_not_changed(perturb: Any, dtype: torch.dtype) -> None:
    images, maps = torch.randn(2, 3, 16, 16).to(dtype), torch.rand(2, 1, 4, 4)
    before = images.clone()
    for given_maps in (maps, maps.to(dtype), maps.requires_grad_()):
        result = perturb(images, given_maps)
        assert result.dtype == dtype
        assert result.shape == images.shape
        assert result.isfinite().all()
    assert torch.equal(images, before)


IMAGES = torch.zeros(2, 3, 8, 8)
NAN_MAPS = torch.zeros(2, 4, 4).index_fill(0, torch.tensor([1]), float("nan"))


@pytest.mark.parametrize("perturb", [road, multiply])
@pytest.mark.parametrize(
    ("images", "maps", "error", "message"),
    [
        (IMAGES, NAN_MAPS, ValueError, "1 of 2 maps have NaN or infinite entries.*index 1"),
        (IMAGES, torch.zeros(3, 1, 4, 4), ValueError, "got 3 maps and 2 images"),
        (IMAGES, torch.zeros(2, 3, 8, 8), ValueError, r"got \(2, 3, 8, 8\); sum attributions"),
        (IMAGES, torch.zeros(4, 4), ValueError, r"got \(4, 4\)"),
        (IMAGES, torch.zeros(2, 1, 0, 4), ValueError, "no pixels"),
        (IMAGES, None, TypeError, "got NoneType"),
        (IMAGES, torch.zeros(2, 4, 4, dtype=torch.complex64), TypeError, "complex64"),
        (IMAGES[0], torch.zeros(2, 4, 4), ValueError, r"\(n, c, h, w\), got \(3, 8, 8\)"),
        (IMAGES.int(), torch.zeros(2, 4, 4), TypeError, "int32"),
        ((IMAGES,), torch.zeros(2, 4, 4), TypeError, "got tuple"),
    ],
)
def test_bad_input(perturb: Any, images: Tensor, maps: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        perturb(images, maps)


@pytest.mark.parametrize("share", [-0.1, 1.5, 20, float("nan")])
def test_bad_share(share: float) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 1, got {share}"):
        keep_mask(torch.zeros(1, 4, 4), share)
    with pytest.raises(ValueError, match="from 0 to 1"):
        road(IMAGES, torch.zeros(2, 4, 4), share=share)
