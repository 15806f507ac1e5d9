"""Training the models of a recipe, stage by stage, in a folder from which a stopped run resumes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from captum_kd.datasets.dataset import ImageData
from captum_kd.datasets.load import class_splits, load_data
from captum_kd.distill.damage import digest_of_text
from captum_kd.distill.guidance import Guidance
from captum_kd.distill.preflight import check_plan, example_of
from captum_kd.distill.recipe import Recipe, Stage, guidance_of, stages
from captum_kd.distill.run_folder import (
    Finished,
    RunRecord,
    check_same_data,
    check_same_run,
    finish_stage,
    finished_stages,
    load_model,
    run_identity,
    set_aside_stage,
    start_run,
    write_run,
)
from captum_kd.distill.training import TrainingSettings, check_trainer, predictions, train_classifier
from captum_kd.models.architectures import build_classifier
from captum_kd.models.checkpoints import load_weights


def run_recipe(
    recipe: Recipe, folder: Path, *, root: Path = Path("data"), report: Callable[[str], None] = print
) -> RunRecord:
    """Train every model of a recipe; if an earlier call was stopped, resume where it left off.

    Everything is checked before anything is written or trained. Files of an earlier call that are damaged are
    set aside with a warning, and what they held is made again.

    Args:
        recipe: What to train.
        folder: The run's folder: ``run.json``, ``splits.safetensors``, and a folder per fold and model with
            its ``model.safetensors`` and ``stage.json``.
        root: Folder of the named data sets; downloads are written here.
        report: Called with a line of text after each model.

    Returns:
        The contents of ``run.json``.

    Raises:
        ValueError: The recipe or the data set is bad, the folder holds something other than this run, or a
            training diverges.
        OSError: The folder cannot be written; finished models and epochs are intact.
    """
    check_same_run(folder, recipe)
    check_trainer(recipe.training)
    for architecture in dict.fromkeys([recipe.teacher, recipe.student, *recipe.assistants]):
        build_classifier(architecture, 2)  # an unknown name fails before anything is loaded or trained
    data = load_data(
        recipe.data,
        root=root,
        image_size=recipe.image_size,
        seed=recipe.seed,
        limit=recipe.limit,
        skip_unreadable=recipe.skip_unreadable,
        augment=recipe.augment,
    )
    splits = class_splits(data.labels, recipe.folds, recipe.seed, data.class_names)
    plan, run = list(stages(recipe)), run_identity(recipe, data, splits)
    check_same_data(folder, data)
    found = finished_stages(folder, plan, len(data.class_names), run)
    check_plan(recipe, data, splits, [stage for stage in plan if not isinstance(found.get(stage), Finished)])
    finished = start_run(folder, recipe, data, splits, found)
    for stage in plan:
        teacher = _teacher_of(stage, finished)
        done = finished.get(stage)
        if done is not None and done.teacher not in (teacher, None):
            set_aside_stage(folder, stage, f"{stage.name} of fold {stage.fold} had another {stage.taught_by}")
            done = None
        if done is None:
            done = _train_stage(recipe, stage, data, splits[stage.fold - 1], folder, run, teacher)
            finished[stage] = done
            write_run(folder, recipe, data, [finished[s].record for s in plan if s in finished])
        report(
            f"fold {stage.fold}, {stage.name} ({stage.architecture}): test accuracy "
            f"{done.record['test']['accuracy']:.4f}"
        )
    return write_run(folder, recipe, data, [finished[stage].record for stage in plan])


def load_stage(folder: Path, fold: int, name: str, architecture: str, num_classes: int) -> nn.Module:
    """Load a finished model of a run, in evaluation mode.

    Raises:
        ValueError: It is missing or damaged, or does not fit the architecture.
    """
    return load_model(folder / f"fold{fold}" / name, architecture, num_classes)


def _teacher_of(stage: Stage, finished: Mapping[Stage, Finished]) -> str:
    """The digest of the weights of a stage's teacher, which is finished; empty if it has none."""
    taught_by = (stage.fold, stage.taught_by)
    return next((done.weights for s, done in finished.items() if (s.fold, s.name) == taught_by), "")


def _train_stage(
    recipe: Recipe,
    stage: Stage,
    data: ImageData,
    split: tuple[Tensor, Tensor],
    folder: Path,
    run: str,
    teacher: str,
) -> Finished:
    num_classes = len(data.class_names)
    seed = _stage_seed(recipe.seed, stage)
    torch.manual_seed(seed)
    model = build_classifier(stage.architecture, num_classes, pretrained=recipe.pretrained)
    history: list[dict[str, float]] = []
    if stage.name == "teacher" and recipe.teacher_checkpoint is not None:
        load_weights(model, Path(recipe.teacher_checkpoint))
    else:
        train_on = data.train
        if stage.name == "teacher" and data.teacher_train is not None:
            train_on = data.teacher_train
        history = train_classifier(
            model,
            num_classes,
            Subset(train_on, split[0].tolist()),
            Subset(data.plain, split[1].tolist()),
            recipe.training,
            folder / f"fold{stage.fold}" / stage.name,
            guidance=_guidance(recipe, stage, data, model, folder),
            seed=seed,
            title=f"fold {stage.fold}, {stage.name}",
            run=digest_of_text([run, stage, teacher]),
        )
    test = _test(model, data, recipe.training)
    return finish_stage(folder, stage, model, num_classes, history, test, run=run, teacher=teacher)


def _guidance(
    recipe: Recipe, stage: Stage, data: ImageData, model: nn.Module, folder: Path
) -> Guidance | None:
    if stage.technique is None or stage.taught_by is None:
        return None
    taught_by = next(s for s in stages(recipe) if s.name == stage.taught_by)
    teacher = load_stage(folder, stage.fold, taught_by.name, taught_by.architecture, len(data.class_names))
    return guidance_of(recipe, stage, model, teacher, example_of(data))


def _test(model: nn.Module, data: ImageData, settings: TrainingSettings) -> dict[str, float]:
    """Accuracy on the test images and, where cues are planted, what the model follows."""
    predicted = predictions(model, data.test, settings)
    shares = {"accuracy": predicted == data.test_labels}
    if data.test_cues is not None:
        shares["cue_agreement"] = predicted == data.test_cues
    for name, variant in data.test_variants.items():
        shares[f"changed_{name}"] = predicted != predictions(model, variant, settings)
    return {name: round(hits.double().mean().item(), 4) for name, hits in shares.items()}


def _stage_seed(seed: int, stage: Stage) -> int:
    """The seed of a model: its own, but the same for a fold's base model and students.

    So these start from the same weights.
    """
    kind = "student" if stage.name == "base" or stage.name.startswith("student") else stage.name
    return (zlib.crc32(f"{seed}/{stage.fold}/{kind}".encode()) % 1_000_003) % 2**20
