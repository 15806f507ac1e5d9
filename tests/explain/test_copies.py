"""Copies among a user's images: scored once, and every shown image keeps its own name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from captum_kd.explain.images import ExplainedImages
from captum_kd.explain.inputs import ComparisonInputs
from captum_kd.explain.options import ExplainOptions
from captum_kd.explain.report import compare_inputs
from tests.networks import classes, images, pair

# The first three are the reference; of the others one is in it, and one comes twice.
ROWS = [0, 1, 2, 3, 1, 4, 5, 3, 6, 7, 8, 9, 10, 11, 12]


class Photos(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return len(ROWS)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return images(13)[ROWS[index]], int(classes(13)[ROWS[index]])


def test_shown_images_keep_their_names() -> None:
    student, base = pair()
    names = [f"{index} of image {row}.png" for index, row in enumerate(ROWS)]
    found = ExplainedImages(Photos(), names, ("a", "b", "c", "d"), "photos", [])
    options = ExplainOptions(
        students=("mine",),
        methods=("Grad-CAM",),
        label_encoder="one-hot",
        pooling="pooler",
        limit=20,
        reference=3,
        shown=5,
        kept_share=None,
        fold=0,
        seed=0,
        device="cpu",
        precision="float32",
        batch_size=4,
        workers=0,
        root=Path("data"),
    )
    inputs = ComparisonInputs({"mine": student}, base, ["second_relu"], found)
    with pytest.warns(UserWarning, match="of the 12 images of data are") as caught:
        comparison = compare_inputs(inputs, options, command="explain")
    assert len([warning for warning in caught if "images of data" in str(warning.message)]) == 2
    assert comparison.settings.image_names == tuple(names[index] for index in (3, 5, 6, 8, 9))
    assert torch.equal(comparison.images, images(13)[[3, 4, 5, 6, 7]])
    assert (comparison.settings.samples, comparison.settings.left_out) == (10, 2)
