"""The command ``captum-kd distill``."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import click

from captum_kd.cli.errors import explained_errors


@click.command()
@click.option(
    "--data",
    required=True,
    help="cifar10, fashion-mnist, planted-cue, asirra, plant-village, or a folder with a folder per class.",
)
@click.option(
    "--teacher", required=True, metavar="ARCH", help="torchvision or timm name, or package.module:factory."
)
@click.option("--student", required=True, metavar="ARCH", help="The base model has the same.")
@click.option(
    "--technique",
    "techniques",
    multiple=True,
    type=click.Choice(["response", "attention", "overhaul"]),
    default=["response"],
    show_default=True,
    help="Repeat it for a student by each.",
)
@click.option(
    "--assistant",
    "assistants",
    multiple=True,
    metavar="ARCH",
    help="A teacher assistant between teacher and student; repeat it for a chain.",
)
@click.option(
    "--folds", type=click.IntRange(1), default=5, show_default=True, help="1: hold out a fifth once."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("captum-kd-run"),
    show_default=True,
)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Where named data sets are, or are downloaded to.",
)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option("--batch-size", type=click.IntRange(2), default=32, show_default=True)
@click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option("--momentum", type=float, default=0.9, show_default=True)
@click.option("--nesterov", is_flag=True)
@click.option("--weight-decay", type=float, default=0.0, show_default=True)
@click.option(
    "--schedule",
    type=click.Choice(["constant", "cosine", "one-cycle"]),
    default="constant",
    show_default=True,
    help="Of the learning rate.",
)
@click.option(
    "--weight",
    "weights",
    multiple=True,
    metavar="TECHNIQUE=NUMBER",
    help="Of the teacher's part of the loss; repeat it.  [default: the technique's]",
)
@click.option("--temperature", type=float, help="Of response distillation.  [default: 20]")
@click.option("--layers", multiple=True, help="A layer of the student for attention and overhaul; repeat it.")
@click.option("--teacher-layers", multiple=True, help="The teacher's, in the same order.")
@click.option(
    "--teacher-checkpoint", type=click.Path(dir_okay=False), help="Load this in place of training a teacher."
)
@click.option("--pretrained", is_flag=True, help="Start from the libraries' default weights (downloaded).")
@click.option("--image-size", type=click.IntRange(8), help="In pixels.  [default: the data set's]")
@click.option("--limit", type=click.IntRange(2), help="At most this many training images.")
@click.option("--augment/--no-augment", default=True, show_default=True)
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that cannot be read, and count them.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--precision", default="32-true", show_default=True, help="Lightning's, for instance bf16-mixed."
)
@click.option("--accelerator", default="auto", show_default=True, help="Lightning's: auto, cpu, gpu, mps.")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that load images."
)
def distill(out: Path, root: Path, **options: Any) -> None:
    """Train a teacher, a base model and distilled students; the same command again resumes a stopped run."""
    hint = f"Models and epochs that were finished are intact in {out}; the same command goes on."
    with explained_errors(hint):
        from captum_kd.distill.recipe import Recipe
        from captum_kd.distill.stages import run_recipe
        from captum_kd.distill.training import TrainingSettings

        options["weights"] = dict(_weight(text) for text in options["weights"])
        names = TrainingSettings.__dataclass_fields__
        training = TrainingSettings(**{k: options.pop(k) for k in list(options) if k in names})
        record = run_recipe(Recipe(training=training, **options), out, root=root, report=click.echo)
    click.echo(f"\n{_summary(record)}\n\nExplain it:  {record['explain']}")


def _weight(text: str) -> tuple[str, float]:
    technique, _, number = text.partition("=")
    try:
        return technique, float(number)
    except ValueError:
        raise ValueError(f"--weight must be like response=0.3, got {text!r}.") from None


def _summary(record: dict[str, Any]) -> str:
    """Test accuracy of each model: mean and standard deviation over folds."""
    names = dict.fromkeys(stage["name"] for stage in record["stages"])
    lines = ["test accuracy"]
    for name in names:
        values = [stage["test"]["accuracy"] for stage in record["stages"] if stage["name"] == name]
        spread = f" +- {statistics.stdev(values):.4f} over {len(values)} folds" if len(values) > 1 else ""
        lines.append(f"  {name:24s}{statistics.mean(values):.4f}{spread}")
    return "\n".join(lines)
