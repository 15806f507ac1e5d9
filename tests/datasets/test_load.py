"""The registry, splits, and the data sets that fit into memory."""

from __future__ import annotations

import gzip
import pickle
import socket
import struct

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import functional as transforms

from captum_kd.datasets import in_memory
from captum_kd.datasets.in_memory import TensorImages, random_crops, random_flips
from captum_kd.datasets.load import DATA_SETS, class_splits, load_data
from captum_kd.datasets.planted_cue import normalise, plant_cues
from captum_kd.datasets.splits import balanced_indices


@pytest.fixture(scope="module")
def fashion_root(tmp_path_factory):
    if not in_memory.DEBIAN_FASHION_MNIST.is_dir():
        try:
            socket.create_connection(("github.com", 443), timeout=3).close()
        except OSError:
            pytest.skip("Fashion-MNIST is neither installed nor reachable")
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Neither a network nor the Debian package."""

    def refuse(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(in_memory, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """CIFAR10's real file layout with 20 images a batch; only the checksums are set aside."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    data_set = torchvision.datasets.CIFAR10
    generator = np.random.default_rng(0)
    for filename, _ in data_set.train_list + data_set.test_list:
        batch = {
            "data": generator.integers(0, 256, (20, 3072), dtype=np.uint8),
            "labels": [index % 10 for index in range(20)],
        }
        (folder / filename).write_bytes(pickle.dumps(batch))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for attribute in ("train_list", "test_list"):
        monkeypatch.setattr(data_set, attribute, [(name, None) for name, _ in getattr(data_set, attribute)])
    monkeypatch.setattr(data_set, "meta", data_set.meta | {"md5": None})
    return tmp_path


def batch_of(dataset, indices):
    return torch.stack([image for image, _ in dataset.__getitems__(indices)])


# Splits


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(6, 25), min_size=2, max_size=5),
    folds=st.integers(2, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_splits_are_stratified_disjoint_and_cover_everything(counts, folds, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    splits = class_splits(labels, folds, seed)
    assert len(splits) == folds
    assert torch.cat([validation for _, validation in splits]).sort().values.equal(torch.arange(len(labels)))
    for train, validation in splits:
        assert torch.cat((train, validation)).sort().values.equal(torch.arange(len(labels)))
        held_out = labels[validation].bincount(minlength=len(counts))
        assert ((held_out - torch.tensor(counts) / folds).abs() < 1).all()
    for again, first in zip(class_splits(labels, folds, seed), splits, strict=True):
        assert again[0].equal(first[0])
        assert again[1].equal(first[1])


def test_one_fold_holds_out_a_fifth_of_each_class_and_the_seed_matters():
    labels = torch.arange(200) % 4
    [(train, validation)] = class_splits(labels, 1, seed=3)
    assert labels[validation].bincount().tolist() == [10] * 4
    assert len(train) == 160
    assert validation.equal(class_splits(labels, 5, seed=3)[0][1])
    assert not validation.equal(class_splits(labels, 1, seed=4)[0][1])


@pytest.mark.parametrize(
    ("labels", "folds", "seed", "error", "message"),
    [
        (torch.tensor([0, 0, 0, 1, 1]), 3, 0, ValueError, "class 1 has 2 images, but at least 3"),
        (torch.tensor([0] * 5 + [1] * 4), 1, 0, ValueError, "class 1 has 4 images.*one fifth"),
        (torch.arange(4), 0, 0, ValueError, "folds is 0; at least 1"),
        (torch.arange(4), 2.0, 0, TypeError, "folds is 2.0"),
        (torch.arange(4), 2, -1, ValueError, "seed is -1"),
        (torch.zeros(4), 2, 0, TypeError, "float32; integer"),
        (torch.zeros(2, 2, dtype=torch.int64), 2, 0, ValueError, r"shape \(2, 2\)"),
        (torch.zeros(0, dtype=torch.int64), 2, 0, ValueError, r"shape \(0,\)"),
    ],
)
def test_splits_refuse_what_they_cannot_split(labels, folds, seed, error, message):
    with pytest.raises(error, match=message):
        class_splits(labels, folds, seed)


def test_splits_name_the_class_where_they_know_it():
    with pytest.raises(ValueError, match="class 'Dog' has 1 image, "):
        class_splits(torch.tensor([0, 0, 1]), 2, 0, class_names=("Cat", "Dog"))


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    extra=st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_a_limit_takes_as_many_of_each_class_as_it_can(counts, extra, seed):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    limit = len(counts) + extra
    chosen = balanced_indices(labels, limit, seed)
    assert len(chosen) == min(limit, len(labels))
    assert chosen.equal(chosen.unique())
    taken = labels[chosen].bincount(minlength=len(counts))
    short = taken < torch.tensor(counts)  # classes of which something was left
    if short.any():
        assert taken.max() - taken[short].min() <= 1
    assert chosen.equal(balanced_indices(labels, limit, seed))


# The registry


@pytest.mark.parametrize(
    ("word", "suggestion"),
    [("cifar100", "cifar10"), ("PetImage", "PetImages"), ("FashionMNST", "fashion-mnist"), ("zzzz", None)],
)
def test_an_unknown_name_lists_the_valid_ones(word, suggestion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no such folder exists") as caught:
        load_data(word)
    message = str(caught.value)
    assert all(name in message for name in DATA_SETS)
    assert ("Did you mean" in message) == (suggestion is not None)
    assert suggestion is None or suggestion in message.partition("Did you mean")[2]


def test_a_misspelt_folder_names_its_neighbour_and_a_file_is_no_folder(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(ValueError, match=r"Did you mean .*flowers"):
        load_data(str(tmp_path / "flower"))
    (tmp_path / "list.txt").touch()
    with pytest.raises(ValueError, match="that path is a file"):
        load_data(str(tmp_path / "list.txt"))
    with pytest.raises(ValueError, match="unknown data ''"):
        load_data("")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"image_size": 0}, ValueError),
        ({"image_size": 32.0}, TypeError),
        ({"seed": -1}, ValueError),
        ({"seed": 1.5}, ValueError),
    ],
)
def test_arguments_out_of_range_are_named(arguments, error, tmp_path):
    [(name, value)] = arguments.items()
    with pytest.raises(error, match=f"{name} is {value}"):
        load_data("cifar10", root=tmp_path, **arguments)


# Augmentation


def test_each_image_is_cropped_at_a_place_of_its_own():
    torch.manual_seed(0)
    images = torch.randint(1, 256, (40, 3, 6, 7), dtype=torch.uint8)
    crops = random_crops(images, padding=2)
    padded = transforms.pad(images, [2])
    places = set()
    for image, crop in zip(padded, crops, strict=True):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if transforms.crop(image, top, left, 6, 7).equal(crop)
        ]
        assert len(matches) == 1
        places.update(matches)
    assert {top for top, _ in places} == {left for _, left in places} == set(range(5))


def test_about_half_of_the_images_are_flipped():
    torch.manual_seed(0)
    images = torch.rand(1000, 1, 2, 3)
    flips = random_flips(images)
    flipped = (flips == transforms.horizontal_flip(images)).flatten(1).all(1)
    kept = (flips == images).flatten(1).all(1)
    assert (flipped ^ kept).all()
    assert 0.45 < flipped.double().mean() < 0.55


def test_augmentation_varies_and_repeats_with_the_seed_of_torch():
    images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(64)
    train = TensorImages(images, labels, lambda batch: batch / 255, padding=2)
    plain = TensorImages(images, labels, lambda batch: batch / 255)

    def epoch(dataset, seed):
        torch.manual_seed(seed)
        loader = DataLoader(dataset, batch_size=16, shuffle=True)
        return [torch.cat(part) for part in zip(*loader, strict=True)]

    first, again, other = epoch(train, 1), epoch(train, 1), epoch(train, 2)
    assert first[0].equal(again[0])
    assert first[1].equal(again[1])
    assert not first[0][first[1].argsort()].equal(other[0][other[1].argsort()])
    one, two = epoch(plain, 1), epoch(plain, 2)
    assert one[0][one[1].argsort()].equal(two[0][two[1].argsort()])
    assert one[0][one[1].argsort()].equal(images / 255)


def test_images_of_a_function_are_made_once_and_only_when_needed():
    calls = []

    def make():
        calls.append(1)
        return torch.zeros(3, 3, 4, 4, dtype=torch.uint8)

    dataset = TensorImages(make, torch.arange(3), lambda batch: batch / 255)
    assert len(dataset) == 3
    assert not calls
    assert dataset[2][1] == 2
    assert dataset[0][1] == 0
    assert len(calls) == 1


# CIFAR10


def test_cifar10_is_read_from_torchvisions_layout(cifar_root):
    data = load_data("CIFAR_10", root=cifar_root)
    assert (data.name, data.image_size, len(data.labels), len(data.test_labels)) == ("cifar10", 32, 100, 20)
    assert data.class_names[3] == "cat"
    source = torchvision.datasets.CIFAR10(cifar_root, train=True)
    image, label = data.plain[57]
    assert label == source.targets[57] == int(data.labels[57])
    scaled = torch.from_numpy(source.data[57]).permute(2, 0, 1) / 255
    mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    std = torch.tensor([0.2470, 0.2435, 0.2616])[:, None, None]
    torch.testing.assert_close(image, (scaled - mean) / std)
    assert not torch.equal(batch_of(data.train, range(8)), batch_of(data.train, range(8)))


def test_cifar10_can_be_limited_resized_and_left_as_it_is(cifar_root):
    data = load_data("cifar10", root=cifar_root, limit=30, image_size=48, augment=False)
    assert data.labels.bincount().tolist() == [3] * 10
    assert data.train[0][0].shape == data.test[0][0].shape == (3, 48, 48)
    assert data.train[5][0].equal(data.plain[5][0])
    assert len(data.test) == 20
    everything = load_data("cifar10", root=cifar_root)
    assert data.fingerprint == everything.fingerprint
    with pytest.raises(ValueError, match="limit is 9; at least 10"):
        load_data("cifar10", root=cifar_root, limit=9)


def test_the_fingerprint_follows_a_single_byte(cifar_root):
    before = load_data("cifar10", root=cifar_root).fingerprint
    path = cifar_root / "cifar-10-batches-py" / "test_batch"
    batch = pickle.loads(path.read_bytes())
    batch["data"][3, 4] ^= 1
    path.write_bytes(pickle.dumps(batch))
    assert load_data("cifar10", root=cifar_root).fingerprint != before


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("name", "place"),
    [("cifar10", "cifar-10-python.tar.gz"), ("fashion-mnist", "train-images-idx3-ubyte.gz")],
)
def test_a_failed_download_says_where_the_files_belong(name, place, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"Put {place}.* into {tmp_path}.*network is unreachable"):
        load_data(name, root=tmp_path)


# Fashion-MNIST


def idx_file(values):
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.mark.usefixtures("no_network")
def test_fashion_mnist_is_unpacked_from_the_debian_package(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    images = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28)
    for stem in ("train", "t10k"):
        (package / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_file(images)))
        labels = np.array([7, 2], dtype=np.uint8)
        (package / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_file(labels)))
    monkeypatch.setattr(in_memory, "DEBIAN_FASHION_MNIST", package)
    train, _ = in_memory.read_fashion_mnist(tmp_path)
    assert train.data.equal(torch.from_numpy(images))
    assert train.targets.tolist() == [7, 2]
    raw = tmp_path / "FashionMNIST" / "raw"
    assert len(list(raw.iterdir())) == 4

    # What a process leaves that is stopped while torchvision unpacks.
    whole = (raw / "train-images-idx3-ubyte").read_bytes()
    (raw / "train-images-idx3-ubyte").write_bytes(whole[:1000])
    with pytest.raises(ValueError, match=r"Fashion-MNIST in .*raw is damaged .*delete that folder"):
        load_data("fashion-mnist", root=tmp_path)


def test_fashion_mnist(fashion_root):
    data = load_data("FashionMNIST", root=fashion_root, limit=1000)
    assert data.labels.bincount().tolist() == [100] * 10
    assert data.test_labels.bincount().tolist() == [1000] * 10
    assert data.class_names[9] == "Ankle boot"
    images = batch_of(data.test, range(10000))
    assert images.shape == (10000, 3, 28, 28)
    assert images.dtype == torch.float32
    assert images[:, 0].equal(images[:, 2])
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01
    loader = DataLoader(Subset(data.train, [5, 3, 8]), batch_size=3)
    batch, labels = next(iter(loader))
    assert batch.shape == (3, 3, 28, 28)
    assert labels.equal(data.labels[[5, 3, 8]])
    other = load_data("fashion-mnist", root=fashion_root, limit=1000, seed=1)
    assert other.fingerprint == data.fingerprint
    assert not other.plain[0][0].equal(data.plain[0][0])


# Planted cues


def test_planted_cues_are_those_of_plant_cues(fashion_root):
    data = load_data("planted-cue", root=fashion_root, limit=60, seed=7)
    source = torchvision.datasets.FashionMNIST(fashion_root, train=True)
    chosen = balanced_indices(source.targets, 60, 7)
    items, labels = source.data[chosen], source.targets[chosen]
    assert data.labels.equal(labels)
    for dataset, agreement, seed in ((data.teacher_train, 0, 8), (data.train, 0.95, 9), (data.plain, 0, 10)):
        planted = plant_cues(items, labels, agreement=agreement, seed=seed)
        assert batch_of(dataset, range(60)).equal(normalise(planted.images))
        assert [label for _, label in dataset] == labels.tolist()
    assert data.train[0][0].shape == (3, data.image_size, data.image_size)


def test_planted_test_images_come_with_cues_and_variants(fashion_root, monkeypatch):
    whole = in_memory.read_fashion_mnist(fashion_root)
    whole[1].data, whole[1].targets = whole[1].data[:600], whole[1].targets[:600]
    monkeypatch.setattr(in_memory, "read_fashion_mnist", lambda _root: whole)
    data = load_data("Planted_Cue", root=fashion_root, limit=10, seed=2)
    planted = plant_cues(whole[1].data, whole[1].targets, agreement=0, seed=6)
    assert data.test_cues.equal(planted.cues)
    assert batch_of(data.test, range(600)).equal(normalise(planted.images))
    for omit in ("item", "cue"):
        variant = plant_cues(whole[1].data, whole[1].targets, agreement=0, seed=6, omit=omit)
        assert batch_of(data.test_variants[f"without_{omit}"], range(600)).equal(normalise(variant.images))
    assert set(data.test_variants) == {"without_item", "without_cue"}
