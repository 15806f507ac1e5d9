"""The models and test images of a distillation run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset

from captum_kd.datasets.load import load_data
from captum_kd.distill.run_folder import RUN_FILE
from captum_kd.distill.stages import load_stage
from captum_kd.explain.class_names import encode_labels
from captum_kd.explain.images import ExplainedImages
from captum_kd.explain.inputs import ComparisonInputs
from captum_kd.explain.models import choose_layers
from captum_kd.explain.options import ExplainOptions
from captum_kd.explain.run_file import CheckedRun, read_checked_run


def inputs_from_run(
    folder: Path, options: ExplainOptions, architectures: Sequence[str] = ()
) -> ComparisonInputs:
    """Load students, base model and teacher of a fold, and test images that were not used to choose anything.

    ``run.json`` is data that may come from anybody: only architectures of torchvision, timm and this package
    are built because it says so, and nothing outside the folder is loaded as a model.

    Args:
        folder: Folder of a run of ``captum-kd distill``.
        options: How they are compared; ``students`` are names of students of the run, none for all.
        architectures: Factories of the run, as "package.module:factory", that may be imported and called.

    Returns:
        The inputs; the models are on the CPU.

    Raises:
        ValueError: The folder holds no run, its record is not what a run's can be, it needs a factory that is
            not named, the run has no such student or fold, its models are not finished, or the data is not
            what the run was trained on.
    """
    run = read_checked_run(folder)
    recipe = run.recipe
    run.check_architectures(architectures)
    names = _students(run, options.students, options.fold)
    run.check_paths(options.fold, [*names, "base", "teacher"])
    data = load_data(
        recipe.data,
        root=options.root,
        image_size=recipe.image_size,
        seed=recipe.seed,
        limit=recipe.limit,
        skip_unreadable=recipe.skip_unreadable,
    )
    if data.fingerprint != run.data["fingerprint"]:
        raise ValueError(f"The data set {data.name} is not the one that the run in {folder} was trained on.")
    classes = len(data.class_names)

    def load(name: str, field: str, architecture: str) -> nn.Module:
        try:
            return load_stage(folder, options.fold, name, architecture, classes)
        except ValueError as error:
            raise ValueError(f"{folder / RUN_FILE}: arguments.{field}: {error}") from error

    models = {name: load(name, "student", recipe.student) for name in names}
    teacher = load("teacher", "teacher", recipe.teacher)
    layers = choose_layers(f"{folder / RUN_FILE}: layers", next(iter(models.values())), recipe.layers)
    teacher_layers = choose_layers(f"{folder / RUN_FILE}: teacher_layers", teacher, recipe.teacher_layers)
    pairs_up = len(teacher_layers) == len(layers)
    order = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(options.seed))[
        : options.drawn
    ]
    images = ExplainedImages(
        Subset(data.test, order.tolist()),
        [f"test image {i}" for i in order.tolist()],
        data.class_names,
        data.name,
        [{"file": name, "reason": "could not be read"} for name in data.skipped],
        folder=_folder(recipe.data),
    )
    return ComparisonInputs(
        models,
        load("base", "student", recipe.student),
        layers,
        images,
        teacher=teacher if pairs_up else None,
        teacher_layers=teacher_layers if pairs_up else None,
        label_embeddings=encode_labels(options.label_encoder, options.pooling, data.class_names),
        notes=(
            f"Models of fold {options.fold} of {recipe.folds} of a run of captum-kd distill: students "
            f"and base model {recipe.student}, teacher {recipe.teacher}, "
            f"{run.data['training_images']} training images. The base model is like the students, but "
            "trained without a teacher.",
            _accuracies(run),
            *([] if pairs_up else [_unpaired(teacher_layers, layers)]),
        ),
    )


def _students(run: CheckedRun, students: Sequence[str], fold: int) -> list[str]:
    finished = [stage["name"] for stage in run.stages if stage["fold"] == fold]
    there = [name for name in finished if name.startswith("student-")]
    if "base" not in finished or not there:
        folds = sorted({stage["fold"] for stage in run.stages})
        raise ValueError(
            f"Fold {fold} of this run has no finished student and base model (folds with models: {folds}); "
            "finish it with the distill command that started it."
        )
    for student in students:
        if student not in there:
            raise ValueError(f"--student: fold {fold} has no student {student!r}; it has {', '.join(there)}.")
    return list(students) or there


def _folder(data: str) -> Path | None:
    path = Path(data).expanduser()
    return path if path.is_dir() else None


def _unpaired(teacher_layers: Sequence[str], layers: Sequence[str]) -> str:
    return (
        f"The teacher is not compared: its {len(teacher_layers)} layers ({', '.join(teacher_layers)}) do not "
        f"pair up with the students' {len(layers)} ({', '.join(layers)})."
    )


def _accuracies(run: CheckedRun) -> str:
    """The test accuracy of each model over folds, in a sentence."""
    parts = []
    for name in dict.fromkeys(stage["name"] for stage in run.stages):
        values = torch.tensor([s["test"]["accuracy"] for s in run.stages if s["name"] == name])
        spread = f" ± {values.std():.4f} over {len(values)} folds" if len(values) > 1 else ""
        parts.append(f"{name} {values.mean():.4f}{spread}")
    return f"Accuracy on all {run.data['test_images']} test images: {', '.join(parts)}."
