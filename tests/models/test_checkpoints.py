"""Weights from files: every form that is read, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning
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
    with pytest.raises(ValueError, match=r"holds an object of captum_kd\.demo\.networks"):
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
