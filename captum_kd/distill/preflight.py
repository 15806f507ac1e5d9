"""What is checked of a recipe before any of its models is trained, with networks that have not learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_kd.datasets.dataset import ImageData
from captum_kd.distill.damage import not_finite
from captum_kd.distill.recipe import Recipe, Stage, guidance_of, stages
from captum_kd.distill.training import images_per_device
from captum_kd.models.architectures import build_classifier
from captum_kd.models.checkpoints import load_weights
from captum_kd.models.layers import find_layer

_EXAMPLES = 4  # images that a feature loss learns its shapes from


def check_plan(
    recipe: Recipe, data: ImageData, splits: Sequence[tuple[Tensor, Tensor]], plan: Sequence[Stage]
) -> None:
    """Build every model of a plan once, and find out whether each can be trained as the recipe says.

    Nothing is written, but pre-trained weights may be downloaded.

    Args:
        recipe: The recipe.
        data: Its data.
        splits: Training and validation images of each fold.
        plan: The stages that are to be trained.

    Raises:
        ValueError: A model cannot take the images or has a wrong number of outputs; a layer is not in its
            model, or layers do not go together; pre-trained weights, or the teacher's checkpoint, cannot be
            loaded; or there are too few images for the devices.
    """
    images = min((images_per_device(len(train), recipe.training) for train, _ in splits))
    if images < 2:
        raise ValueError(
            f"There are too few images for {recipe.training.devices} devices, each of which needs 2 in every "
            "fold. Use fewer devices (--devices), or more images (--limit)."
        )
    example = example_of(data)
    with torch.random.fork_rng(devices=()):
        for architecture in dict.fromkeys(stage.architecture for stage in plan):
            _check_classifier(recipe, architecture, example, len(data.class_names))
        if recipe.teacher_checkpoint is not None and any(stage.name == "teacher" for stage in plan):
            _check_teacher(recipe, len(data.class_names), example)
        # Every fold has the same models.
        for stage in {stage._replace(fold=1): None for stage in plan if stage.technique is not None}:
            _check_teaching(recipe, stage, example, len(data.class_names))


def example_of(data: ImageData) -> Tensor:
    """Return the first images, in a batch, for shapes."""
    return torch.stack([data.plain[i][0] for i in range(min(_EXAMPLES, len(data.labels)))])


def _check_classifier(recipe: Recipe, architecture: str, example: Tensor, num_classes: int) -> None:
    model = build_classifier(architecture, num_classes, pretrained=recipe.pretrained).cpu()
    for mode in ("training", "evaluation"):
        outputs = _outputs(model.train(mode == "training"), architecture, example)
        if not isinstance(outputs, Tensor):
            raise ValueError(
                f"{architecture} gives {type(outputs).__name__} in {mode} mode, but one tensor of class "
                "scores is needed."
            )
        if outputs.shape != (len(example), num_classes):
            raise ValueError(
                f"{architecture} gives outputs of shape {tuple(outputs.shape)} for {len(example)} images of "
                f"{num_classes} classes; ({len(example)}, {num_classes}) is needed. A factory must make as "
                "many outputs as num_classes says."
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"{architecture} has no parameters to train: none of them requires a gradient.")
    if architecture == recipe.student:
        for name in recipe.layers:
            find_layer(model, name)
    if architecture == recipe.teacher:
        for name in recipe.teacher_layers:
            find_layer(model, name)


def _check_teacher(recipe: Recipe, num_classes: int, example: Tensor) -> None:
    path = Path(str(recipe.teacher_checkpoint))
    teacher = build_classifier(recipe.teacher, num_classes)
    load_weights(teacher, path)
    names = not_finite(teacher.state_dict())
    if names or not _outputs(teacher.eval(), recipe.teacher, example).isfinite().all():
        what = (
            f"weights that are NaN or infinite ({', '.join(names[:3])})" if names else "outputs that are so"
        )
        raise ValueError(f"--teacher-checkpoint: {path} gives {what}. Choose another checkpoint.")


def _check_teaching(recipe: Recipe, stage: Stage, example: Tensor, num_classes: int) -> None:
    taught_by = next(s for s in stages(recipe) if s.name == stage.taught_by)
    model, teacher = (build_classifier(s.architecture, num_classes).cpu() for s in (stage, taught_by))
    guidance = guidance_of(recipe, stage, model, teacher, example)
    loss, _ = guidance(model.train(), example, torch.arange(len(example)) % num_classes)
    if not loss.isfinite():
        raise ValueError(
            f"The loss of {stage.name} is {loss.item()} before it has learnt anything. Use a smaller weight "
            f"(--weight {stage.technique}=...), or another temperature (--temperature)."
        )
    if not loss.requires_grad:
        raise ValueError(
            f"The loss of {stage.name} does not depend on the weights of {stage.architecture}. Perhaps "
            "it runs under torch.no_grad()."
        )


def _outputs(model: nn.Module, architecture: str, example: Tensor) -> Tensor:
    try:
        with torch.no_grad():
            outputs: Tensor = model(example)
    except Exception as error:  # whatever a network raises for images that it was not made for
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"{architecture} cannot take images of {example.shape[-2]} x {example.shape[-1]} pixels: "
            f"{reason}. Choose another size (--image-size) or architecture."
        ) from error
    return outputs
