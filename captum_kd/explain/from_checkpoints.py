"""A user's own models and images, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchvision.transforms import v2

from captum_kd.datasets.image_files import evaluation_crop
from captum_kd.explain.images import OpenedImages, find_images
from captum_kd.explain.options import (
    Normalisation,
    choose_layers,
    input_channels,
    load_model,
    parse_checkpoint,
    parse_numbers,
    try_model,
)
from captum_kd.explain.subject import Subject, encode_labels, read_class_names


def subject_of_checkpoints(
    *,
    students: Sequence[str],
    base: str,
    teacher: str | None,
    architectures: Sequence[str],
    base_architecture: str | None,
    teacher_architecture: str | None,
    images: str,
    root: Path,
    class_names: Path | None,
    label_encoder: str,
    pooling: str,
    layers: Sequence[str],
    base_layers: Sequence[str],
    teacher_layers: Sequence[str],
    image_size: int,
    resize: int | None,
    mean: str,
    std: str,
    limit: int,
    seed: int,
) -> Subject:
    """Load models and images; each argument is the option of ``captum-kd explain`` of that name.

    Returns:
        The subject: models on the CPU that take images in [0, 1].

    Raises:
        ValueError: An option that does not fit; the message names it.
    """
    named = [parse_checkpoint(text) for text in students]
    names = [checkpoint.name for checkpoint in named]
    if len(set(names)) < len(names):
        raise ValueError(f"--student: two students are called {names}; name them: --student mine=PATH.")
    if len(architectures) not in (1, len(named)):
        raise ValueError(
            f"--architecture: give one, or one for each of the {len(named)} students in their order; got "
            f"{len(architectures)}."
        )
    each = list(architectures) * (len(named) if len(architectures) == 1 else 1)
    given_names = None if class_names is None else read_class_names(class_names)
    crop = evaluation_crop(image_size, resize)
    found = find_images(images, crop, class_names=given_names, root=root, limit=limit, seed=seed)
    models = {
        checkpoint.name: load_model("--student", checkpoint, architecture, found.class_names)
        for checkpoint, architecture in zip(named, each, strict=True)
    }
    base_model = load_model("--base", parse_checkpoint(base), base_architecture or each[0], found.class_names)
    teacher_model = None
    if teacher is not None:
        architecture = teacher_architecture or each[0]
        teacher_model = load_model("--teacher", parse_checkpoint(teacher), architecture, found.class_names)
    everyone = [*models.values(), base_model, *([] if teacher_model is None else [teacher_model])]
    channels = input_channels(everyone[0])
    if channels == 1 and isinstance(found.dataset, OpenedImages):
        found.dataset.transform = v2.Compose([crop, v2.Grayscale()])
    normalisation = Normalisation(
        parse_numbers("--mean", mean, channels), parse_numbers("--std", std, channels)
    )
    for model in everyone:
        model.register_forward_pre_hook(normalisation)
        try_model(model, (channels, image_size, image_size))
    return Subject(
        models,
        base_model,
        choose_layers("--layer", next(iter(models.values())), layers),
        found,
        base_layers=choose_layers("--base-layer", base_model, base_layers) if base_layers else None,
        teacher=teacher_model,
        teacher_layers=(
            choose_layers("--teacher-layer", teacher_model, teacher_layers)
            if teacher_layers and teacher_model is not None
            else None
        ),
        label_embeddings=encode_labels(label_encoder, pooling, found.class_names),
        notes=() if given_names else (_order_of_classes(found.class_names),),
    )


def _order_of_classes(class_names: Sequence[str]) -> str:
    first = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
    return (
        f"The models' outputs are taken to be in this order: {first}. If accuracies are lower than you know "
        "them to be, give the order with --class-names, or the models' normalisation with --mean and --std."
    )
