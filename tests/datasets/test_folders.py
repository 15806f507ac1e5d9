"""Folders of images in the layouts in which the data sets are published."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader

from captum_kd.datasets.folders import plain_transform
from captum_kd.datasets.image_files import read_rgb
from captum_kd.datasets.load import class_splits, load_data

PLANTS = ("Apple___Apple_scab", "Apple___healthy", "Tomato___Late_blight")


def save_images(folder, count, size=(40, 30), extension="jpg", start=0):
    """Images of smooth colours, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        generator = np.random.default_rng([index, len(folder.name), *folder.name.encode()])
        small = Image.fromarray(generator.integers(0, 256, (3, 4, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BILINEAR).save(folder / f"{index}.{extension}")


@pytest.fixture
def folder(tmp_path):
    """Two classes with ten images each."""
    for name in ("moth", "bee"):
        save_images(tmp_path / "insects" / name, 10)
    return tmp_path / "insects"


@pytest.fixture
def pet_images(tmp_path):
    """ASIRRA as published, with its corrupt files: 666.jpg is empty, 11702.jpg no image."""
    root = tmp_path / "data"
    for name in ("Cat", "Dog"):
        save_images(root / "PetImages" / name, 10)
        (root / "PetImages" / name / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "PetImages" / "Cat" / "666.jpg").touch()
    (root / "PetImages" / "Dog" / "11702.jpg").write_bytes(b"\x00" * 400)
    (root / "readme[1].txt").write_text("CDLA-Permissive-2.0")
    return root


def all_paths(data):
    return [os.path.relpath(path) for path in [*data.train.paths, *data.test.paths]]


# Layouts


def test_a_folder_has_a_fifth_of_each_class_held_out(folder):
    data = load_data(str(folder), image_size=32)
    assert (data.name, data.class_names, data.skipped) == ("insects", ("bee", "moth"), ())
    assert data.labels.bincount().tolist() == [8, 8]
    assert data.test_labels.bincount().tolist() == [2, 2]
    assert not set(data.train.paths) & set(data.test.paths)
    assert data.train.paths == data.plain.paths

    source = torchvision.datasets.ImageFolder(folder)
    kept, held_out = class_splits(torch.tensor(source.targets), 1, seed=0)[0]
    for dataset, indices in ((data.train, kept), (data.test, held_out)):
        expected = [source.samples[index] for index in indices.tolist()]
        assert list(zip(dataset.paths, dataset.labels.tolist(), strict=True)) == expected
    assert load_data(str(folder)).test.paths == data.test.paths
    assert load_data(str(folder), seed=1).test.paths != data.test.paths
    assert load_data(str(folder)).image_size == 224


@pytest.mark.parametrize(
    ("splits", "tested"),
    [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "test", "val"), "test")],
)
def test_the_splits_of_a_folder_are_used(splits, tested, tmp_path):
    for number, split in enumerate(splits):
        for name in ("bee", "moth"):
            save_images(tmp_path / split / name, 3 + number)
    data = load_data(str(tmp_path), image_size=16)
    assert data.labels.tolist() == [0] * 3 + [1] * 3
    assert len(data.test_labels) == 2 * (3 + splits.index(tested))
    assert all(os.path.relpath(path, tmp_path).startswith(tested) for path in data.test.paths)


def test_train_alone_is_split_and_train_among_other_classes_is_a_class(tmp_path):
    for name in ("bee", "moth"):
        save_images(tmp_path / "alone" / "train" / name, 5)
    data = load_data(str(tmp_path / "alone"))
    assert (data.class_names, len(data.labels), len(data.test_labels)) == (("bee", "moth"), 8, 2)
    for name in ("train", "tram"):
        save_images(tmp_path / "vehicles" / name, 5)
    assert load_data(str(tmp_path / "vehicles")).class_names == ("train", "tram")


def test_splits_by_other_names_are_used_and_images_are_upright(tmp_path):
    """A phone's photograph: what is right in the picture is below in the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16] = 255
    for split in ("Train", "valid"):
        for name in ("bee", "moth"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(3):
                Image.fromarray(pixels).save(tmp_path / split / name / f"{i}.png", exif=exif)
    data = load_data(str(tmp_path), image_size=32, augment=False)
    assert (data.class_names, len(data.labels), len(data.test_labels)) == (("bee", "moth"), 6, 6)
    for part in (data.train, data.plain, data.test):
        image, _ = part[0]
        assert image[:, :12].min() > image[:, -12:].max()


def test_asirra_skips_and_counts_its_corrupt_files(pet_images):
    with pytest.warns(
        UserWarning, match=r"left out 2 unreadable images in .*PetImages: Cat.666\.jpg, Dog.11702\.jpg"
    ):
        data = load_data("asirra", root=pet_images, image_size=32)
    assert data.skipped == (os.path.join("Cat", "666.jpg"), os.path.join("Dog", "11702.jpg"))
    assert (data.name, data.class_names) == ("asirra", ("Cat", "Dog"))
    assert len(data.labels) + len(data.test_labels) == 20
    assert not any("666" in path or "11702" in path or "Thumbs" in path for path in all_paths(data))


def test_asirra_is_found_by_other_names_and_from_its_own_folder(pet_images):
    found = set()
    for name, root in (("PetImages", pet_images), ("ASIRRA", pet_images / "PetImages")):
        with pytest.warns(UserWarning, match="left out 2"):
            data = load_data(name, root=root)
        found.add((tuple(data.train.paths), data.fingerprint))
    assert len(found) == 1


@pytest.mark.parametrize("below", ["", "color", "raw/color"])
@pytest.mark.parametrize("top", ["PlantVillage", ""])
def test_plant_village_is_found_in_its_layouts(top, below, tmp_path):
    for name in PLANTS:
        save_images(tmp_path / top / below / name, 5, extension="JPG")
    if below:
        save_images(tmp_path / top / below / ".." / "grayscale" / PLANTS[0], 1)
    (tmp_path / "FashionMNIST").mkdir()
    data = load_data("PlantVillage", root=tmp_path)
    assert (data.name, data.class_names) == ("plant-village", PLANTS)
    assert len(data.labels) == 12
    assert all(os.sep + "grayscale" + os.sep not in path for path in data.train.paths)


@pytest.mark.parametrize("name", ["asirra", "plant-village"])
def test_a_missing_data_set_says_where_it_was_looked_for(name, tmp_path):
    with pytest.raises(ValueError, match=r"folders.* in .*--root"):
        load_data(name, root=tmp_path)


# Images


def test_augmentation_varies_and_repeats_with_the_seed_of_torch(folder):
    data = load_data(str(folder), image_size=24)

    def epoch(dataset, seed):
        torch.manual_seed(seed)
        return torch.cat([images for images, _ in DataLoader(dataset, batch_size=4)])

    first = epoch(data.train, 1)
    assert first.shape == (16, 3, 24, 24)
    assert first.dtype == torch.float32
    assert type(data.train[0][0]) is torch.Tensor
    assert first.equal(epoch(data.train, 1))
    assert not first.equal(epoch(data.train, 2))
    assert epoch(data.plain, 1).equal(epoch(data.plain, 2))
    assert epoch(data.test, 1).equal(epoch(data.test, 2))
    still = load_data(str(folder), image_size=24, augment=False)
    assert epoch(still.train, 1).equal(epoch(data.plain, 1))


def test_plain_images_are_those_of_torchvisions_pretrained_models(folder):
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    path = folder / "bee" / "3.jpg"
    torch.testing.assert_close(plain_transform(224)(read_rgb(path)), preset(Image.open(path).convert("RGB")))


def test_a_limit_leaves_the_test_images_alone(folder):
    data = load_data(str(folder), limit=6)
    assert data.labels.bincount().tolist() == [3, 3]
    whole = load_data(str(folder))
    assert data.test.paths == whole.test.paths
    assert set(data.train.paths) < set(whole.train.paths)
    assert data.fingerprint == whole.fingerprint


def test_the_fingerprint_follows_contents_and_names_but_not_places_and_times(folder, tmp_path):
    before = load_data(str(folder)).fingerprint
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    os.utime(copy / "bee" / "1.jpg", (0, 0))
    assert load_data(str(copy)).fingerprint == before
    (copy / "bee" / "1.jpg").rename(copy / "bee" / "11.jpg")
    renamed = load_data(str(copy)).fingerprint
    save_images(copy / "moth", 1, start=20)
    (copy / "moth" / "20.jpg").replace(copy / "moth" / "1.jpg")
    assert len({before, renamed, load_data(str(copy)).fingerprint}) == 3


def test_an_image_that_is_lost_during_training_is_named(folder):
    data = load_data(str(folder), image_size=16)
    path = data.train.paths[2]
    with open(path, "r+b") as stream:
        stream.truncate(200)
    with pytest.raises(OSError, match=r"\d\.jpg was readable when the data was loaded but is not now"):
        data.train[2]


# Trouble


def damage(folder):
    """A truncated, an empty and an invented image, a text, and a link that leads nowhere."""
    whole = (folder / "bee" / "0.jpg").read_bytes()
    (folder / "bee" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "bee" / "empty.png").touch()
    (folder / "bee" / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x01" * 50)
    (folder / "moth" / "text.jpeg").write_text("<html>404</html>")
    (folder / "moth" / "lost.jpg").symlink_to(folder / "nowhere.jpg")
    return {
        f"bee{os.sep}cut.jpg",
        f"bee{os.sep}empty.png",
        f"bee{os.sep}header.png",
        f"moth{os.sep}text.jpeg",
        f"moth{os.sep}lost.jpg",
    }


def test_unreadable_images_are_an_error_that_says_how_to_leave_them_out(folder):
    damaged = damage(folder)
    (folder / "moth" / "zero.bmp").touch()
    with pytest.raises(
        ValueError, match=r"6 unreadable images in .*insects: .*, \.\.\. .*skip_unreadable=True.*--skip-unr"
    ) as caught:
        load_data(str(folder))
    assert all(name in str(caught.value) for name in damaged)


def test_unreadable_images_can_be_left_out(folder):
    damaged = damage(folder)
    with pytest.warns(UserWarning, match="left out 5 unreadable images"):
        data = load_data(str(folder), skip_unreadable=True)
    assert set(data.skipped) == damaged
    assert len(data.labels) + len(data.test_labels) == 20


def test_unreadable_test_images_are_found_too(tmp_path):
    for split in ("train", "test"):
        for name in ("bee", "moth"):
            save_images(tmp_path / split / name, 2)
    (tmp_path / "test" / "bee" / "cut.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"1 unreadable image in .*test.bee.cut\.jpg"):
        load_data(str(tmp_path))


def test_files_that_are_no_images_and_links_in_a_circle_do_no_harm(folder):
    (folder / "bee" / "Thumbs.db").write_bytes(b"\x00")
    (folder / "bee" / "notes.txt").write_text("bees")
    (folder / "README.md").write_text("insects")
    (folder / ".cache").mkdir()
    (folder / "__MACOSX").mkdir()
    (folder / "bee" / "circle").symlink_to(folder / "bee", target_is_directory=True)
    (folder / "moth" / "up").symlink_to(folder / "moth", target_is_directory=True)
    (folder / "moth" / "directory.jpg").mkdir()
    save_images(folder / "moth" / "directory.jpg", 2)
    data = load_data(str(folder))
    assert data.class_names == ("bee", "moth")
    assert len(data.labels) + len(data.test_labels) == 22


def test_a_class_without_readable_images_is_named(folder):
    (folder / "wasp").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*wasp holds no readable image.*\.jpg"):
        load_data(str(folder))
    (folder / "wasp" / "0.jpg").touch()
    with (
        pytest.warns(UserWarning, match="left out 1"),
        pytest.raises(ValueError, match=r"class folder .*wasp holds no readable image"),
    ):
        load_data(str(folder), skip_unreadable=True)


def test_folders_without_enough_classes_or_images_are_refused(tmp_path):
    save_images(tmp_path / "flat", 3)
    with pytest.raises(ValueError, match=r"flat needs a sub-folder .* at least 2 classes; it has none"):
        load_data(str(tmp_path / "flat"))
    save_images(tmp_path / "single" / "bee", 3)
    with pytest.raises(ValueError, match=r"single needs a sub-folder .*; it has only 'bee'"):
        load_data(str(tmp_path / "single"))
    save_images(tmp_path / "few" / "bee", 5)
    save_images(tmp_path / "few" / "moth", 4)
    with pytest.raises(ValueError, match="few: class 'moth' has 4 images, but at least 5"):
        load_data(str(tmp_path / "few"))


def test_test_classes_must_be_those_of_training(tmp_path):
    for name in ("bee", "moth"):
        save_images(tmp_path / "train" / name, 2)
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"test holds no readable image"):
        load_data(str(tmp_path))
    save_images(tmp_path / "test" / "wasp", 2)
    with pytest.raises(ValueError, match=r"test has classes that .*train does not have: wasp"):
        load_data(str(tmp_path))
