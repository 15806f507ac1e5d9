"""Samples that occur more than once: found where they are, and not where rows repeat by themselves."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from captum_kd.functional import permutation_test
from captum_kd.labels import embedding_rows
from captum_kd.metrics import score_with_statistics
from captum_kd.metrics.copies import first_of_each, row_digests, warn_of_repeated_rows


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_digests_are_equal_where_samples_are(dtype: torch.dtype) -> None:
    x = noise(600, 3, 4, 5).to(dtype)
    rows = torch.cat([torch.arange(600), torch.tensor([7, 599])])
    digests = row_digests(x[rows])
    assert len(set(digests)) == 600
    assert digests[600:] == [digests[7], digests[599]]
    assert first_of_each(digests) == list(range(600))
    # However they lie in memory; and one value is enough.
    assert row_digests(x[rows].to(memory_format=torch.channels_last)) == digests
    x[7, 2, 3, 4] += 1
    assert row_digests(x)[7] != digests[7]
    assert row_digests(x[:0]) == []


def test_digests_of_several_inputs_are_of_all() -> None:
    x, y = noise(4, 3), torch.tensor([0, 1, 1, 0])
    a, b, c, d = row_digests(x[[0, 0, 0, 0]], y)
    assert (a == d, b == c, a == b) == (True, True, False)


NOT_COPIES = {
    "unique": noise(40, 6),
    "a constant layer": torch.full((40, 6), 0.3),
    "silent for some samples": torch.cat([noise(30, 6), torch.zeros(10, 6)]),
    "saturated for some samples": torch.cat([noise(30, 6), torch.full((10, 6), 0.99)]),
    "prototypes": noise(4, 6)[torch.arange(40) % 4],
    "counts": torch.cat([torch.arange(40.0)[:, None], torch.ones(40, 5)], 1)[[*range(39), 0]],
    "integers": torch.arange(40)[[*range(39), 0]],
    "one number": noise(40, 1)[[*range(39), 0]],
}


@pytest.mark.parametrize("name", NOT_COPIES)
def test_rows_that_repeat_by_themselves_are_no_copies(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_of_repeated_rows(NOT_COPIES[name], torch.arange(40) % 1)


def test_copies_have_the_same_rows_everywhere() -> None:
    x, y, z = noise(40, 6), noise(40, 3, seed=1), noise(40, 2, seed=2)
    again = [*range(38), 4, 5]
    with pytest.warns(UserWarning, match="2 of 40 samples have exactly"):
        assert warn_of_repeated_rows(x[again], y[again], z[again])
    with pytest.warns(UserWarning, match="2 of 40 samples have exactly"):
        score_with_statistics(x[again].half(), y[again], given=z[again], permutations=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not warn_of_repeated_rows(x[again], y[again], z)
        score_with_statistics(x[again], y, permutations=3)


def test_chance_is_significant_with_copies_and_is_not_without() -> None:
    """Noise and random labels, drawn with replacement as WeightedRandomSampler does."""
    generator = torch.Generator().manual_seed(1)
    trials, found = 100, {"copies": 0, "once": 0}
    for _ in range(trials):
        x = torch.randn(30, 1, 3, 3, generator=generator)
        target = torch.randint(4, (30,), generator=generator)
        drawn = torch.randint(30, (60,), generator=generator)
        rows = {"copies": drawn, "once": drawn[first_of_each(row_digests(x[drawn]))]}
        for name, index in rows.items():
            labels = embedding_rows(torch.eye(4), target[index])
            test = permutation_test(x[index], labels, permutations=19, generator=generator)
            found[name] += test.p_value <= 0.05
    assert found["once"] <= 11  # 5 are expected; more than 11 have a probability of 0.4 %
    assert found["copies"] > 50
