"""The folder of a distillation run: what it holds, and how it survives an interruption.

::

    run.json                    arguments, versions, data fingerprint, results, how to explain the pair
    splits.safetensors          indices of each fold's training and validation images
    curves.png                  validation accuracy per epoch, with its spread over folds
    fold1/teacher/model.safetensors, stage.json
    fold1/base/..., fold1/student-response/..., fold1/assistant1-response/...

A model is finished once its ``stage.json`` is there. Files appear whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypedDict

from safetensors.torch import save_file
from torch import nn

from captum_kd._version import versions
from captum_kd.atomic import write_whole
from captum_kd.datasets.dataset import ImageData
from captum_kd.distill.guidance import Technique
from captum_kd.distill.recipe import Recipe, Stage
from captum_kd.distill.training import RESUME_FILE
from captum_kd.report.page import png
from captum_kd.visualization import plot_curves

RUN_FILE, STAGE_FILE, MODEL_FILE = "run.json", "stage.json", "model.safetensors"
SPLITS_FILE = "splits.safetensors"


class StageRecord(TypedDict):
    """What ``stage.json`` holds: the stage, its test results, and one record per epoch."""

    fold: int
    name: str
    architecture: str
    technique: Technique | None
    taught_by: str | None
    num_classes: int
    test: dict[str, float]
    epochs: list[dict[str, float]]


class DataRecord(TypedDict):
    """What ``run.json`` holds of the data set."""

    name: str
    class_names: list[str]
    training_images: int
    test_images: int
    image_size: int
    fingerprint: str
    skipped: list[str]


class RunRecord(TypedDict):
    """What ``run.json`` holds: the recipe as JSON, versions, data, finished stages, and the next command."""

    arguments: dict[str, Any]
    versions: dict[str, str]
    data: DataRecord
    stages: list[StageRecord]
    explain: str


def check_same_run(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that holds another run, or something other than a run."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / RUN_FILE).exists():
        raise ValueError(f"{folder} is not empty and holds no run. Choose another folder with --out.")
    before, now = read_run(folder)["arguments"], _arguments(recipe)
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if changed:
        listed = "; ".join(f"{k} was {before.get(k)!r} and is now {now.get(k)!r}" for k in changed)
        raise ValueError(
            f"{folder} holds a run with other arguments: {listed}. Give the same ones to resume, or another "
            "folder with --out."
        )


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    try:
        record: RunRecord = json.loads((folder / RUN_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {RUN_FILE}; is it the folder of a distillation run?") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder / RUN_FILE} is damaged: {error}.") from error
    return record


def start_run(folder: Path, recipe: Recipe, data: ImageData) -> None:
    """Make the folder, or check that the data has not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / RUN_FILE).exists():
        before = read_run(folder)["data"]["fingerprint"]
        if before != data.fingerprint:
            raise ValueError(
                f"The data set {data.name} has changed since the run in {folder} started (fingerprint "
                f"{before[:12]}..., now {data.fingerprint[:12]}...). Start another run with --out."
            )
    write_run(folder, recipe, data)


def finished_stage(folder: Path, stage: Stage) -> StageRecord | None:
    """Read the record of a model; None if it is not finished."""
    path = _stage_folder(folder, stage) / STAGE_FILE
    record: StageRecord | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return record


def finish_stage(
    folder: Path,
    stage: Stage,
    model: nn.Module,
    num_classes: int,
    history: list[dict[str, float]],
    test: dict[str, float],
) -> StageRecord:
    """Write a finished model and its record, and delete its resume file."""
    record = StageRecord(
        fold=stage.fold,
        name=stage.name,
        architecture=stage.architecture,
        technique=stage.technique,
        taught_by=stage.taught_by,
        num_classes=num_classes,
        test=test,
        epochs=history,
    )
    own = _stage_folder(folder, stage)
    own.mkdir(parents=True, exist_ok=True)
    # Strings only, as the safetensors header demands.
    facts = {"architecture": stage.architecture, "num_classes": str(num_classes)}
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_whole(own / MODEL_FILE, lambda path: save_file(weights, path, metadata=facts))
    write_whole(own / STAGE_FILE, lambda path: path.write_text(json.dumps(record, indent=1) + "\n", "utf-8"))
    (own / RESUME_FILE).unlink(missing_ok=True)
    return record


def write_run(folder: Path, recipe: Recipe, data: ImageData) -> RunRecord:
    """Write ``run.json`` and the learning curves of the finished models.

    Returns:
        The record.
    """
    found = sorted(folder.glob(f"fold*/*/{STAGE_FILE}"), key=lambda path: path.stat().st_mtime_ns)
    records: list[StageRecord] = [json.loads(path.read_text("utf-8")) for path in found]
    record = RunRecord(
        arguments=_arguments(recipe),
        versions=versions("lightning", "torchvision"),
        data=DataRecord(
            name=data.name,
            class_names=list(data.class_names),
            training_images=len(data.labels),
            test_images=len(data.test_labels),
            image_size=data.image_size,
            fingerprint=data.fingerprint,
            skipped=list(data.skipped),
        ),
        stages=records,
        explain=f"captum-kd explain {folder}",
    )
    write_whole(folder / RUN_FILE, lambda path: path.write_text(json.dumps(record, indent=1) + "\n", "utf-8"))
    curves: dict[str, list[list[float]]] = {}
    for stage in records:
        if stage["epochs"]:
            curve = [epoch["validation_accuracy"] for epoch in stage["epochs"]]
            curves.setdefault(stage["name"], []).append(curve)
    if curves:
        title = f"{data.name}: mean and standard deviation over {max(map(len, curves.values()))} fold(s)"
        figure, _ = plot_curves(curves, ylabel="validation accuracy", title=title)
        write_whole(folder / "curves.png", lambda path: path.write_bytes(png(figure)))
    return record


def _arguments(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON gives it back."""
    arguments: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return arguments


def _stage_folder(folder: Path, stage: Stage) -> Path:
    return folder / f"fold{stage.fold}" / stage.name
