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


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "valid", "test"), {"train": "train", "val": "valid", "test": "test"}),
        (("Train", "Validation", "TEST"), {"train": "Train", "val": "Validation", "test": "TEST"}),
        (("training", "testing"), {"train": "training", "test": "testing"}),
        (("train", "dev"), {"train": "train", "val": "dev"}),
        (("train", "eval", "test"), {"train": "train", "val": "eval", "test": "test"}),
        (("training_set", "test_set"), {"train": "training_set", "test": "test_set"}),
        (("train2017", "val2017"), {"train": "train2017", "val": "val2017"}),
        (("test", "VAL"), {"test": "test", "val": "VAL"}),
        (("test",), {"test": "test"}),
        (("cat", "test"), {}),
        (("train", "tram", "test"), {}),
        (("trainer", "tester"), {}),
    ],
)
def test_splits_are_known_by_other_names(names, splits, tmp_path):
    for name in names:
        (tmp_path / name / ("cat" if splits else "")).mkdir(parents=True, exist_ok=True)
    assert split_folders(tmp_path) == {kind: tmp_path / name for kind, name in splits.items()}


def test_what_is_neither_splits_nor_classes_is_refused(tmp_path):
    for name in (
        "train/cat",
        "valid/cat",
        "Validation/cat",
        "other/train/cat",
        "other/test/cat",
        "other/labels",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "other").rename(tmp_path.parent / f"{tmp_path.name} other")
    with pytest.raises(ValueError, match="two folders of the same split, Validation and valid"):
        split_folders(tmp_path)
    with pytest.raises(
        ValueError, match=r"splits of the same classes \(test, train\) beside other folders \(labels\)"
    ):
        split_folders(tmp_path.parent / f"{tmp_path.name} other")
