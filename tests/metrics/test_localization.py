"""Scores of maps against masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor

from captum_kd.attr.methods import TwoMaps
from captum_kd.metrics.localization import (
    PARTS,
    all_zero,
    energy_share,
    pixel_ranks,
    pointing_game,
    ranking_auc,
    separation,
    separations,
)


@pytest.mark.parametrize("levels", [3, 10_000])
def test_auc_is_that_of_scikit_learn(levels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(levels, (5, 8, 9), generator=generator).float()
    masks = torch.rand(5, 8, 9, generator=generator) < 0.3
    expected = [roc_auc_score(mask.flatten(), map_.flatten()) for mask, map_ in zip(masks, maps, strict=True)]
    torch.testing.assert_close(ranking_auc(maps, masks), torch.tensor(expected, dtype=torch.float64))


def test_auc_of_constant_reversed_and_sharpened_maps() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 1:3, 1:3] = True
    noisy = masks + torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert ranking_auc(torch.zeros(1, 4, 4), masks) == 0.5
    assert ranking_auc(masks.float(), masks) == 1
    assert ranking_auc(-noisy, masks) == 1 - ranking_auc(noisy, masks)
    assert ranking_auc(noisy**5, masks) == ranking_auc(noisy, masks)
    assert energy_share(noisy**5, masks) > energy_share(noisy, masks)


def test_energy_by_hand() -> None:
    maps = torch.tensor([[[1.0, 2.0, 3.0, -9.0]], [[0.0, 0.0, 0.0, 0.0]]])
    masks = torch.tensor([[[True, True, False, False]], [[True, False, False, False]]])
    assert energy_share(maps, masks).tolist() == [0.5, 0.25]


def test_separation_of_perfect_swapped_and_equal_maps() -> None:
    masks = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    masks[0, 0, :2, :2] = masks[1, 0, 4:, 4:] = True
    item, cue = masks

    def separate(distilled: torch.Tensor, residual: torch.Tensor) -> float:
        values = [energy_share(m.float(), mask) for mask in (item, cue) for m in (distilled, residual)]
        return separation(*values).item()

    assert separate(item, cue) == 1
    assert separate(cue, item) == -1
    assert separate(item, item) == 0


def test_masks_must_have_both_kinds_of_pixels_and_fit() -> None:
    with pytest.raises(ValueError, match="pixels that are True"):
        ranking_auc(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\)"):
        energy_share(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3, dtype=torch.bool))


def test_pointing_game_by_hand() -> None:
    maps = torch.tensor([[[0.0, 3.0, 1.0]], [[2.0, 2.0, 0.0]], [[0.0, 0.0, 0.0]]])
    masks = torch.tensor([[[False, True, False]]] * 3)
    torch.testing.assert_close(
        pointing_game(maps, masks), torch.tensor([1.0, 0.5, 1 / 3], dtype=torch.float64)
    )


def test_all_zero() -> None:
    assert all_zero(torch.tensor([[[0.0, 0.0]], [[0.0, -1.0]]])).tolist() == [True, False]


def two_maps_and_masks() -> tuple[TwoMaps, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    distilled, residual = torch.randn(2, 6, 1, 5, 5, generator=generator)
    item, cue = torch.rand(2, 6, 5, 5, generator=generator) < 0.4
    return (distilled, residual), item, cue


def test_separations_are_means_of_the_single_measures() -> None:
    maps, item, cue = two_maps_and_masks()
    found = {one.measure: one for one in separations(maps, item, cue)}
    assert list(found) == ["auc", "energy", "pointing"]
    for name, measure in (("auc", ranking_auc), ("energy", energy_share), ("pointing", pointing_game)):
        expected = [measure(side[:, 0], mask) for mask in (item, cue) for side in maps]
        one, of_images = found[name], separation(*expected)
        assert list(one.parts) == list(PARTS)
        assert list(one.parts.values()) == pytest.approx([values.mean().item() for values in expected])
        assert one.separation == pytest.approx(of_images.mean().item())
        margin = 1.96 * of_images.std().item() / 6**0.5
        assert (one.low, one.high) == pytest.approx((one.separation - margin, one.separation + margin))
        assert one.samples == 6


def test_maps_are_upsampled_to_the_masks() -> None:
    maps, item, cue = two_maps_and_masks()
    coarse = (maps[0][..., :3, :2], maps[1][..., :2, :4])
    fine = tuple(F.interpolate(side, (5, 5), mode="bilinear") for side in coarse)
    assert separations(coarse, item, cue) == separations(fine, item, cue)


def test_only_the_item_counts_if_the_cue_has_no_location() -> None:
    item = torch.zeros(2, 4, 4, dtype=torch.bool)
    item[:, :2] = True
    auc, energy, _ = separations((item[:, None].float(), torch.ones(2, 1, 4, 4)), item, None)
    assert auc.separation == energy.separation == 0.5
    assert auc.parts == {"distilled on item": 1, "residual on item": 0.5}


def test_ranks_do_not_depend_on_dtype_and_ties_share_their_mean() -> None:
    values = torch.tensor([[3.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[3.5, 1.0, 3.5, 2.0], [2.5, 2.5, 2.5, 2.5]], dtype=torch.float64)
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        torch.testing.assert_close(pixel_ranks(values.to(dtype)), expected)
