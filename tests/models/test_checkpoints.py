"""Weights from files: every form that is read, and what is said of those that are not."""

from __future__ import annotations

import argparse
import datetime
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import lightning
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from captum_kd.models.checkpoints import Checkpoint, load_weights, read_checkpoint
from captum_kd.models.small import small_resnet


def network(classes: int = 4) -> nn.Module:
    return small_resnet(4, classes)


class Taught(lightning.LightningModule):
    """A student beside its teacher, as distillation code often holds them."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.student = network()
        self.teacher = teacher


def lightning_checkpoint(model: Taught, path: Path) -> Path:
    trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def plain(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


def tensors(model: nn.Module, path: Path) -> Path:
    save_file(model.state_dict(), path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def data_parallel(model: nn.Module, path: Path) -> Path:
    return plain(nn.DataParallel(model), path)


def compiled(model: nn.Module, path: Path) -> Path:
    return plain(torch.compile(model), path)


def trainers(model: nn.Module, path: Path) -> Path:
    torch.save({"epoch": 3, "model": model.state_dict(), "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize("write", [plain, tensors, data_parallel, compiled, trainers])
def test_weights_are_those_that_were_saved(write: Callable[[nn.Module, Path], Path], tmp_path: Path) -> None:
    saved, loaded = network(), network()
    load_weights(loaded, write(saved, tmp_path / "weights.pt"))
    for key, value in saved.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)


def test_a_lightning_checkpoint_gives_its_only_model_that_fits(tmp_path: Path) -> None:
    model, loaded = Taught(small_resnet(8, 4)), network()
    load_weights(loaded, lightning_checkpoint(model, tmp_path / "last.ckpt"))
    torch.testing.assert_close(loaded.fc.weight, model.student.fc.weight)


def test_of_two_models_that_fit_the_user_says_which(tmp_path: Path) -> None:
    model, loaded = Taught(network()), network()
    path = lightning_checkpoint(model, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"holds several models that fit: student, teacher.*::student"):
        load_weights(loaded, path)
    load_weights(loaded, path, "teacher")
    torch.testing.assert_close(loaded.fc.weight, model.teacher.fc.weight)
    with pytest.raises(
        ValueError, match=r"no keys that begin with 'pupil\.'; what fits in it: student, teacher"
    ):
        load_weights(loaded, path, "pupil")


def test_what_differs_is_named(tmp_path: Path) -> None:
    path = plain(network(), tmp_path / "a.pt")
    message = r"does not fit SmallResNet: 6\d keys differ: conv1.weight \(4 x 3 x 3 x 3 in the file, 8 x"
    with pytest.raises(ValueError, match=message):
        load_weights(small_resnet(8, 4), path)
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load_weights(torchvision.models.resnet18(num_classes=4), path)


def test_the_prefix_that_fits_most_is_taken_for_the_message(tmp_path: Path) -> None:
    weights = {f"module.{key}": value for key, value in network(4).state_dict().items()}
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"2 keys differ: fc.weight \(4 x 32 in the file, 9 x 32"):
        load_weights(network(9), tmp_path / "a.pt")


class Dangerous:
    """Would run code if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("ran"),))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a readable checkpoint"),
        (b"<html>", "is not a readable checkpoint|no tensors"),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_weights(network(), path)
    path = path.with_suffix(".safetensors")
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_weights(network(), path)


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": network().state_dict(), "settings": Dangerous()}, "a.pt")
    with pytest.raises(ValueError, match=r"could run code, so it is not loaded\. Write the weights alone"):
        load_weights(network(), "a.pt")
    assert not Path("ran").exists()
    torch.save(network(), "whole.pt")
    with pytest.raises(ValueError, match=r"holds an object of captum_kd\.models\.small"):
        load_weights(network(), "whole.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {}])
def test_files_without_weights(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="but a state dict is needed"):
        load_weights(network(), tmp_path / "a.pt")


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    plain(network(), tmp_path / "student.pt")
    with pytest.raises(ValueError, match=r"no checkpoint .*studnet\.pt\. Did you mean .*student\.pt"):
        load_weights(network(), tmp_path / "studnet.pt")


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_the_number_of_classes_is_read_from_the_head(name: str, tmp_path: Path) -> None:
    build = torchvision.models.get_model_builder(name)
    checkpoint = read_checkpoint(plain(build(num_classes=7), tmp_path / "a.pt"))
    other = build(num_classes=3)
    assert checkpoint.output_size(other) == 7
    prefixed = {"module." + key: value for key, value in checkpoint.weights.items()}
    assert checkpoint._replace(weights=prefixed).output_size(other) == 7
    assert checkpoint._replace(weights={}).output_size(other) is None
    assert checkpoint.output_size(nn.ReLU()) is None


def test_the_number_of_classes_of_two_different_models_is_unknown() -> None:
    both = {f"student.{k}": v for k, v in network(4).state_dict().items()}
    both |= {f"teacher.{k}": v for k, v in network(5).state_dict().items()}
    assert Checkpoint(Path("a.pt"), both, {}).output_size(network(9)) is None


def test_metadata_of_safetensors_is_read_with_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(network().state_dict(), path, {"architecture": "small_resnet4"})
    checkpoint = read_checkpoint(path)
    assert (checkpoint.path, checkpoint.metadata) == (path, {"architecture": "small_resnet4"})
    assert checkpoint.weights.keys() == network().state_dict().keys()
    with pytest.raises(ValueError, match=r"does not fit SmallResNet: .* It was written for small_resnet4\."):
        checkpoint.load_into(network(9))
    assert read_checkpoint(plain(network(), tmp_path / "a.pt")).metadata == {}


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model_state_dict", "ema_state_dict"),
        ("net", "ema"),
        ("params", "params_ema"),
        ("model", "teacher"),
    ],
)
def test_the_trained_weights_are_taken_before_averages_and_that_is_said(
    first: str, second: str, tmp_path: Path
) -> None:
    one, two, loaded = network(), network(), network()
    torch.save({"epoch": 3, second: two.state_dict(), first: one.state_dict()}, tmp_path / "a.pt")
    said = rf"the part '{first}' was loaded; it also holds {second}\. .*::{second}"
    with pytest.warns(UserWarning, match=said):
        load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, one)
    assert not same(loaded, two)
    load_weights(loaded, tmp_path / "a.pt", second)
    assert same(loaded, two)
    assert read_checkpoint(tmp_path / "a.pt").load_into(loaded, first) == (first, (second,), (second,))


@pytest.mark.parametrize(
    "key",
    ["ema", "ema_state_dict", "student_state_dict", "model_s", "teacher", "params", "generator", "net_42"],
)
@pytest.mark.parametrize("wrap", [False, True])
def test_a_single_model_is_found_under_any_key(key: str, wrap: bool, tmp_path: Path) -> None:
    saved, loaded = network(), network()
    optimizer = torch.optim.SGD(saved.parameters(), momentum=0.9)
    saved(torch.rand(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    weights: object = {"state_dict": saved.state_dict()} if wrap else saved.state_dict()
    torch.save(
        {"optimizer": optimizer.state_dict(), key: weights, "best": torch.tensor(0.5)}, tmp_path / "a.pt"
    )
    load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, saved)


@pytest.mark.parametrize("keys", [("student_state_dict", "teacher_state_dict"), ("model_s", "model_t")])
def test_of_student_and_teacher_the_user_says_which(keys: tuple[str, str], tmp_path: Path) -> None:
    models = [network(), network()]
    torch.save({k: m.state_dict() for k, m in zip(keys, models, strict=True)}, tmp_path / "a.pt")
    loaded = network()
    with pytest.raises(
        ValueError, match=f"holds several models that fit: {', '.join(keys)}. Say which .*::{keys[0]}"
    ):
        load_weights(loaded, tmp_path / "a.pt")
    for key, model in zip(keys, models, strict=True):
        load_weights(loaded, tmp_path / "a.pt", key)
        assert same(loaded, model)
    # Where only one of them fits, there is nothing to choose.
    torch.save({keys[0]: models[0].state_dict(), keys[1]: network(9).state_dict()}, tmp_path / "a.pt")
    load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, models[0])


def test_a_container_and_a_prefix_within_it(tmp_path: Path) -> None:
    models = {(c, p): network() for c in ("state_dict", "state_dict_ema") for p in ("student", "teacher")}
    content: dict[str, dict[str, torch.Tensor]] = {}
    for (container, prefix), model in models.items():
        content.setdefault(container, {}).update(model.state_dict(prefix=prefix + "."))
    torch.save(content, tmp_path / "a.pt")
    loaded = network()
    for (container, prefix), model in models.items():
        load_weights(loaded, tmp_path / "a.pt", f"{container}.{prefix}")
        assert same(loaded, model)
    load_weights(loaded, tmp_path / "a.pt", "teacher")
    assert same(loaded, models["state_dict", "teacher"])
    with pytest.raises(ValueError, match=r"models that fit: state_dict_ema\.student, state_dict_ema\.tea"):
        load_weights(loaded, tmp_path / "a.pt", "state_dict_ema")
    with pytest.raises(ValueError, match=r"what fits in it: student, teacher, state_dict_ema\.student"):
        load_weights(loaded, tmp_path / "a.pt", "pupil")


def test_the_trained_weights_are_known_deeper_in_the_file_too(tmp_path: Path) -> None:
    trained, loaded = network(), network()
    inner = {"ema": network().state_dict(), "state_dict": trained.state_dict()}
    torch.save({"model": inner, "teacher": network().state_dict()}, tmp_path / "a.pt")
    with pytest.warns(
        UserWarning, match=r"'model\.state_dict' was loaded; it also holds model\.ema, teacher"
    ):
        load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, trained)


def test_a_part_may_be_named_by_the_first_of_its_keys(tmp_path: Path) -> None:
    models = {name: network() for name in ("student", "teacher")}
    content = {name: {"epoch": 1, "state_dict": m.state_dict()} for name, m in models.items()}
    torch.save(content, tmp_path / "a.pt")
    loaded = network()
    with pytest.raises(ValueError, match=r"models that fit: student\.state_dict, teacher\.state_dict"):
        load_weights(loaded, tmp_path / "a.pt")
    for name, model in models.items():
        for part in (name, f"{name}.state_dict"):
            load_weights(loaded, tmp_path / "a.pt", part)
            assert same(loaded, model)


def test_the_number_of_classes_is_that_of_the_part(tmp_path: Path) -> None:
    torch.save({"model": network(3).state_dict(), "other": network(5).state_dict()}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.output_size(network()) == checkpoint.output_size(network(), "model") == 3
    assert checkpoint.output_size(network(), "other") == 5
    with pytest.raises(ValueError, match=r"does not fit .* This is its part 'model'; it also holds other\."):
        checkpoint.load_into(network(9))


def beside_the_weights() -> dict[str, object]:
    """What torchvision's, timm's and others' trainers save."""
    settings = argparse.Namespace(
        lr=0.1, output_dir=Path("runs"), nested=argparse.Namespace(rank=np.int64(3))
    )
    return {
        "args": settings,
        "metric": np.float64(0.5),
        "others": [np.float32(1), np.bool_(True), np.complex64(1j), np.dtype("float32"), np.float16],
        "when": datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        "took": datetime.timedelta(1),
        "folder": PurePosixPath("a") / "b",
        "on windows": PureWindowsPath("c:\\x"),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights_are_read(zipped: bool, tmp_path: Path) -> None:
    saved, loaded = network(), network()
    content = {"model": saved.state_dict(), **beside_the_weights()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    before = set(torch.serialization.get_safe_globals())
    load_weights(loaded, tmp_path / "a.pt")
    assert same(loaded, saved)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("place", ["alone", "in a Namespace", "in a list", "in a dictionary of paths"])
@pytest.mark.parametrize("zipped", [True, False])
def test_evil_objects_among_harmless_ones_are_refused(
    place: str, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = Dangerous()
    content = {"model": network().state_dict(), **beside_the_weights()}
    content["x"] = {
        "alone": evil,
        "in a Namespace": argparse.Namespace(inner=argparse.Namespace(lr=evil)),
        "in a list": [(evil,)],
        "in a dictionary of paths": {PurePosixPath("a"): evil},
    }[place]
    torch.save(content, "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"could run code, so it is not loaded\. Write the weights alone"):
        load_weights(network(), "a.pt")
    assert not Path("ran").exists()


@pytest.mark.parametrize("value", [np.str_("text"), np.ones(3), slice(1), np.datetime64("2024-01-01")])
def test_nothing_else_is_allowed(value: object, tmp_path: Path) -> None:
    torch.save({"model": network().state_dict(), "x": value}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="so it is not loaded"):
        load_weights(network(), tmp_path / "a.pt")


def test_no_message_advises_to_switch_safety_off(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "scripted.pt")
    with pytest.raises(ValueError, match=r"is a TorchScript archive.*Write the weights alone") as caught:
        load_weights(nn.Linear(2, 3), tmp_path / "scripted.pt")
    assert "weights_only" not in str(caught.value)
    with tarfile.open(tmp_path / "old.pt", "w") as archive:  # PyTorch's format before 2017
        for name in ("storages", "tensors", "pickle"):
            (tmp_path / name).write_bytes(pickle.dumps({}, 2))
            archive.add(tmp_path / name, name)
    with pytest.raises(ValueError, match="is not a readable checkpoint") as caught:
        load_weights(nn.Linear(2, 3), tmp_path / "old.pt")
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_versions_of_modules_are_kept(prefix: str, name: str, tmp_path: Path) -> None:
    """Without them, torchvision's MNASNet refuses its own weights."""
    saved, loaded = (torchvision.models.mnasnet0_5(num_classes=3) for _ in range(2))
    weights = saved.state_dict(prefix=prefix)
    if name.endswith("pt"):
        torch.save({"state_dict": weights}, tmp_path / name)
        versions = read_checkpoint(tmp_path / name).weights._metadata  # type: ignore[attr-defined]
        assert versions[prefix.rstrip(".")] == {"version": 2}
    else:
        save_file(weights, tmp_path / name)
    load_weights(loaded, tmp_path / name)
    assert same(loaded, saved)


def test_an_old_version_in_the_file_is_not_overwritten(tmp_path: Path) -> None:
    saved = torchvision.models.mnasnet0_5(num_classes=3).state_dict()
    saved._metadata[""]["version"] = 7  # type: ignore[attr-defined]
    torch.save({"state_dict": saved}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"version sh\w+ be set to 1 or 2 instead of 7"):
        load_weights(torchvision.models.mnasnet0_5(num_classes=3), tmp_path / "a.pt")


def test_metadata_of_a_file_is_shown_only_if_it_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(network().state_dict(), path, {"architecture": "\x1b[2J evil; rm"})
    with pytest.raises(ValueError, match="does not fit SmallResNet") as caught:
        load_weights(network(9), path)
    assert "written for" not in str(caught.value)
