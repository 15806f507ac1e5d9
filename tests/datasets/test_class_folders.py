"""The layout of folders of classes; what is read from them is checked with the data sets."""

from __future__ import annotations

import pytest
import torchvision
from PIL import Image

from captum_kd.datasets.class_folders import class_names_in, list_images, split_folders


@pytest.fixture
def folder(tmp_path):
    for name in ("moth/1.png", "moth/below/2.PNG", "bee/3.png", "bee/10.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "bee" / "notes.txt").touch()
    (tmp_path / "list.txt").touch()
    return tmp_path


def test_images_are_listed_as_by_torchvision(folder):
    names = class_names_in(folder)
    expected = torchvision.datasets.ImageFolder(folder)
    assert names == expected.classes
    paths, labels = list_images(folder, names)
    assert list(zip(map(str, paths), labels, strict=True)) == expected.samples


def test_classes_are_numbered_in_the_order_given(folder):
    paths, labels = list_images(folder, ("moth", "wasp", "bee"))
    assert [(path.parent.name, label) for path, label in zip(paths, labels, strict=True)] == [
        ("moth", 0),
        ("below", 0),
        ("bee", 2),
        ("bee", 2),
    ]


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "test", "val"), {"train", "test", "val"}),
        (("train", "val"), {"train", "val"}),
        (("train",), {"train"}),
        (("test", "val"), set()),
        (("train", "tram"), set()),
        ((), set()),
    ],
)
def test_splits_are_told_from_classes(names, splits, tmp_path):
    for name in names:
        (tmp_path / name).mkdir()
    assert split_folders(tmp_path) == {name: tmp_path / name for name in splits}
