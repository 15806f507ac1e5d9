"""The command ``captum-kd distill``."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from captum_kd.cli.errors import explained_errors


@click.command()
@click.option(
    "--data",
    required=True,
    help="cifar10, fashion-mnist, planted-cue, asirra or plant-village; or a folder with a sub-folder per "
    "class.",
)
@click.option(
    "--teacher",
    required=True,
    metavar="ARCH",
    help="Architecture of the teacher: a torchvision or timm name, or package.module:factory.",
)
@click.option(
    "--student", required=True, metavar="ARCH", help="Architecture of the students and of the base model."
)
@click.option(
    "--technique",
    "techniques",
    multiple=True,
    type=click.Choice(["response", "attention", "overhaul"]),
    default=["response"],
    show_default=True,
    help="Technique of distillation; can be repeated, and each trains one student.",
)
@click.option(
    "--assistant",
    "assistants",
    multiple=True,
    metavar="ARCH",
    help="Architecture of a teacher assistant between teacher and student; can be repeated for a chain.",
)
@click.option(
    "--folds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Folds of the cross-validation; 1 holds out a fifth of the images once.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("captum-kd-run"),
    show_default=True,
    help="Folder of the run.",
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder of named data sets; downloads are written here.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Passes over the training images, for each model.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    default=32,
    show_default=True,
    help="Images per batch, on each device.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adamw"]),
    default="sgd",
    show_default=True,
    help="Optimizer of every model.",
)
@click.option(
    "--learning-rate",
    type=float,
    default=1e-3,
    show_default=True,
    help="Learning rate; with a schedule, the highest.",
)
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Momentum of SGD.")
@click.option("--nesterov", is_flag=True, help="Use Nesterov momentum with SGD.")
@click.option(
    "--weight-decay", type=float, default=0.0, show_default=True, help="Weight decay of either optimizer."
)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine", "one-cycle"]),
    default="constant",
    show_default=True,
    help="Schedule of the learning rate.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="TECHNIQUE=NUMBER",
    help="Weight of the teacher's part of the loss; can be repeated.  [default: the technique's]",
)
@click.option("--temperature", type=float, help="Temperature of response distillation.  [default: 20]")
@click.option(
    "--layers",
    multiple=True,
    help="Layer of the student for attention and overhaul; can be repeated.  [default: its stages]",
)
@click.option(
    "--teacher-layers",
    multiple=True,
    help="Layer of the teacher, in the same order.  [default: its stages]",
)
@click.option(
    "--teacher-checkpoint",
    type=click.Path(dir_okay=False),
    help="Checkpoint to load instead of training a teacher.",
)
@click.option("--pretrained", is_flag=True, help="Start from the libraries' default weights (downloaded).")
@click.option(
    "--image-size",
    type=click.IntRange(8),
    help="Height and width of the images in pixels.  [default: the data set's]",
)
@click.option("--limit", type=click.IntRange(2), help="Train on at most this many images.")
@click.option("--augment/--no-augment", default=True, show_default=True, help="Augment the training images.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that cannot be read, and count them.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of folds, weights, order and augmentation.",
)
@click.option(
    "--precision",
    default="32-true",
    show_default=True,
    help="Lightning's precision, for instance bf16-mixed.",
)
@click.option(
    "--accelerator",
    default="auto",
    show_default=True,
    help="Lightning's accelerator: auto, cpu, gpu or mps.",
)
@click.option(
    "--devices", type=click.IntRange(1), default=1, show_default=True, help="Number of devices to train on."
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of processes that load images.",
)
def distill(out: Path, root: Path, **options: Any) -> None:
    """Train a teacher, a base model and distilled students.

    If interrupted, the same command resumes where it left off.
    """
    hint = f"Finished models and epochs are intact in {out}; the same command resumes."
    with explained_errors(hint), _warnings_as_lines():
        from captum_kd.distill.recipe import Recipe
        from captum_kd.distill.stages import run_recipe
        from captum_kd.distill.training import TrainingSettings

        options["weights"] = _weights(options["weights"])
        names = TrainingSettings.__dataclass_fields__
        training = TrainingSettings(**{k: options.pop(k) for k in list(options) if k in names})
        record = run_recipe(Recipe(training=training, **options), out, root=root, report=click.echo)
    accuracies: dict[str, list[float]] = {}
    for stage in record["stages"]:
        accuracies.setdefault(stage["name"], []).append(stage["test"]["accuracy"])
    click.echo(f"\n{_summary(accuracies)}\n\nExplain it:  {record['explain']}")


def _weights(texts: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for technique, number in map(_weight, texts):
        if technique in weights:
            raise ValueError(
                f"--weight names {technique} twice: {', '.join(texts)}. Give each technique once."
            )
        weights[technique] = number
    return weights


def _weight(text: str) -> tuple[str, float]:
    technique, _, number = text.partition("=")
    try:
        return technique, float(number)
    except ValueError:
        raise ValueError(f"--weight must be like response=0.3, got {text!r}.") from None


def _summary(accuracies: dict[str, list[float]]) -> str:
    """The test accuracy of each model: mean and standard deviation over folds."""
    lines = ["test accuracy"]
    for name, values in accuracies.items():
        spread = f" +- {statistics.stdev(values):.4f} over {len(values)} folds" if len(values) > 1 else ""
        lines.append(f"  {name:24s}{statistics.mean(values):.4f}{spread}")
    return "\n".join(lines)


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Show warnings to users as lines, without the place in the code that they come from."""
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is UserWarning:
                click.echo(f"Warning: {message}", err=True)
            else:
                otherwise(message, category, *where, **more)

        warnings.showwarning = show
        yield
