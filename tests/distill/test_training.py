"""Training one classifier: settings, resuming, and what BatchNorm does meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import TensorDataset

from captum_kd.distill.guidance import Guidance
from captum_kd.distill.training import (
    RESUME_FILE,
    ClassifierTraining,
    TrainingDivergedError,
    TrainingSettings,
    _error_of_process,
    check_trainer,
    predictions,
    train_classifier,
)
from captum_kd.models.small import small_resnet

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.arange(24) % 3
# A square in one of three corners: quick to learn.
IMAGES = torch.randn(24, 3, 16, 16, generator=GENERATOR) * 0.1
for _i, _label in enumerate(TARGET.tolist()):
    IMAGES[_i, :, 8 * (_label // 2) :, 8 * (_label % 2) :][:, :8, :8] += 2
DATA = TensorDataset(IMAGES, TARGET)
QUICK: dict[str, Any] = {"batch_size": 8, "accelerator": "cpu", "learning_rate": 0.05}


class Stopped(Exception):
    """Stands for a power cut."""


class StopsAfter(nn.Module):
    """A model that raises in its ``steps``-th training step."""

    def __init__(self, model: nn.Module, steps: int) -> None:
        super().__init__()
        self.model, self.left = model, steps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.left -= 1
            if self.left < 0:
                raise Stopped
        output: torch.Tensor = self.model(images)
        return output


def train(folder: Path, *, stop_after: int | None = None, technique: Any = "overhaul") -> tuple[Any, Any]:
    torch.manual_seed(0)
    model, teacher = small_resnet(4, 3), small_resnet(6, 3)
    wrapped = StopsAfter(nn.Sequential(model, nn.Dropout(0.2)), 10**9 if stop_after is None else stop_after)
    layers = ["model.0.layer2", "model.0.layer3"]
    guidance = Guidance(technique, wrapped, teacher, layers, ["layer2", "layer3"], IMAGES[:4])
    settings = TrainingSettings(epochs=4, schedule="one-cycle", momentum=0.9, **QUICK)
    history = train_classifier(wrapped, 3, DATA, DATA, settings, folder, guidance=guidance, seed=3)
    return model.state_dict(), history


@pytest.mark.parametrize("stop_after", [1, 4, 8])
def test_a_stopped_training_goes_on_to_the_same_result(tmp_path: Path, stop_after: int) -> None:
    """Weights, momentum, schedule, order, dropout and the connectors: three steps are one epoch."""
    whole, history = train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "cut", stop_after=stop_after)
    assert (tmp_path / "cut" / RESUME_FILE).exists() == (stop_after >= 3)
    torch.rand(5)  # whatever else has drawn meanwhile
    resumed, again = train(tmp_path / "cut")
    assert history == again
    assert len(history) == 4
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_base_model_learns_and_history_tells(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = small_resnet(4, 3)
    running = model.bn1.running_mean.clone()
    settings = TrainingSettings(epochs=8, **QUICK)
    history = train_classifier(model, 3, DATA, DATA, settings, tmp_path)
    assert not model.training
    assert not torch.equal(running, model.bn1.running_mean)
    predicted = predictions(model, DATA, settings)
    accuracy = (predicted == TARGET).double().mean().item()
    assert accuracy > 0.9
    assert history[-1]["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_batch_norm_follows_every_epoch(tmp_path: Path) -> None:
    """In the published code it is frozen from the second epoch on, because evaluation mode is never left."""
    seen = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = small_resnet(4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled():
                seen.append(self.model.bn1.training)
            output: torch.Tensor = self.model(images)
            return output

    train_classifier(Watching(), 3, DATA, DATA, TrainingSettings(epochs=3, **QUICK), tmp_path)
    assert seen == [True] * 9


class Layouts(nn.Module):
    """Keeps whether its images and weights were contiguous in each training step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = small_resnet(8, 3).to(memory_format=torch.channels_last)
        self.seen: list[list[bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.seen.append([value.is_contiguous() for value in (images, *self.parameters())])
        output: torch.Tensor = self.model(images)
        return output


@pytest.mark.parametrize("taught", [False, True])
def test_images_and_weights_are_contiguous_in_training(tmp_path: Path, taught: bool) -> None:
    """Where channels are last in memory, some processors crash (docs/troubleshooting.md)."""
    model = Layouts()
    assert not model.model.conv1.weight.is_contiguous()
    guidance = Guidance("response", model, small_resnet(8, 3), [], [], IMAGES[:4]) if taught else None
    last = IMAGES.to(memory_format=torch.channels_last)
    settings = TrainingSettings(epochs=1, **QUICK)
    train_classifier(model, 3, TensorDataset(last, TARGET), DATA, settings, tmp_path, guidance=guidance)
    assert len(model.seen) == 3
    step = ClassifierTraining(model, 3, settings, guidance)
    step.log = lambda *_, **__: None  # type: ignore[method-assign]
    assert not last.is_contiguous()
    step.training_step((last, TARGET), 0)
    assert len(model.seen) == 4
    assert all(map(all, model.seen))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_optimizer_and_schedule_runs(tmp_path: Path, optimizer: Any, schedule: Any) -> None:
    settings = TrainingSettings(epochs=1, optimizer=optimizer, schedule=schedule, **QUICK)
    assert len(train_classifier(small_resnet(4, 3), 3, DATA, DATA, settings, tmp_path)) == 1


def test_two_devices_train_one_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, teacher = small_resnet(4, 3), small_resnet(6, 3)
    before = model.fc.weight.detach().clone()
    guidance = Guidance("overhaul", model, teacher, ["layer3"], ["layer3"], IMAGES[:4])
    settings = TrainingSettings(epochs=2, devices=2, **QUICK)
    history = train_classifier(model, 3, DATA, DATA, settings, tmp_path, guidance=guidance)
    assert len(history) == 2
    assert not torch.equal(before, model.fc.weight)
    accuracy = (predictions(model, DATA, settings) == TARGET).double().mean().item()
    assert history[-1]["validation_accuracy"] == pytest.approx(accuracy, abs=1e-6)


def test_large_seeds(tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=1, **QUICK)
    assert train_classifier(small_resnet(4, 3), 3, DATA, DATA, settings, tmp_path, seed=2**20)


def test_bfloat16(tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=1, precision="bf16-mixed", **QUICK)
    (record,) = train_classifier(small_resnet(4, 3), 3, DATA, DATA, settings, tmp_path)
    assert record["train_loss"] > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"optimizer": "adam"}, r"optimizer must be one of \('sgd', 'adamw'\), got 'adam'"),
        ({"schedule": "step"}, "schedule must be one of .*'one-cycle'.*got 'step'"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"devices": 0}, "devices must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        (
            {"learning_rate": float("inf")},
            r"must be above 0 and finite, got inf \(--learning-rate",
        ),
        ({"momentum": float("nan")}, r"momentum must be at least 0 and below 1, got nan \(--momentum\)"),
        ({"momentum": 5.0}, "momentum must be at least 0 and below 1, got 5.0"),
        ({"momentum": 1}, "momentum must be at least 0 and below 1, got 1"),
        ({"momentum": -0.1}, "momentum must be at least 0"),
        (
            {"weight_decay": float("nan")},
            r"must be at least 0 and finite, got nan \(--weight-decay",
        ),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0 and finite, got -0.0001"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov is for .* momentum=0.0"),
        ({"nesterov": True, "optimizer": "adamw"}, "nesterov is for .*got optimizer='adamw'"),
    ],
)
def test_bad_settings(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**option)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "devices", "workers", "learning_rate", "momentum"])
def test_settings_of_a_wrong_kind(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be an? (integer|number), got '3'"):
        TrainingSettings(**{name: "3"})
    with pytest.raises(TypeError, match=f"{name} must be"):
        TrainingSettings(**{name: True})


def test_one_cycle_says_that_it_takes_no_momentum() -> None:
    with pytest.warns(UserWarning, match="momentum=0.5 is not used: with schedule='one-cycle'"):
        TrainingSettings(schedule="one-cycle", momentum=0.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"precision": "31"}, "Lightning cannot train with --precision 31, .*: "),
        ({"accelerator": "abacus"}, "--accelerator abacus and --devices 1 here"),
    ],
)
def test_what_lightning_does_not_have(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_trainer(TrainingSettings(**option))
    check_trainer(TrainingSettings(accelerator="cpu"))


class Poisoned(nn.Module):
    """A model whose outputs, or weights, are not finite from a step on."""

    def __init__(self, step: int, where: str) -> None:
        super().__init__()
        self.model, self.step, self.where, self.steps = small_resnet(2, 3), step, where, 0
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.steps += torch.is_grad_enabled()
        logits: torch.Tensor = self.model(images)
        if self.steps < self.step:
            return logits
        if self.where == "weights":
            self.seen.fill_(torch.inf)
            return logits
        wanted = torch.is_grad_enabled() == (self.where == "loss")
        return logits * torch.nan if wanted else logits


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "loss",
            "The training of fold 1, base diverged in epoch 2, at step 2: the loss is nan. Use",
        ),
        ("validation", "diverged in epoch 2, in validation: outputs are NaN or infinite"),
        (
            "weights",
            r"diverged in epoch 2, at its end: weights are NaN or infinite \(model.seen\)",
        ),
    ],
)
def test_training_that_diverges_stops(tmp_path: Path, where: str, message: str) -> None:
    settings = TrainingSettings(epochs=3, **QUICK)
    with pytest.raises(TrainingDivergedError, match=message):
        train_classifier(Poisoned(5, where), 3, DATA, DATA, settings, tmp_path, title="fold 1, base")
    assert torch.load(tmp_path / RESUME_FILE, weights_only=True)["epoch"] == 0, "the last that was sound"


@pytest.mark.parametrize("option", [{"learning_rate": 1e30}, {"learning_rate": 1e38, "optimizer": "adamw"}])
def test_numbers_that_no_training_survives(tmp_path: Path, option: dict[str, Any]) -> None:
    settings = TrainingSettings(epochs=2, **QUICK | option)
    with pytest.raises(TrainingDivergedError, match="The training of the model diverged in epoch 1"):
        train_classifier(small_resnet(2, 3), 3, DATA, DATA, settings, tmp_path)
    assert not (tmp_path / RESUME_FILE).exists()


def test_outputs_that_are_no_predictions() -> None:
    model = small_resnet(2, 3)
    torch.nn.init.constant_(model.fc.bias, torch.inf)
    with pytest.raises(
        ValueError, match="SmallResNet gives NaN or infinite outputs, so it has no predictions"
    ):
        predictions(model, DATA, TrainingSettings(**QUICK))


def test_errors_of_spawned_processes_are_those_of_one() -> None:
    def raised(text: str) -> Exception:
        return _error_of_process(ProcessRaisedException(f"\n\nTraceback ...\n{text}\n", 0, 1))

    diverged = raised("captum_kd.distill.training.TrainingDivergedError: The training diverged.")
    assert isinstance(diverged, TrainingDivergedError)
    assert str(diverged) == "The training diverged."
    full = raised("OSError: [Errno 28] No space left on device")
    assert isinstance(full, OSError)
    assert full.errno == 28
    assert isinstance(raised("KeyError: 'x'"), ProcessRaisedException)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_student_in_another_precision_than_its_teacher(tmp_path: Path, precision: str) -> None:
    model = small_resnet(2, 3)
    guidance = Guidance("overhaul", model, small_resnet(2, 3), ["layer3"], ["layer3"], IMAGES[:4])
    settings = TrainingSettings(epochs=1, precision=precision, **QUICK)
    assert train_classifier(model, 3, DATA, DATA, settings, tmp_path, guidance=guidance)
    assert len(predictions(model, DATA, settings)) == 24
