"""Checkpoints and numbers as the command line names them, and the channels of a model's images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from captum_kd.explain.models import (
    Normalisation,
    choose_layers,
    input_channels,
    parse_checkpoint,
    parse_numbers,
)
from captum_kd.models.small import small_resnet


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("student.pt", ("student", "student.pt", "")),
        ("mine=runs/last.ckpt::student", ("mine", "runs/last.ckpt", "student")),
        ("runs/a=b/last.ckpt", ("last", "runs/a=b/last.ckpt", "")),
    ],
)
def test_checkpoints_have_a_name_a_path_and_a_part(text: str, expected: tuple[str, str, str]) -> None:
    name, path, part = expected
    assert parse_checkpoint(text) == (name, Path(path), part)


def test_a_file_that_is_there_is_a_path_and_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("epoch=9-step=100.ckpt", "a::b.pt", "last.pt"):
        Path(name).touch()
    lightnings = "epoch=9-step=100"
    for text, expected in (
        (f"{lightnings}.ckpt", (lightnings, f"{lightnings}.ckpt", "")),
        (f"{lightnings}.ckpt::ema", (lightnings, f"{lightnings}.ckpt", "ema")),
        (f"mine={lightnings}.ckpt", ("mine", f"{lightnings}.ckpt", "")),
        (f"mine={lightnings}.ckpt::ema.net", ("mine", f"{lightnings}.ckpt", "ema.net")),
        ("a::b.pt", ("a::b", "a::b.pt", "")),
        ("mine=a::b.pt::ema", ("mine", "a::b.pt", "ema")),
        ("mine=last.pt", ("mine", "last.pt", "")),
    ):
        name, path, part = expected
        assert parse_checkpoint(text) == (name, Path(path), part)
    assert parse_checkpoint(str(tmp_path / f"{lightnings}.ckpt")).name == lightnings


def test_numbers_are_one_for_each_channel() -> None:
    assert parse_numbers("--mean", "0.5, 0.25,1", 3) == (0.5, 0.25, 1.0)
    message = (
        "--std: the models take images of 3 channels, so 3 comma-separated numbers are needed; got '0.5'."
    )
    with pytest.raises(ValueError, match=message):
        parse_numbers("--std", "0.5", 3)
    for text in ("", " ", ",,", "nan,0,0", "inf,0,0"):
        with pytest.raises(ValueError, match="--mean: "):
            parse_numbers("--mean", text, 3)
    for text in ("0,1,1", "1,-1,1"):
        with pytest.raises(ValueError, match="--std: every number must be above 0"):
            parse_numbers("--std", text, 3)
    assert parse_numbers("--mean", "0,0,-1", 3) == (0, 0, -1)


def test_an_empty_layer_is_not_the_whole_model() -> None:
    for named in ([""], ["layer2", " "]):
        with pytest.raises(ValueError, match="--base-layer: a layer's name is empty"):
            choose_layers("--base-layer", small_resnet(4), named)
    assert choose_layers("--layer", small_resnet(4), ["layer2"]) == ["layer2"]


def test_images_are_normalised_on_their_way_into_the_model() -> None:
    images = torch.rand(2, 3, 4, 4)
    model = nn.Identity()
    model.register_forward_pre_hook(Normalisation((0.1, 0.2, 0.3), (0.5, 1.0, 2.0)))
    expected = torch.stack(
        [(images[:, i] - m) / s for i, (m, s) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)])], dim=1
    )
    torch.testing.assert_close(model(images), expected)


def test_channels_are_those_of_the_first_convolution() -> None:
    assert input_channels(small_resnet(8)) == 3
    assert input_channels(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3))) == 1
    assert input_channels(nn.Linear(2, 2)) == 3
