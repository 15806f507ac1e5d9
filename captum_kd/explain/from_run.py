"""The models and test images of a distillation run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Subset

from captum_kd.datasets.load import load_data
from captum_kd.distill.run_folder import RunRecord, read_run
from captum_kd.distill.stages import load_stage
from captum_kd.explain.class_names import encode_labels
from captum_kd.explain.images import ExplainedImages
from captum_kd.explain.inputs import ComparisonInputs
from captum_kd.explain.options import ExplainOptions
from captum_kd.models.architectures import default_layers


def inputs_from_run(folder: Path, options: ExplainOptions) -> ComparisonInputs:
    """Load students, base model and teacher of a fold, and test images that were not used to choose anything.

    Args:
        folder: Folder of a run of ``captum-kd distill``.
        options: How they are compared; ``students`` are names of students of the run, none for all.

    Returns:
        The inputs; the models are on the CPU.

    Raises:
        ValueError: The folder holds no run, the run has no such student or fold, its models are not finished,
            or the data is not what the run was trained on.
    """
    run = read_run(folder)
    arguments = run["arguments"]
    names = _students(run, options.students, options.fold)
    data = load_data(
        arguments["data"],
        root=options.root,
        image_size=arguments["image_size"],
        seed=arguments["seed"],
        limit=arguments["limit"],
        skip_unreadable=arguments["skip_unreadable"],
    )
    if data.fingerprint != run["data"]["fingerprint"]:
        raise ValueError(f"The data set {data.name} is not the one that the run in {folder} was trained on.")
    classes = len(data.class_names)

    def load(name: str, architecture: str) -> nn.Module:
        return load_stage(folder, options.fold, name, architecture, classes)

    models = {name: load(name, arguments["student"]) for name in names}
    teacher = load("teacher", arguments["teacher"])
    layers = list(arguments["layers"] or default_layers(next(iter(models.values()))))
    teacher_layers = list(arguments["teacher_layers"] or default_layers(teacher))
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
    )
    return ComparisonInputs(
        models,
        load("base", arguments["student"]),
        layers,
        images,
        teacher=teacher if pairs_up else None,
        teacher_layers=teacher_layers if pairs_up else None,
        label_embeddings=encode_labels(options.label_encoder, options.pooling, data.class_names),
        notes=(
            f"Models of fold {options.fold} of {arguments['folds']} of a run of captum-kd distill: students "
            f"and base model {arguments['student']}, teacher {arguments['teacher']}, "
            f"{run['data']['training_images']} training images. The base model is like the students, but "
            "trained without a teacher.",
            _accuracies(run),
        ),
    )


def _students(run: RunRecord, students: Sequence[str], fold: int) -> list[str]:
    finished = [stage["name"] for stage in run["stages"] if stage["fold"] == fold]
    there = [name for name in finished if name.startswith("student-")]
    if "base" not in finished or not there:
        folds = sorted({stage["fold"] for stage in run["stages"]})
        raise ValueError(
            f"Fold {fold} of this run has no finished student and base model (folds with models: {folds}); "
            "finish it with the distill command that started it."
        )
    for student in students:
        if student not in there:
            raise ValueError(f"--student: fold {fold} has no student {student!r}; it has {', '.join(there)}.")
    return list(students) or there


def _accuracies(run: RunRecord) -> str:
    """The test accuracy of each model over folds, in a sentence."""
    parts = []
    for name in dict.fromkeys(stage["name"] for stage in run["stages"]):
        values = torch.tensor([s["test"]["accuracy"] for s in run["stages"] if s["name"] == name])
        spread = f" ± {values.std():.4f} over {len(values)} folds" if len(values) > 1 else ""
        parts.append(f"{name} {values.mean():.4f}{spread}")
    return f"Accuracy on all {run['data']['test_images']} test images: {', '.join(parts)}."
