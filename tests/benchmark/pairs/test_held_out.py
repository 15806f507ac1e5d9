"""Held-out images: each item has one purpose, and too few items are an error."""

from __future__ import annotations

import pytest
import torch

from captum_kd.benchmark.pairs.held_out import Counts, held_out
from tests.datasets.test_planted_cue import made_up_items, made_up_labels


def test_no_item_serves_two_purposes() -> None:
    # Each made-up item has a grey level of its own, which its brightest channel shows.
    items = torch.stack([torch.full((28, 28), 30 + 5 * i, dtype=torch.uint8) for i in range(40)])
    found = held_out("grid", 0, items, torch.arange(40) % 10, Counts(10, 10, 10, 10))
    purposes = (found.reference, found.scored, found.judged, found.fitted)
    assert sum(len(p.images) for p in purposes) == 40
    counts = torch.cat([p.labels for p in purposes]).bincount()
    assert (counts == 4).all()
    assert torch.equal(found.judged.labels, found.without_item.labels)
    assert torch.equal(found.judged.cues, found.without_cue.cues)


def test_too_few_items_are_an_error() -> None:
    with pytest.raises(ValueError, match="40 held-out items are needed, got 39"):
        held_out("free", 0, made_up_items(39), made_up_labels(39), Counts(10, 10, 10, 10))
