"""One call that compares students with their base model: scores of every layer, and maps by many methods."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from captum_kd._version import versions
from captum_kd.attr.methods import Methods, resolve_methods
from captum_kd.attr.pair import Pair
from captum_kd.attr.reference import Reference
from captum_kd.comparison.arguments import (
    check_options,
    common_device,
    named_sides,
    named_students,
)
from captum_kd.comparison.batches import (
    Data,
    DistinctBatches,
    HeldOut,
    given_reference,
    read_batches,
    reference_size,
    set_aside,
)
from captum_kd.comparison.cache import feature_cache
from captum_kd.comparison.features import BASE, stream
from captum_kd.comparison.kept import KeptFeatures
from captum_kd.comparison.maps import decisions_of, plottable, shown_maps
from captum_kd.comparison.result import Comparison
from captum_kd.comparison.scores import score_rows
from captum_kd.comparison.settings import Settings, describe_embeddings
from captum_kd.labels import LabelEmbeddings, embedding_rows
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.hooks import undisturbed
from captum_kd.models.layers import Layers

DEFAULT_METHODS = ("Grad-CAM difference", "UniCAM, published objective", "UniCAM, recommended")


def compare(
    student: nn.Module | Mapping[str, nn.Module],
    base_model: nn.Module,
    layers: Layers,
    data: Data,
    *,
    base_layers: Layers | None = None,
    teacher: nn.Module | None = None,
    teacher_layers: Layers | None = None,
    label_embeddings: LabelEmbeddings | Tensor | None = None,
    methods: Methods = DEFAULT_METHODS,
    reference: Reference | None = None,
    reshape_transform: ReshapeTransform | None = None,
    shown: int = 8,
    pool: int = 1,
    kept_share: float | None = None,
    confidence: float = 0.95,
    permutations: int = 199,
    seed: int = 0,
    device: torch.device | str | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Comparison:
    """Compare one student or several with their base model: FSS, RS and maps at every layer.

    The data are read once, and every model runs once per batch. Only pooled features of each image are kept,
    so memory does not grow with activations or maps; the scores then need a few matrices of
    ``(samples, samples)``. Maps are made of the first images only. The models run in evaluation mode on the
    device they are on, and are left as they were.

    Each layer has these quantities, each with a confidence interval and its null under permuted samples:

    - "FSS": the similarity of student and base model (Eq. 8; biased, as in the paper).
    - "RS student", "RS base": how far the features follow the labels (Eq. 9; bias-corrected, like all that
      follow).
    - "RS distilled", "RS residual": the relevance of what the student has beyond the base model, and the
      reverse.
    - "dCor with LAYER, student" and "..., base": the similarity to the last given layer of the same model.
    - With a teacher: "FSS teacher and student", "FSS teacher and base" (biased), "RS teacher", and
      "dCor with LAYER, teacher".
    - With ``kept_share``: "RS kept by distilled maps" (of the student) and "RS kept by residual maps" (of the
      base model), on images reduced to what :class:`~captum_kd.DeepUniCAM` marks. These maps are made without
      class evidence, which would know the predictions. Read both beside "RS kept by random maps, student" and
      "..., base": imputation restores much of an image from scattered pixels, which is also what a map that
      is zero everywhere keeps.

    Args:
        student: The student, or a mapping of names to several students.
        base_model: The model that they are compared with.
        layers: Names (as in ``named_modules()``) or modules of the student, first to last. Their activations
            are ``(n, c, h, w)``, or ``(n, c)`` (which have scores but no maps). Several students are
            looked up by the same names.
        data: A DataLoader, or any other iterable, of batches ``(images, target)``: floating point
            ``(n, c, h, w)`` as the models take them, and class indices ``(n,)``. An image that is equal to an
            earlier one, as a sampler with replacement gives, is left out with a warning.
        base_layers: Layers of the base model, paired with ``layers``. None: those of the same names.
        teacher: The teacher, which is compared with both.
        teacher_layers: Layers of the teacher, paired with ``layers``. None: those of the same names.
        label_embeddings: :class:`~captum_kd.LabelEmbeddings` or a tensor ``(num_classes, d)``; None: one-hot.
        methods: The methods that make maps: names of :data:`captum_kd.attr.methods.METHODS`; or a mapping
            from a name of your choice to one of those, to a Captum ``LayerAttribution`` class or to a
            function ``(model, layer, images, classes) -> maps``. Classes and functions are run on both
            models, for the class that each predicts.
        reference: The samples that UniCAM takes distances to, as :class:`~captum_kd.UniCAM` takes them; those
            that are in ``data`` as well are not scored. None: the first 64 samples of ``data`` (a quarter if
            there are fewer than 256) are set aside and not scored, so the data should be in random order.
        reshape_transform: Turns what each given layer of each model gives into ``(n, c, h, w)``, for token
            models and for layers with several outputs. A function of your own in ``methods`` has to do this
            itself.
        shown: The number of images, the first ones, that maps are made of.
        pool: The grid size that activations are averaged on; 1 is global pooling.
        kept_share: The share of the pixels, for instance 0.2, for the scores of what maps keep; the other
            pixels are imputed (ROAD). Each layer costs four more forward passes. None: these scores are not
            computed.
        confidence: The nominal coverage of the intervals.
        permutations: The number of permutations for each null.
        seed: The seed of permutations and imputation noise.
        device: The device that images are moved to. None: the device of the base model.
        cache: A folder for the features of each batch. If the call is interrupted, the same call resumes
            where it left off; features of other weights, layers, options or images are never used. The folder
            may be deleted.
        progress: Show progress bars.

    Returns:
        The :class:`~captum_kd.Comparison`.

    Raises:
        ValueError: There are no images, too few (8 are needed to score), or images of one class only; a batch
            is not ``(images, target)``; a layer does not exist (near matches are listed); a target is out of
            range; the reference is the data; activations or class scores are not finite; a method is unknown,
            or needs class scores of models that have different numbers of outputs.
        TypeError: A model is not a module, or a method is not callable.

    Example:
        >>> from captum_kd.models.small import small_resnet
        >>> _ = torch.manual_seed(0)
        >>> student, base = small_resnet(4), small_resnet(4)
        >>> target = torch.arange(96) % 10
        >>> images = torch.randn(96, 3, 32, 32) + 0.3 * target.reshape(-1, 1, 1, 1)    # brighter by class
        >>> data = [(images[:48], target[:48]), (images[48:], target[48:])]
        >>> comparison = compare(student, base, ["layer2", "layer3"], data, progress=False)
        >>> comparison
        Comparison(student with base at layer2, layer3: 72 images scored, 8 shown)
        >>> comparison.score("RS student", "layer3").p_value
        0.005
        >>> figure, axes = comparison.plot_maps("layer3")
    """
    chosen = resolve_methods(methods)
    students = named_students(student)
    names, sides = named_sides(
        students, base_model, teacher, layers, base_layers, teacher_layers, reshape_transform
    )
    settings = Settings(
        students=tuple(students),
        layers=names,
        teacher=teacher is not None,
        reference_source="the first of the data, not scored" if reference is None else "given",
        label_embeddings=describe_embeddings(label_embeddings),
        class_names=tuple(getattr(label_embeddings, "class_names", ())),
        confidence=confidence,
        permutations=permutations,
        pool=pool,
        kept_share=kept_share,
        seed=seed,
        reshape_transform=getattr(reshape_transform, "__name__", None),
        versions=versions(),
    )
    check_options(settings, shown)
    place = common_device(sides, device)
    with undisturbed(*(side.model for side in sides.values())):
        batches = read_batches(data, place, progress)
        held_out: HeldOut
        if reference is None:
            distinct = DistinctBatches(batches)
            held_out, batches = set_aside(distinct)
        else:
            held_out, others = given_reference(reference, data, batches, place)
            distinct = DistinctBatches(others, held_out)
            batches = iter(distinct)
        pairs = {name: Pair(sides[name], sides[BASE], held_out, label_embeddings) for name in students}
        kept = None if kept_share is None else KeptFeatures(pairs, pool, kept_share, seed)
        remember = None if cache is None else feature_cache(cache, sides, settings, held_out)
        check = partial(embedding_rows, label_embeddings)
        found = stream(sides, batches, pool=pool, shown=shown, check=check, extra=kept, remember=remember)
        labels = embedding_rows(label_embeddings, found.target)
        rows = score_rows(found, labels, settings, progress)
        maps = shown_maps(pairs, found, names, chosen, progress)
    return Comparison(
        rows,
        found.accuracy,
        plottable(found.shown.images),
        found.shown.target.cpu(),
        maps,
        {name: method.sides for name, method in chosen.items()},
        replace(
            settings,
            samples=len(found.target),
            reference=reference_size(held_out),
            left_out=distinct.left_out,
            positions=tuple(distinct.positions[-len(found.target) :][: len(found.shown.images)]),
            decisions=decisions_of(chosen, pairs),
        ),
    )
