"""The folder of a distillation run: what it holds, and how it survives an interruption.

::

    run.json                    arguments, versions, data fingerprint, results, how to explain the pair
    splits.safetensors          indices of each fold's training and validation images
    curves.png                  validation accuracy per epoch, with its spread over folds
    fold1/teacher/model.safetensors, stage.json
    fold1/base/..., fold1/student-response/..., fold1/assistant1-response/...

A model is finished once its ``stage.json`` is there. Files appear whole or not at all; what is damaged later
is found by the digests in ``stage.json``, renamed to ``....damaged``, and made again.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from captum_kd._version import versions
from captum_kd._warn import warn
from captum_kd.atomic import write_whole
from captum_kd.datasets.dataset import ImageData
from captum_kd.distill.damage import (
    DamagedFileError,
    digest_of_text,
    digest_of_weights,
    flush_to_disk,
    is_stray,
    not_finite,
    set_aside,
    write_bytes,
)
from captum_kd.distill.guidance import Technique
from captum_kd.distill.recipe import Recipe, Stage
from captum_kd.distill.resume import RESUME_FILE
from captum_kd.models.architectures import build_classifier
from captum_kd.models.checkpoints import Checkpoint, read_checkpoint
from captum_kd.report.page import png
from captum_kd.visualization import plot_curves

RUN_FILE, STAGE_FILE, MODEL_FILE = "run.json", "stage.json", "model.safetensors"
SPLITS_FILE, CURVES_FILE = "splits.safetensors", "curves.png"
_RUN_FILES = (RUN_FILE, SPLITS_FILE, CURVES_FILE)
_STAGE_FILES = (STAGE_FILE, MODEL_FILE, RESUME_FILE)
_CHECKS = "checks"  # what stage.json holds beside the record


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


class Finished(NamedTuple):
    """A finished model.

    Attributes:
        record: What was measured.
        weights: The digest of its weights.
        teacher: The digest of its teacher's weights, "" without one; None if an earlier version did not say.
        run: The identity of its run, see :func:`run_identity`; None if an earlier version did not say.
    """

    record: StageRecord
    weights: str
    teacher: str | None
    run: str | None


def run_identity(recipe: Recipe, data: ImageData, splits: Sequence[tuple[Tensor, Tensor]]) -> str:
    """Return a digest of all that the models of a run depend on: arguments, images and folds."""
    folds = [[part.tolist() for part in split] for split in splits]
    return digest_of_text([_arguments(recipe), data.fingerprint, folds])


def check_same_run(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder that cannot be written, or holds another run or something other than a run.

    Nothing is written. A run in which no model has been trained is no other run, whatever its arguments.
    """
    _check_writable(folder)
    if not folder.exists() or all(is_stray(path, _RUN_FILES) for path in folder.iterdir()):
        return
    if not os.path.lexists(folder / RUN_FILE):
        raise ValueError(f"{folder} is not empty and holds no run. Choose another folder with --out.")
    try:
        before = read_run(folder)["arguments"]
    except DamagedFileError as error:
        if os.path.lexists(folder / SPLITS_FILE):
            return  # the digests of the stages tell whether they are of this run
        raise ValueError(
            f"{error} Nothing else in {folder} shows that it is a run. Choose another folder with --out."
        ) from error
    now = _arguments(recipe)
    changed = [k for k in {**before, **now} if before.get(k) != now.get(k)]
    if changed and _holds_models(folder):
        listed = "; ".join(f"{k} was {before.get(k)!r} and is now {now.get(k)!r}" for k in changed)
        raise ValueError(
            f"{folder} holds a run with other arguments: {listed}. Give the same ones to resume, or another "
            "folder with --out."
        )


def check_same_data(folder: Path, data: ImageData) -> None:
    """Refuse a run whose images have changed. Nothing is written."""
    try:
        before = read_run(folder)["data"]["fingerprint"] if _holds_models(folder) else data.fingerprint
    except DamagedFileError:
        return  # the digests of the stages tell
    if before != data.fingerprint:
        raise ValueError(
            f"The data set {data.name} has changed since the run in {folder} started (fingerprint "
            f"{before[:12]}..., now {data.fingerprint[:12]}...). Start another run with --out."
        )


def read_run(folder: Path) -> RunRecord:
    """Read ``run.json``.

    Raises:
        ValueError: There is none, or it is damaged.
    """
    path = folder / RUN_FILE
    if not os.path.lexists(path):
        raise ValueError(f"{folder} holds no {RUN_FILE}; is it the folder of a distillation run?")
    record: RunRecord = _read_json(path, RunRecord)
    if not isinstance(record["arguments"], dict) or not isinstance(record["stages"], list):
        raise DamagedFileError(path, "its arguments or stages are of a wrong kind")
    if not isinstance(record["data"], dict) or not isinstance(record["data"].get("fingerprint"), str):
        raise DamagedFileError(path, "its data has no fingerprint")
    return record


def start_run(
    folder: Path,
    recipe: Recipe,
    data: ImageData,
    splits: Sequence[tuple[Tensor, Tensor]],
    found: dict[Stage, Finished | DamagedFileError],
) -> dict[Stage, Finished]:
    """Make the folder; remove what a kill left, and set aside what is damaged.

    Returns:
        The finished models that are whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place, names in ((folder, _RUN_FILES), *((p, _STAGE_FILES) for p in folder.glob("fold*/*"))):
        for stray in [path for path in place.glob(".*") if is_stray(path, names)]:
            stray.unlink()
    new = not _holds_models(folder)
    if os.path.lexists(folder / RUN_FILE):
        try:
            read_run(folder)
        except DamagedFileError as error:
            set_aside([error.path], str(error).rstrip("."), "is written again")
    if (folder / CURVES_FILE).is_dir():
        set_aside([folder / CURVES_FILE], f"{folder / CURVES_FILE} is a folder", "is drawn again")
    _write_splits(folder / SPLITS_FILE, splits, new)
    whole = {stage: finished for stage, finished in found.items() if isinstance(finished, Finished)}
    for stage, damage in found.items():
        if isinstance(damage, DamagedFileError):
            set_aside_stage(folder, stage, str(damage))
    for stage in whole:
        # A kill may have come between the record and this.
        (_stage_folder(folder, stage) / RESUME_FILE).unlink(missing_ok=True)
    write_run(folder, recipe, data, [finished.record for finished in whole.values()])
    return whole


def finished_stages(
    folder: Path, plan: Sequence[Stage], num_classes: int, run: str
) -> dict[Stage, Finished | DamagedFileError]:
    """Read the finished models, and compare them with what was written. Nothing is written.

    Args:
        folder: The folder of the run.
        plan: The stages of the run.
        num_classes: Number of classes of the data.
        run: The identity of the run.

    Returns:
        For each stage whose ``stage.json`` is there, in the order of the plan: the model, or the damage.

    Raises:
        ValueError: A model is of another run, or nothing says of which.
    """
    found: dict[Stage, Finished | DamagedFileError] = {}
    for stage in plan:
        own = _stage_folder(folder, stage)
        if not os.path.lexists(own / STAGE_FILE):
            continue
        try:
            found[stage] = finished = _read_stage(own, stage, num_classes)
        except DamagedFileError as error:
            found[stage] = error
            continue
        if finished.run is None:
            try:
                read_run(folder)
            except DamagedFileError as error:
                raise ValueError(
                    f"{error} Nothing else says which arguments {stage.name} of fold {stage.fold} was "
                    "trained with. Start another run with --out."
                ) from error
            warn(
                f"{own / STAGE_FILE} is of an earlier version and has no digests, so damage to it or to "
                f"{MODEL_FILE} beside it cannot be found."
            )
        elif finished.run != run:
            raise ValueError(
                f"{own / STAGE_FILE} is of a run with other arguments, data or folds. Choose another folder "
                "with --out."
            )
    return found


def set_aside_stage(folder: Path, stage: Stage, why: str) -> None:
    """Rename the record and the weights of a model, so that it is trained again."""
    own = _stage_folder(folder, stage)
    # The record first: without it the model counts as unfinished.
    set_aside(
        [own / STAGE_FILE, own / MODEL_FILE],
        why.rstrip("."),
        f"{stage.name} of fold {stage.fold} is trained again",
    )


def finish_stage(
    folder: Path,
    stage: Stage,
    model: nn.Module,
    num_classes: int,
    history: list[dict[str, float]],
    test: dict[str, float],
    *,
    run: str = "",
    teacher: str = "",
) -> Finished:
    """Write a finished model and its record, and delete its resume file.

    Args:
        folder: The folder of the run.
        stage: The stage.
        model: Its model.
        num_classes: Number of outputs.
        history: One record per epoch.
        test: Results on the test images.
        run: The identity of the run.
        teacher: The digest of its teacher's weights.

    Returns:
        The record and the digests.

    Raises:
        ValueError: A weight is NaN or infinite.
        OSError: A file cannot be written.
    """
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
    # Strings only, as the safetensors header demands.
    facts = {"architecture": stage.architecture, "num_classes": str(num_classes)}
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if names := not_finite(weights):
        raise ValueError(
            f"The weights of {stage.name} of fold {stage.fold} hold NaN or infinite values "
            f"({', '.join(names[:3])}), so it is not kept."
        )
    finished = Finished(record, digest_of_weights(weights, facts), teacher, run)
    checks = {"run": run, "teacher": teacher, "weights": finished.weights}
    checks["record"] = digest_of_text([record, checks])
    own.mkdir(parents=True, exist_ok=True)
    for name in (MODEL_FILE, STAGE_FILE):
        if (own / name).is_dir():
            set_aside([own / name], f"{own / name} is a folder", "is written again")
    write_whole(own / MODEL_FILE, lambda path: _save_weights(weights, path, facts, own / MODEL_FILE))
    _write_json(own / STAGE_FILE, {**record, _CHECKS: checks})
    (own / RESUME_FILE).unlink(missing_ok=True)
    return finished


def load_model(own: Path, architecture: str, num_classes: int) -> nn.Module:
    """Load the model of a stage's folder, in evaluation mode, if it is what was written.

    Raises:
        ValueError: A file is missing or damaged, or the weights do not fit.
    """
    model = build_classifier(architecture, num_classes)
    checkpoint = _read_weights(own)
    if os.path.lexists(own / STAGE_FILE):
        _check_digests(own, _read_json(own / STAGE_FILE, StageRecord), checkpoint)
    checkpoint.load_into(model)
    return model.eval()


def write_run(folder: Path, recipe: Recipe, data: ImageData, records: Sequence[StageRecord]) -> RunRecord:
    """Write ``run.json`` and the learning curves of the finished models.

    Returns:
        The record.
    """
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
        stages=list(records),
        explain=f"captum-kd explain {folder}",
    )
    _write_json(folder / RUN_FILE, record)
    curves: dict[str, list[list[float]]] = {}
    for stage in records:
        if stage["epochs"]:
            curve = [epoch["validation_accuracy"] for epoch in stage["epochs"]]
            curves.setdefault(stage["name"], []).append(curve)
    if curves:
        title = f"{data.name}: mean and standard deviation over {max(map(len, curves.values()))} fold(s)"
        figure, _ = plot_curves(curves, ylabel="validation accuracy", title=title)
        write_bytes(folder / CURVES_FILE, png(figure))
    return record


def _read_stage(own: Path, stage: Stage, num_classes: int) -> Finished:
    contents = _read_json(own / STAGE_FILE, StageRecord)
    wanted = {**stage._asdict(), "num_classes": num_classes}
    if wrong := [key for key, value in wanted.items() if contents[key] != value]:
        raise DamagedFileError(own / STAGE_FILE, f"it is not of this model ({', '.join(wrong)} differ)")
    numbers = [contents["test"], *contents["epochs"]] if isinstance(contents["epochs"], list) else [None]
    if not all(isinstance(n, dict) and all(isinstance(v, (int, float)) for v in n.values()) for n in numbers):
        raise DamagedFileError(own / STAGE_FILE, "its results are no numbers")
    if "accuracy" not in contents["test"] or not all("validation_accuracy" in e for e in contents["epochs"]):
        raise DamagedFileError(own / STAGE_FILE, "it lacks an accuracy")
    checkpoint = _read_weights(own)
    checks = _check_digests(own, contents, checkpoint)
    try:
        checkpoint.load_into(build_classifier(stage.architecture, num_classes))
    except ValueError as error:
        raise DamagedFileError(own / MODEL_FILE, str(error).rstrip(".")) from error
    record: StageRecord = {k: v for k, v in contents.items() if k != _CHECKS}  # type: ignore[assignment]
    digest = digest_of_weights(checkpoint.weights, checkpoint.metadata)
    return Finished(record, digest, checks.get("teacher"), checks.get("run"))


def _check_digests(own: Path, contents: Mapping[str, Any], checkpoint: Checkpoint) -> dict[str, str]:
    """Compare a record and weights with their digests, which are returned; empty if there are none."""
    if _CHECKS not in contents:
        return {}
    record, checks = {k: v for k, v in contents.items() if k != _CHECKS}, contents[_CHECKS]
    if not isinstance(checks, dict) or set(checks) != {"run", "teacher", "weights", "record"}:
        raise DamagedFileError(own / STAGE_FILE, "its digests are incomplete")
    rest = {k: v for k, v in checks.items() if k != "record"}
    if checks["record"] != digest_of_text([record, rest]):
        raise DamagedFileError(own / STAGE_FILE, "it is not what was written (its digest differs)")
    if checks["weights"] != digest_of_weights(checkpoint.weights, checkpoint.metadata):
        raise DamagedFileError(
            own / MODEL_FILE, "its weights are not what was written (their digest differs)"
        )
    return checks


def _read_weights(own: Path) -> Checkpoint:
    try:
        checkpoint = read_checkpoint(own / MODEL_FILE)
    except ValueError as error:
        raise DamagedFileError(own / MODEL_FILE, str(error).rstrip(".")) from error
    if names := not_finite(checkpoint.weights):
        raise DamagedFileError(own / MODEL_FILE, f"it holds NaN or infinite values ({', '.join(names[:3])})")
    return checkpoint


def _save_weights(weights: dict[str, Tensor], path: Path, facts: dict[str, str], target: Path) -> None:
    try:
        save_file(weights, path, metadata=facts)
    except SafetensorError as error:  # which is no OSError, even where the disk is full
        raise OSError(f"{target} could not be written: {error}") from error
    flush_to_disk(path)


def _write_splits(path: Path, splits: Sequence[tuple[Tensor, Tensor]], new: bool) -> None:
    parts = {
        f"fold{i}.{part}": indices
        for i, split in enumerate(splits, start=1)
        for part, indices in zip(("train", "validation"), split, strict=True)
    }
    if os.path.lexists(path):
        try:
            there = load_file(path)
            if there.keys() == parts.keys() and all(there[k].equal(parts[k]) for k in parts):
                return
            why = "holds other folds than this run's"
        except (SafetensorError, OSError) as error:
            why = f"is damaged: {error}".rstrip(".")
        if path.is_dir() or not new:
            set_aside([path], f"{path} {why}", "is written again")
    write_bytes(path, save(parts))


def _read_json(path: Path, kind: type) -> Any:
    """Read a JSON object that has the keys of a TypedDict."""
    try:
        contents = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError, IsADirectoryError) as error:
        raise DamagedFileError(path, str(error).rstrip(".") or type(error).__name__) from error
    wanted = set(kind.__annotations__)
    # A stage has no other keys: an altered name of the digests could hide among them.
    more = set(contents) - wanted - {_CHECKS} if kind is StageRecord and isinstance(contents, dict) else ()
    if not isinstance(contents, dict) or wanted - set(contents) or more:
        raise DamagedFileError(path, f"it must be an object with {', '.join(sorted(wanted))}")
    return contents


def _write_json(path: Path, contents: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(contents, indent=1) + "\n").encode())


def _check_writable(folder: Path) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise ValueError(
            f"--out: {folder} cannot be written, since {there} is no folder. Choose another one."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"--out: {folder} cannot be written, since {there} may not be. Choose another one.")


def _holds_models(folder: Path) -> bool:
    """Whether a model of the run was finished or begun."""
    return any(path.name in _STAGE_FILES for path in folder.glob("fold*/*/*"))


def _arguments(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON gives it back."""
    arguments: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return arguments


def _stage_folder(folder: Path, stage: Stage) -> Path:
    return folder / f"fold{stage.fold}" / stage.name
