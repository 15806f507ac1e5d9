"""Training one classifier with Lightning: on labels alone, or with a teacher."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from captum_kd._warn import warn
from captum_kd.distill.damage import is_stray, not_finite, set_aside
from captum_kd.distill.guidance import Guidance
from captum_kd.distill.numbers import check_number
from captum_kd.distill.resume import RESUME_FILE, WholeCheckpoints, resume_problem

LabelledImages = Dataset[tuple[Tensor, int]]
Optimizer = Literal["sgd", "adamw"]
LearningRateSchedule = Literal["constant", "cosine", "one-cycle"]
# Steps of one epoch; enough that epochs of one run never share a seed with those of the next.
_SEEDS_PER_RUN = 10_000


@dataclass(frozen=True)
class TrainingSettings:
    """How every model of a run is trained. The defaults are the paper's (SGD, 20 epochs of batches of 32).

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step, on each device.
        optimizer: "sgd" or "adamw".
        learning_rate: Learning rate; with a schedule, the highest.
        momentum: Momentum of SGD.
        nesterov: Use Nesterov momentum with SGD, as Heo et al. do for overhaul distillation.
        weight_decay: Weight decay of either optimizer.
        schedule: "constant", "cosine" (to zero) or "one-cycle".
        precision: Lightning's precision, for instance "32-true" or "bf16-mixed".
        accelerator: Lightning's accelerator, for instance "auto", "cpu" or "gpu".
        devices: Number of devices.
        workers: Number of processes that load images.

    Raises:
        ValueError: A word is unknown, or a number is out of range.
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Optimizer = "sgd"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: LearningRateSchedule = "constant"
    precision: str = "32-true"
    accelerator: str = "auto"
    devices: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        for name, words in (("optimizer", get_args(Optimizer)), ("schedule", get_args(LearningRateSchedule))):
            if getattr(self, name) not in words:
                raise ValueError(f"{name} must be one of {words}, got {getattr(self, name)!r}.")
        for name, least in (("epochs", 1), ("devices", 1), ("workers", 0)):
            check_number(name, getattr(self, name), least=least, whole=True)
        check_number("batch_size", self.batch_size, least=2, whole=True, why="BatchNorm needs them")
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("momentum", self.momentum, least=0, below=1)
        check_number("weight_decay", self.weight_decay, least=0)
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError(
                "nesterov is for optimizer='sgd' with a momentum above 0, got "
                f"optimizer={self.optimizer!r} and momentum={self.momentum} (--nesterov)."
            )
        default = type(self).momentum
        if (self.optimizer, self.schedule) == ("sgd", "one-cycle") and self.momentum != default:
            warn(
                f"momentum={self.momentum} is not used: with schedule='one-cycle' the momentum runs between "
                "0.85 and 0.95. Choose another schedule (--schedule), or leave the momentum out (--momentum)."
            )


class TrainingDivergedError(ValueError):
    """The loss, the outputs or the weights of a training are no longer finite."""


class EpochLoader(DataLoader[tuple[Tensor, int]]):
    """A DataLoader that calls ``seed_epoch`` before it draws the order of an epoch.

    Lightning's hooks come too late for that in the first epoch of a resumed run.
    """

    def __init__(self, dataset: LabelledImages, *, seed_epoch: Callable[[], None], **options: Any) -> None:
        super().__init__(dataset, **options)
        self.seed_epoch = seed_epoch

    def __iter__(self) -> Any:
        self.seed_epoch()
        return super().__iter__()


class ClassifierTraining(LightningModule):
    """One classifier, its loss and its optimizer.

    Args:
        model: The model.
        num_classes: Number of its outputs.
        settings: How it is trained.
        guidance: What a teacher adds to the loss; None for cross-entropy alone.
        seed: Seed of the first epoch. Every epoch sets its own, so that a resumed run draws what an
            uninterrupted one would have drawn.
        title: What messages call the model.
        run: The identity of this training, which its checkpoints hold.

    Attributes:
        history: One record per epoch: training loss and accuracy, validation accuracy.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        settings: TrainingSettings,
        guidance: Guidance | None = None,
        seed: int = 0,
        title: str = "",
        run: str = "",
    ) -> None:
        super().__init__()
        self.model = model
        self.title = title
        self.run = run
        self.settings = settings
        self.guidance = guidance
        self.seed = seed
        self.history: list[dict[str, float]] = []
        self.train_loss = MeanMetric()
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.validation_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, target = batch
        # Decoded images have their channels last in memory, and a DataLoader need not change that. On some
        # processors torch 2.15 then writes past a buffer (docs/troubleshooting.md: "free(): invalid").
        images = images.contiguous()
        if self.guidance is None:
            logits = self.model(images)
            loss = F.cross_entropy(logits, target)
        else:
            loss, logits = self.guidance(self.model, images, target)
        if not loss.detach().isfinite():
            raise self._diverged(f"at step {batch_index + 1}", f"the loss is {loss.item()}")
        self.train_loss.update(loss.detach(), len(target))
        self.train_accuracy.update(logits.detach(), target)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, target = batch
        logits = self.model(images)
        if not logits.isfinite().all():
            raise self._diverged("in validation", "outputs are NaN or infinite")
        self.validation_accuracy.update(logits, target)
        self.log("validation_accuracy", self.validation_accuracy, prog_bar=True)

    def seed_epoch(self) -> None:
        """Seed everything that this epoch draws."""
        # Not by current_epoch: while the first epoch of a resumed run is set up, that is one too low.
        seed_everything(self.seed + len(self.history), verbose=False)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        try:
            super().optimizer_step(*arguments, **options)
        except RuntimeError as error:
            if "overflow" not in str(error):
                raise
            raise self._diverged("in the optimizer", f"the {error}") from error

    def on_train_epoch_end(self) -> None:
        # Before the checkpoint of this epoch is written, so that no training goes on from such weights.
        if names := not_finite(self.state_dict()):
            raise self._diverged("at its end", f"weights are NaN or infinite ({', '.join(names[:3])})")
        record = {
            "train_loss": self.train_loss.compute().item(),
            "train_accuracy": self.train_accuracy.compute().item(),
            "validation_accuracy": self.trainer.callback_metrics["validation_accuracy"].item(),
        }
        self.train_loss.reset()
        self.train_accuracy.reset()
        self.history.append({key: round(value, 6) for key, value in record.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["run"] = self.run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> Any:
        s, parameters = self.settings, [p for p in self.parameters() if p.requires_grad]
        optimizer: torch.optim.Optimizer
        if s.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                parameters, s.learning_rate, s.momentum, weight_decay=s.weight_decay, nesterov=s.nesterov
            )
        else:
            optimizer = torch.optim.AdamW(parameters, s.learning_rate, weight_decay=s.weight_decay)
        if s.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            if s.schedule == "cosine"
            else torch.optim.lr_scheduler.OneCycleLR(optimizer, s.learning_rate, steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _diverged(self, when: str, what: str) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"The training of {self.title or 'the model'} diverged in epoch {len(self.history) + 1}, {when}: "
            f"{what}. Use a smaller learning rate (--learning-rate) or weight of the teacher (--weight), and "
            "another folder (--out) where this one holds trained models."
        )


def train_classifier(
    model: nn.Module,
    num_classes: int,
    train: LabelledImages,
    validation: LabelledImages,
    settings: TrainingSettings,
    folder: Path,
    *,
    guidance: Guidance | None = None,
    seed: int = 0,
    title: str = "",
    run: str = "",
) -> list[dict[str, float]]:
    """Train a classifier in place; if ``folder`` holds a stopped training, resume after its last epoch.

    The model of the last epoch is kept: nothing is selected, so nothing can be selected on the wrong data.
    A ``resume.ckpt`` that is damaged, or of another ``run``, is set aside with a warning, and the training
    starts again.

    Args:
        model: The model. Its weights are made contiguous.
        num_classes: Number of its outputs.
        train: Pairs of image and label to train on.
        validation: Pairs of image and label for the accuracy that is reported per epoch.
        settings: How to train.
        folder: Folder for ``resume.ckpt``, which is rewritten after every epoch, and for the logs.
        guidance: What a teacher adds to the loss; None for cross-entropy alone.
        seed: Seed of shuffling and augmentation.
        title: What progress and messages call the model.
        run: A text that is the same only for trainings that may go on from each other's checkpoints.

    Returns:
        One record per epoch.

    Raises:
        TrainingDivergedError: The loss, the outputs or the weights became NaN or infinite.
    """
    first_seed = seed * _SEEDS_PER_RUN % (2**32 - _SEEDS_PER_RUN)  # NumPy takes no seed beyond 32 bits
    model.to(memory_format=torch.contiguous_format)  # see training_step
    module = ClassifierTraining(model, num_classes, settings, guidance, first_seed, title, run)
    for stray in [path for path in folder.glob(".*") if is_stray(path, [RESUME_FILE])]:
        stray.unlink()
    resume = folder / RESUME_FILE
    if resume.exists() and (problem := resume_problem(resume, module.state_dict(), run)):
        set_aside(
            [resume],
            f"{resume} cannot be resumed from: {problem}",
            f"the training of {title or 'the model'} starts again",
        )
    checkpoint = ModelCheckpoint(
        dirpath=folder,
        filename=Path(RESUME_FILE).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    watched = sys.stdout.isatty()
    trainer = _trainer(
        settings,
        callbacks=[checkpoint, *([_TitledProgressBar(title)] if watched else [])],
        enable_progress_bar=watched,
        logger=CSVLogger(folder, name="logs"),
        plugins=[WholeCheckpoints()],
    )
    loading: dict[str, Any] = {"batch_size": settings.batch_size, "num_workers": settings.workers}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        warnings.filterwarnings("ignore", ".*isinstance.treespec.*")
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        try:
            trainer.fit(
                module,
                EpochLoader(
                    train,
                    seed_epoch=module.seed_epoch,
                    shuffle=True,
                    # A last batch of one image would stop BatchNorm.
                    drop_last=images_per_device(len(train), settings) >= settings.batch_size,  # type: ignore[arg-type]
                    **loading,
                ),
                DataLoader(validation, **loading),
                ckpt_path=resume if resume.exists() else None,
                weights_only=True,
            )
        except ProcessRaisedException as error:
            raise _error_of_process(error) from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    model.eval()
    # From the file, because with several devices other processes did the training.
    history: list[dict[str, float]] = torch.load(resume, "cpu", weights_only=True)["history"]
    return history


def images_per_device(images: int, settings: TrainingSettings) -> int:
    """How many of the training images each device sees in an epoch."""
    return -(-images // settings.devices)


def check_trainer(settings: TrainingSettings) -> None:
    """Raise a ValueError unless Lightning has the precision, the accelerator and the devices."""
    try:
        _trainer(settings, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ValueError(
            f"Lightning cannot train with --precision {settings.precision}, --accelerator "
            f"{settings.accelerator} and --devices {settings.devices} here: {error}"
        ) from error


def predictions(model: nn.Module, data: LabelledImages, settings: TrainingSettings) -> Tensor:
    """Return the class that a model predicts for each image, int64 ``(n,)`` on the CPU.

    Raises:
        ValueError: An output is NaN or infinite, so that its largest one means nothing.
    """
    weights = next(model.parameters())
    loader = DataLoader(data, batch_size=max(settings.batch_size, 128), num_workers=settings.workers)
    found = []
    with torch.inference_mode():
        for images, _ in loader:
            outputs = model.eval()(images.to(weights.device, weights.dtype))
            if not outputs.isfinite().all():
                raise ValueError(
                    f"{type(model).__name__} gives NaN or infinite outputs, so it has no predictions. If its "
                    "weights were loaded, load others; if they were trained, use a smaller learning rate."
                )
            found.append(outputs.argmax(1).cpu())
    return torch.cat(found)


def _trainer(settings: TrainingSettings, **options: Any) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return Trainer(
        max_epochs=settings.epochs,
        accelerator=settings.accelerator,
        devices=settings.devices,
        # Spawned processes end with a training, of which a run has many. Lightning returns the weights.
        strategy="ddp_spawn" if settings.devices > 1 else "auto",
        precision=settings.precision,  # type: ignore[arg-type]
        num_sanity_val_steps=0,
        enable_model_summary=False,
        log_every_n_steps=1,
        **options,
    )


def _error_of_process(error: ProcessRaisedException) -> Exception:
    """The error of a spawned process as this one would have raised it, if users are to see its message."""
    if found := re.search(r"TrainingDivergedError: (.+)", str(error)):
        return TrainingDivergedError(found[1])
    if found := re.search(r"^\w*Error: \[Errno (\d+)\] (.+)", str(error), re.M):
        return OSError(int(found[1]), found[2])
    return error


class _TitledProgressBar(TQDMProgressBar):
    def __init__(self, title: str) -> None:
        super().__init__(refresh_rate=20)
        self._title = title

    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.leave = False
        return bar

    def init_validation_tqdm(self) -> Any:
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar

    def get_metrics(self, *arguments: Any) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(*arguments).items() if k != "v_num"}

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        super().on_train_epoch_start(trainer, *_)
        epochs = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        self.train_progress_bar.set_description(f"{self._title}: {epochs}")
