"""One rule of how an image is shown."""

from __future__ import annotations

import torch

from captum_kd.pictures import as_pictures


def test_within_0_and_1_as_it_is_and_others_stretched_each_on_its_own() -> None:
    plain = torch.rand(1, 3, 4, 4) * 0.5 + 0.2
    normalised = (plain - 0.3) / 0.2
    dim = normalised / 10
    shown = as_pictures(torch.cat([plain, normalised, dim]))
    assert torch.equal(shown[0], plain[0])
    for stretched in shown[1:]:
        assert stretched.min() == 0
        assert stretched.max() == 1
        assert torch.allclose(stretched, (plain[0] - plain.min()) / (plain.max() - plain.min()), atol=1e-5)


def test_other_dtypes_and_channels() -> None:
    assert as_pictures(torch.rand(2, 1, 3, 5, dtype=torch.float16)).shape == (2, 3, 3, 5)
    assert as_pictures(torch.rand(2, 1, 3, 5, dtype=torch.float64)).dtype == torch.float32
    images = torch.rand(2, 4, 3, 5)
    assert torch.allclose(as_pictures(images)[:, 0], images.mean(1))
    assert as_pictures(torch.full((1, 3, 2, 2), 7.0)).isfinite().all()
