"""A user's own models and images, as the command line names them."""

from __future__ import annotations

from collections.abc import Sequence

from captum_kd.datasets.image_files import evaluation_crop
from captum_kd.explain.class_names import encode_labels, read_class_names
from captum_kd.explain.images import find_images, in_grey
from captum_kd.explain.inputs import ComparisonInputs
from captum_kd.explain.models import (
    Normalisation,
    choose_layers,
    input_channels,
    load_model,
    parse_checkpoint,
    parse_numbers,
    try_model,
)
from captum_kd.explain.options import ExplainOptions, ModelOptions


def inputs_from_checkpoints(models: ModelOptions, options: ExplainOptions) -> ComparisonInputs:
    """Load a user's own models and images.

    Args:
        models: Where models and images are, and what they are.
        options: How they are compared.

    Returns:
        The inputs; the models are on the CPU and take images in [0, 1].

    Raises:
        ValueError: An option does not fit; the message names it.
    """
    checkpoints = [parse_checkpoint(text) for text in options.students]
    names = [checkpoint.name for checkpoint in checkpoints]
    if len(set(names)) < len(names):
        raise ValueError(f"--student: two students are called {names}; name them: --student mine=PATH.")
    architectures = _one_each(models.architectures, len(names))
    own_names = None if models.class_names is None else read_class_names(models.class_names)
    images = find_images(
        models.images,
        evaluation_crop(models.image_size, models.resize),
        class_names=own_names,
        root=options.root,
        limit=options.drawn,
        seed=options.seed,
    )
    classes = images.class_names
    loaded = {
        checkpoint.name: load_model("--student", checkpoint, architecture, classes)
        for checkpoint, architecture in zip(checkpoints, architectures, strict=True)
    }
    students = {name: one.model for name, one in loaded.items()}
    first = next(iter(students.values()))
    architecture = models.base_architecture or architectures[0]
    base, base_note = load_model("--base", parse_checkpoint(models.base), architecture, classes)
    teacher, teacher_note, teacher_layers = None, "", None
    if models.teacher is not None:
        architecture = models.teacher_architecture or architectures[0]
        teacher, teacher_note = load_model(
            "--teacher", parse_checkpoint(models.teacher), architecture, classes
        )
        if models.teacher_layers:
            teacher_layers = choose_layers("--teacher-layer", teacher, models.teacher_layers)
    part_notes = [*(f"{name}: {one.note}" for name, one in loaded.items() if one.note)]
    part_notes += [
        f"{name}: {note}" for name, note in (("base", base_note), ("teacher", teacher_note)) if note
    ]
    channels = input_channels(first)
    normalisation = Normalisation(
        parse_numbers("--mean", models.mean, channels), parse_numbers("--std", models.std, channels)
    )
    for model in (*students.values(), base, *([] if teacher is None else [teacher])):
        model.register_forward_pre_hook(normalisation)
        try_model(model, (channels, models.image_size, models.image_size))
    return ComparisonInputs(
        students,
        base,
        choose_layers("--layer", first, models.layers),
        in_grey(images) if channels == 1 else images,
        base_layers=choose_layers("--base-layer", base, models.base_layers) if models.base_layers else None,
        teacher=teacher,
        teacher_layers=teacher_layers,
        label_embeddings=encode_labels(options.label_encoder, options.pooling, classes),
        notes=(*(() if own_names else (_order_of_classes(classes),)), *images.notes, *part_notes),
    )


def _one_each(architectures: Sequence[str], count: int) -> Sequence[str]:
    """The architecture of each student."""
    if len(architectures) not in (1, count):
        raise ValueError(
            f"--architecture: give one, or one for each of the {count} students in their order; got "
            f"{len(architectures)}."
        )
    return architectures if len(architectures) == count else [*architectures] * count


def _order_of_classes(class_names: Sequence[str]) -> str:
    first = ", ".join(class_names[:5]) + (", ..." if len(class_names) > 5 else "")
    return (
        f"The models' outputs are assumed to be in this order: {first}. If accuracies are lower than you "
        "know them to be, give the order with --class-names, or the models' normalisation with --mean and "
        "--std."
    )
