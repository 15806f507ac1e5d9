"""One call that compares students with their base model: scores of every layer, and maps by many methods."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from captum_kd._version import versions
from captum_kd.attr.methods import MapMethod, TwoMaps, resolve_methods
from captum_kd.attr.pair import Pair
from captum_kd.comparison.cache import FeatureCache
from captum_kd.comparison.features import (
    Stream,
    given_reference,
    layer_features,
    read_batches,
    set_aside,
    stream,
)
from captum_kd.comparison.result import Comparison
from captum_kd.comparison.scores import BASE, TEACHER, KeptFeatures, record_count, score_rows
from captum_kd.labels import LabelEmbeddings, embedding_rows
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.hooks import undisturbed
from captum_kd.models.layers import check_membership, find_layer, layer_name
from captum_kd.models.side import Side

LayerChoice = str | nn.Module | Sequence[str | nn.Module]
DEFAULT_METHODS = ("Grad-CAM difference", "UniCAM, published objective", "UniCAM, recommended")


def compare(
    student: nn.Module | Mapping[str, nn.Module],
    base_model: nn.Module,
    layers: LayerChoice,
    data: Any,
    *,
    base_layers: LayerChoice | None = None,
    teacher: nn.Module | None = None,
    teacher_layers: LayerChoice | None = None,
    label_embeddings: LabelEmbeddings | Tensor | None = None,
    methods: Any = DEFAULT_METHODS,
    reference: Any = None,
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

    The data are read once and every model runs once per batch. Of each image only pooled features are kept,
    so memory does not grow with activations or maps; the scores then need a few matrices of
    ``(samples, samples)``. Maps are made of the first images only. Models run in evaluation mode on the
    device they are on, and are left as they were.

    Quantities at each layer, each with a confidence interval and its null under permuted samples:

    - "FSS": similarity of student and base model (Eq. 8; biased, as in the paper).
    - "RS student", "RS base": how far features follow the labels (Eq. 9; bias-corrected, as all that follow).
    - "RS distilled", "RS residual": that of what the student has beyond the base model, and the reverse.
    - "dCor with LAYER, student" and "..., base": similarity to the same model's last given layer.
    - With a teacher: "FSS teacher and student", "FSS teacher and base" (biased), "RS teacher", and
      "dCor with LAYER, teacher".
    - With ``kept_share``: "RS kept by distilled maps" (of the student, on images reduced to what
      :meth:`UniCAM.recommended` marks without class evidence, which would know the predictions) and "RS kept
      by residual maps" (of the base model), to be read beside
      "RS kept by random maps, student" and "..., base": imputation restores much of an image from scattered
      pixels, which is also what a map that is zero all over keeps.

    Args:
        student: The student, or a mapping of names to several students.
        base_model: The model they are compared with.
        layers: Names (as in ``named_modules()``) or modules of the student, first to last. Their activations
            are ``(n, c, h, w)``, or ``(n, c)`` (which have scores but no maps). Several students are
            looked up by the same names.
        data: A DataLoader, or any iterable, of batches ``(images, target)``: floating point
            ``(n, c, h, w)`` as the models take them, and class indices ``(n,)``.
        base_layers: Layers of the base model, paired with ``layers``. None: those of the same names.
        teacher: The teacher, to be compared with both.
        teacher_layers: Its layers, paired with ``layers``. None: those of the same names.
        label_embeddings: :class:`~captum_kd.LabelEmbeddings` or a tensor ``(num_classes, d)``; None: one-hot.
        methods: Which maps: names of :data:`captum_kd.attr.methods.METHODS`; or a mapping of your name to one
            of those, to a Captum ``LayerAttribution`` class or to a function
            ``(model, layer, images, classes) -> maps``, which are run on both models for the class that
            each predicts.
        reference: Samples that UniCAM takes distances to, as :class:`~captum_kd.UniCAM` takes them; none of
            them may be in ``data``. None: the first 64 samples of ``data`` (a quarter, of fewer than 256)
            are set aside and not scored, so the data should be in random order.
        reshape_transform: Turns what each given layer of each model gives into ``(n, c, h, w)``: for token
            models and for layers with several outputs. A function of your own in ``methods`` has to do it
            itself.
        shown: Number of images, the first ones, that maps are made of.
        pool: Features are the activations averaged on a grid of this size; 1 is global pooling.
        kept_share: Share of pixels, for instance 0.2, for the scores of what maps keep, the others being
            imputed (ROAD). Each layer costs four more forwards. None: these are not computed.
        confidence: Nominal coverage of the intervals.
        permutations: Permutations for a null.
        seed: Of permutations and imputation noise.
        device: Where images are moved to. None: where the base model is.
        cache: Folder to keep each batch's features in, so that the same call goes on after an interruption;
            what belongs to other weights, layers, options or images is not used. The folder may be deleted.
        progress: Show progress bars.

    Returns:
        The :class:`~captum_kd.comparison.Comparison`.

    Raises:
        ValueError: No images, too few (8 to score), or of one class; a batch that is not
            ``(images, target)``; a layer that does not exist (near matches are listed); a target out of
            range; a reference that is the data; activations that are not finite; an unknown method.
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
    _check_options(shown, pool, kept_share, confidence, permutations)
    map_methods = resolve_methods(methods)
    students = _students(student)
    names, models = _models(students, base_model, layers, base_layers, teacher, teacher_layers)
    models = {name: replace(m, reshape_transform=reshape_transform) for name, m in models.items()}
    place = _common_device(models, device)
    with undisturbed(*(m.model for m in models.values())):
        batches = read_batches(data, place, progress)
        if reference is None:
            held_out, batches = set_aside(batches)
            if held_out and all((b.target == held_out[0].target[0]).all() for b in held_out):
                warnings.warn(
                    "The samples set aside as the reference are all of one class; the data seem to be in the "
                    "order of their classes. Shuffle them, or pass a reference of all classes.",
                    stacklevel=2,
                )
        else:
            held_out, batches = given_reference(reference, data, batches, place)
        pairs = {name: Pair(models[name], models[BASE], held_out, label_embeddings) for name in students}
        kept = None if kept_share is None else KeptFeatures(pairs, pool, kept_share, seed)
        check = partial(embedding_rows, label_embeddings)
        remember = None
        if cache is not None:
            given = [v for batch in held_out for v in (batch if isinstance(batch, tuple) else (batch,))]
            if reshape_transform is not None and given:
                # Whether a function is the same can only be told by what it does.
                images = given[0][:1]
                given += [v for m in models.values() for v in layer_features(m, images, pool)[0]]
            depends_on = {"pool": pool, "kept_share": kept_share, "seed": seed}
            remember = FeatureCache(cache, models, depends_on, given)
        found = stream(models, batches, pool=pool, shown=shown, check=check, extra=kept, remember=remember)
        options = {"confidence": confidence, "permutations": permutations}
        records = score_rows(
            found,
            tuple(students),
            names,
            embedding_rows(label_embeddings, found.target),
            seed=seed,
            **options,
        )
        count = record_count(found, tuple(students), names)
        rows = list(tqdm(records, "scores", count, leave=False, disable=not progress))
        maps = {
            name: _maps(pair, found, name, names, map_methods, progress) if shown else {}
            for name, pair in pairs.items()
        }
    settings = {
        "students": list(students),
        "layers": list(names),
        "teacher": teacher is not None,
        "samples": len(found.target),
        "reference": sum(len(batch[0]) if isinstance(batch, tuple) else len(batch) for batch in held_out),
        "reference_source": "the first of the data, not scored" if reference is None else "given",
        "label_embeddings": _describe(label_embeddings),
        "class_names": list(getattr(label_embeddings, "class_names", ())),
        **options,
        "pool": pool,
        "kept_share": kept_share,
        "seed": seed,
        "reshape_transform": getattr(reshape_transform, "__name__", None),
        "versions": versions(),
    }
    sides = {name: method.sides for name, method in map_methods.items()}
    shown_images, shown_labels = _plottable(found.shown.images), found.shown.target.cpu()
    return Comparison(rows, found.accuracy, shown_images, shown_labels, maps, sides, settings)


def _maps(
    pair: Pair,
    found: Stream,
    student: str,
    names: list[str],
    methods: Mapping[str, MapMethod],
    progress: bool,
) -> dict[str, dict[str, TwoMaps]]:
    """Maps of the shown images per layer and method, on the CPU; layers without positions have none."""
    both = zip(found.dimensions[student], found.dimensions[BASE], strict=True)
    spatial = [i for i, dimensions in enumerate(both) if dimensions == (4, 4)]
    maps: dict[str, dict[str, TwoMaps]] = {names[i]: {} for i in spatial}
    if spatial:
        for name, method in tqdm(methods.items(), "maps", leave=False, disable=not progress):
            results = method.maps(pair.only(spatial), *found.shown)
            for i, (ours, theirs) in zip(spatial, results, strict=True):
                maps[names[i]][name] = (_plottable(ours), _plottable(theirs))
    return maps


def _plottable(values: Tensor) -> Tensor:
    """On the CPU, in a precision that figures and files can hold."""
    return values.cpu() if values.dtype == torch.float64 else values.float().cpu()


def _students(student: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    # nn.ModuleDict is a module, and no Mapping.
    students = {"student": student} if isinstance(student, nn.Module) else student
    if not isinstance(students, Mapping):
        raise TypeError(
            f"student must be a module or a mapping of names to modules, got {type(student).__name__}."
        )
    if not students:
        raise ValueError("student is an empty mapping; give at least one student.")
    for name in students:
        if not isinstance(name, str) or name in (BASE, TEACHER):
            raise ValueError(
                f"A student's name must be a string other than 'base' and 'teacher', got {name!r}."
            )
    return dict(students)


def _models(
    students: Mapping[str, nn.Module],
    base: nn.Module,
    layers: LayerChoice,
    base_layers: LayerChoice | None,
    teacher: nn.Module | None,
    teacher_layers: LayerChoice | None,
) -> tuple[list[str], dict[str, Side[nn.Module]]]:
    """The layers' names in the students, and every model with its layers."""
    if teacher is None and teacher_layers is not None:
        raise ValueError("teacher_layers is given, but no teacher.")
    everyone = [*students.items(), (BASE, base), *([] if teacher is None else [(TEACHER, teacher)])]
    for name, model in everyone:
        if not isinstance(model, nn.Module):
            raise TypeError(f"{name} must be a module, got {type(model).__name__}.")
    first = next(iter(students.values()))
    names = _layer_names(first, layers, "layers", "student")
    models = {}
    for name, model in everyone:
        role = {BASE: "base model", TEACHER: "teacher"}.get(name, "student" if len(students) == 1 else name)
        choice = {BASE: base_layers, TEACHER: teacher_layers}.get(name)
        option = f"{name}_layers" if name in (BASE, TEACHER) else "layers"
        own = names if choice is None else _layer_names(model, choice, option, role)
        if len(own) != len(names):
            raise ValueError(f"{option} must pair up with layers: {len(own)} for {len(names)} layers.")
        try:
            models[name] = Side(model, [find_layer(model, layer) for layer in own], role)
        except ValueError as error:
            raise ValueError(f"{option}, {role}: {error}") from None
    return names, models


def _layer_names(model: nn.Module, layers: LayerChoice, option: str, role: str) -> list[str]:
    listed = [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
    names = []
    for layer in listed:
        if isinstance(layer, nn.Module):
            check_membership(model, [layer], option, role)
            layer = layer_name(model, layer) or ""
        if not isinstance(layer, str):
            raise TypeError(f"{option} must be names or modules, got {type(layer).__name__}.")
        names.append(layer)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{option} must name at least one layer and none twice, got {names}.")
    return names


def _common_device(models: Mapping[str, Side[nn.Module]], device: torch.device | str | None) -> torch.device:
    places = {
        name: parameter.device
        for name, explained in models.items()
        if (parameter := next(explained.model.parameters(), None)) is not None
    }
    wanted = places.get(BASE, torch.device("cpu")) if device is None else torch.device(device)
    for name, place in places.items():
        if place.type != wanted.type or (wanted.index is not None and place.index != wanted.index):
            raise ValueError(
                f"{name} is on {place}, but images are moved to {wanted}. Models are not moved: call "
                f"model.to({str(wanted)!r}) first, or set device."
            )
    return wanted


def _check_options(
    shown: int, pool: int, kept_share: float | None, confidence: float, permutations: int
) -> None:
    """Before the data are read, what would otherwise be an error only afterwards."""
    for option, value, least in (
        ("shown", shown, 0),
        ("pool", pool, 1),
        ("permutations", permutations, 1),
    ):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{option} must be a whole number of at least {least}, got {value!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    if kept_share is not None and not 0 < kept_share < 1:
        raise ValueError(f"kept_share must be None or between 0 and 1, for instance 0.2; got {kept_share}.")


def _describe(label_embeddings: LabelEmbeddings | Tensor | None) -> str:
    if label_embeddings is None:
        return "one-hot"
    if isinstance(label_embeddings, LabelEmbeddings):
        return label_embeddings.model
    return f"given, {' x '.join(map(str, label_embeddings.shape))}"
