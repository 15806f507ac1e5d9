"""Images from folders, lists and torchvision."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Grayscale

from captum_kd.datasets.image_files import evaluation_crop
from captum_kd.explain.images import find_images, in_grey

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CROP: Callable[[Image.Image], Tensor] = evaluation_crop(8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name, colour in COLOURS.items():
        (root / name / "more").mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (12 + i, 10), colour).save(root / name / ("more" if i else "") / f"{i}.png")
    return root


def colours(dataset: object) -> list[tuple[int, ...]]:
    return [
        (*(255 * image.mean(dim=(1, 2))).round().int().tolist(), label)
        for image, label in (dataset[i] for i in range(len(dataset)))  # type: ignore[index,arg-type]
    ]


def test_a_folder_per_class_is_read_as_torchvision_reads_it(folder: Path) -> None:
    found = find_images(str(folder), CROP)
    expected = torchvision.datasets.ImageFolder(str(folder))
    assert found.class_names == tuple(expected.classes) == ("blue", "green", "red")
    assert sorted(found.names) == sorted(Path(p).relative_to(folder).as_posix() for p, _ in expected.samples)
    assert sorted(colours(found.dataset)) == sorted(
        (*COLOURS[found.class_names[i]], i) for i in [0, 1, 2] * 4
    )
    # Names belong to their images.
    for name, (*_, label) in zip(found.names, colours(found.dataset), strict=True):
        assert name.startswith(found.class_names[label])


def test_images_can_be_sent_to_worker_processes_and_made_grey(folder: Path) -> None:
    found = find_images(str(folder), CROP)
    for images, channels in ((found, 3), (in_grey(found), 1)):
        sent = pickle.loads(pickle.dumps(images.dataset))
        for i in range(len(found.names)):
            image, label = sent[i]
            assert image.shape == (channels, 8, 8)
            expected, same = images.dataset[i]
            assert torch.equal(image, expected)
            assert label == same
    image, _ = in_grey(found).dataset[0]
    torch.testing.assert_close(image, Grayscale()(found.dataset[0][0]))


def test_the_order_is_random_and_repeats(folder: Path) -> None:
    first, again, other = (find_images(str(folder), CROP, limit=7, seed=seed).names for seed in (0, 0, 1))
    assert first == again != other
    assert len(first) == 7
    assert first != sorted(first)


def test_test_folders_are_taken(folder: Path) -> None:
    for part in ("train", "val"):
        (folder / part).mkdir()
    for name in COLOURS:
        (folder / name).rename(folder / "val" / name)
    assert len(find_images(str(folder), CROP).names) == 12


def test_class_names_order_the_classes(folder: Path) -> None:
    found = find_images(str(folder), CROP, class_names=("pink", "red", "green", "blue"))
    assert {label for *_, label in colours(found.dataset)} == {1, 2, 3}
    with pytest.raises(ValueError, match=r"--class-names: 'red', the class of .* Did you mean 'reed'"):
        find_images(str(folder), CROP, class_names=("reed", "green", "blue"))


def test_unreadable_files_are_left_out_and_listed(folder: Path) -> None:
    (folder / "red" / "broken.png").write_bytes(b"\x89PNG nothing")
    (folder / "red" / "empty.jpg").touch()
    found = find_images(str(folder), CROP)
    assert len(found.names) == 12
    assert {entry["file"] for entry in found.skipped} == {"red/broken.png", "red/empty.jpg"}
    assert all("cannot identify image file" in entry["reason"] for entry in found.skipped)
    assert not any(str(folder) in entry["reason"] for entry in found.skipped)
    assert len(find_images(str(folder), CROP, limit=3).names) == 3


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
def test_a_list_of_files(folder: Path, separator: str, tmp_path: Path) -> None:
    lines = [f"photos/{name}/0.png{separator}{name}" for name in COLOURS]
    (tmp_path / "list.txt").write_text("# comment\n\n" + "\n".join(lines))
    found = find_images(str(tmp_path / "list.txt"), CROP)
    assert found.class_names == ("blue", "green", "red")
    assert sorted(colours(found.dataset)) == sorted((*COLOURS[found.class_names[i]], i) for i in range(3))


def test_a_list_of_indices(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("photos/red/0.png,2\nphotos/blue/0.png,0\n")
    found = find_images(str(tmp_path / "list.csv"), CROP)
    assert found.class_names == ("0", "1", "2")
    assert sorted(colours(found.dataset)) == [(0, 0, 255, 0), (255, 0, 0, 2)]
    named = find_images(str(tmp_path / "list.csv"), CROP, class_names=("x", "y", "z"))
    assert named.class_names == ("x", "y", "z")


def write_cifar10(root: Path) -> None:
    """Files in CIFAR10's own layout."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    data = np.full((20, 3072), 51, dtype=np.uint8)
    content = {"data": data, "labels": list(range(10)) * 2}
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(content))
    names = {"label_names": [f"class {i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))


def test_a_data_set_of_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar10(tmp_path)
    # Small files have other checksums than the real ones.
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = find_images("cifar-10", CROP, root=tmp_path, limit=6)
    assert found.class_names[3] == "class 3"
    assert len(found.names) == 6
    assert all(name.startswith("CIFAR10 ") for name in found.names)
    images, labels = next(iter(DataLoader(found.dataset, 6)))
    torch.testing.assert_close(images, torch.full((6, 3, 8, 8), 0.2))
    assert labels.tolist() == [int(name.split()[1]) % 10 for name in found.names]


def test_bad_sources(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--images: '.*photo' is no folder.*Did you mean .*photos"):
        find_images(str(tmp_path / "photo"), CROP)
    with pytest.raises(ValueError, match="Did you mean CIFAR10"):
        find_images("CIFAR11", CROP)
    with pytest.raises(ValueError, match=r"holds no images.*in a sub-folder per class\. There are 3 images"):
        find_images(str(folder / "red" / "more"), CROP)
    (tmp_path / "list.txt").write_text("photos/red/0.png\n")
    with pytest.raises(ValueError, match=r"line 1 of .* must be a path and a class"):
        find_images(str(tmp_path / "list.txt"), CROP)
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="lists no images"):
        find_images(str(tmp_path / "list.txt"), CROP)
    (tmp_path / "list.txt").write_text("photos/red/missing.png,red\n")
    with pytest.raises(ValueError, match=r"none of the 1 images .* read. The first: photos/red/missing"):
        find_images(str(tmp_path / "list.txt"), CROP)
    with pytest.raises(ValueError, match="neither a folder nor a text file"):
        find_images(str(next((folder / "red").glob("*.png"))), CROP)


@pytest.mark.parametrize(
    ("splits", "taken"),
    [
        (("train", "valid", "test"), "test"),
        (("Train", "Validation"), "Validation"),
        (("training", "TEST"), "TEST"),
        (("train", "dev"), "dev"),
    ],
)
def test_the_split_that_is_taken_is_said(splits: tuple[str, ...], taken: str, folder: Path) -> None:
    for split in splits:
        for name in COLOURS:
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / split / name / f"{split}.png")
    for name in COLOURS:
        shutil.rmtree(folder / name)
    found = find_images(str(folder), CROP)
    assert found.class_names == ("blue", "green", "red")
    assert sorted(found.names) == [f"{name}/{taken}.png" for name in sorted(COLOURS)]
    assert found.notes[0].startswith(f"The images are those of {taken} (beside ")
    assert found.folder == folder


def test_training_images_alone_are_said_to_be_such(folder: Path) -> None:
    for name in COLOURS:
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
    assert "the models may have been trained on them" in find_images(str(folder), CROP).notes[0]


@pytest.mark.parametrize("header", ["path,label", "filename,class", "\ufeffImage\tTarget", '"path","label"'])
def test_a_header_makes_no_class(header: str, folder: Path, tmp_path: Path) -> None:
    lines = [header, *(f"photos/{name}/0.png,{name}" for name in COLOURS)]
    (tmp_path / "list.csv").write_text("\n".join(lines), "utf-8")
    found = find_images(str(tmp_path / "list.csv"), CROP)
    assert found.class_names == ("blue", "green", "red")
    assert len(found.names) == 3
    assert not found.skipped
    assert "was taken for the header" in found.notes[0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["label,path"], "line 1 of .* begins with 'label', which is no image. If it is a header"),
        (["id,path,label"], "line 1 of .* begins with 'id,path', which is no image"),
        (["photos/red/0.png,99999999"], "has the class '99999999', but only 1 different classes. With gaps"),
        (["photos/red/0.png,0", "photos/red/0.png,5000"], "has the class '5000', but only 2 different"),
        (["photos/red/0.png,9" + "9" * 5000], "has the class '9999"),
        (
            ["photos/red/0.png,0", "photos/red/0.png,-1"],
            "has the classes '-1' and '-1', and a list must have",
        ),
        (["photos/red/0.png,0.0", "photos/red/0.png,10.0"], "has the classes '0.0' and '0.0'"),
        (["photos/red/0.png,0", "photos/red/0.png,red"], "has the classes '0' and 'red'"),
    ],
)
def test_lists_whose_classes_would_be_guessed(
    lines: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        find_images(str(tmp_path / "list.csv"), CROP)


def test_a_name_of_two_outputs_is_no_class(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'red', the class of .*, is the name of 2 outputs"):
        find_images(str(folder), CROP, class_names=("red", "green", "blue", "red"))
    assert find_images(str(folder), CROP, class_names=("red", "green", "blue", "pink", "pink")).names


def test_no_source_is_not_the_working_folder() -> None:
    for source in ("", " "):
        with pytest.raises(ValueError, match="--images is empty"):
            find_images(source, CROP)
