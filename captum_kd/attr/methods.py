"""Maps of a student and its base model by any method: UniCAM, Grad-CAM, Captum's, or the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from captum.attr import LayerAttribution
from torch import Tensor, nn

from captum_kd.attr.deep_unicam import DeepUniCAM
from captum_kd.attr.gradient_maps import captum_maps, grad_cam, gradient_x_activation
from captum_kd.attr.pair import Pair
from captum_kd.attr.pair_attribution import PairAttribution
from captum_kd.attr.samples import LayerSamples
from captum_kd.attr.unicam import UniCAM
from captum_kd.functional.objectives import Objective, row_max
from captum_kd.functional.pooling import centered
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.side import Side
from captum_kd.models.targets import TwoLogits, class_indices, warn_of_embeddings


class UserFunction(Protocol):
    """A method of the user's: maps ``(n, c, h, w)`` of one model's layer for the given classes."""

    def __call__(self, model: nn.Module, layer: nn.Module, images: Tensor, classes: Tensor, /) -> Tensor: ...


class MapFunction(Protocol):
    """A method for one model: maps ``(n, c, h, w)`` of a layer for the given classes; channels are summed."""

    def __call__(
        self,
        model: nn.Module,
        layer: nn.Module,
        images: Tensor,
        classes: Tensor,
        reshape_transform: ReshapeTransform | None = None,
        /,
    ) -> Tensor: ...


# What `compare` takes: names of METHODS, or a mapping of the user's names to these, to classes, to functions.
Methods: TypeAlias = str | Sequence[str] | Mapping[str, str | type[LayerAttribution] | UserFunction]
# Two maps (n, 1, h, w) of one layer: the student's side and the base model's side.
TwoMaps = tuple[Tensor, Tensor]

UNIQUE_SIDES = ("distilled", "residual")
MODEL_SIDES = ("student", "base")


class MapMethod(NamedTuple):
    """A method, and what its two maps of a layer are.

    Attributes:
        sides: The names of the two maps.
        maps: Called with a pair, images ``(n, c, h, w)`` and labels ``(n,)``; returns the two maps
            ``(n, 1, h', w')`` of each layer.
        decisions: Says what the method chooses by itself for a pair; None if it chooses nothing.
    """

    sides: tuple[str, str]
    maps: Callable[[Pair, Tensor, Tensor], list[TwoMaps]]
    decisions: Callable[[Pair], str] | None = None


def resolve_methods(methods: Methods) -> dict[str, MapMethod]:
    """Methods by name from what :func:`captum_kd.compare` takes.

    Args:
        methods: Names of :data:`METHODS`; or a mapping of a name of your choice to one of those, to a Captum
            ``LayerAttribution`` class, or to a function ``(model, layer, images, classes) -> maps`` of shape
            ``(n, c, h, w)``.

    Returns:
        The methods, in the order given.

    Raises:
        ValueError: An unknown name; the message lists the valid ones.
        TypeError: Something else.

    Example:
        >>> from captum.attr import LayerGradientXActivation
        >>> list(resolve_methods({"mine": LayerGradientXActivation, "UniCAM": "UniCAM, uniqueness"}))
        ['mine', 'UniCAM']
        >>> resolve_methods(["Grad-CAM"])["Grad-CAM"].sides
        ('student', 'base')
    """
    if isinstance(methods, str):
        methods = [methods]
    if isinstance(methods, Mapping):
        return {str(name): _resolve(method, name) for name, method in methods.items()}
    if not isinstance(methods, Sequence):
        raise TypeError(
            f"methods must be names, or a mapping of names to methods; got {type(methods).__name__}."
        )
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(
                f"methods must be names, got {method!r}. For one of your own pass a mapping, for instance "
                "methods={'integrated gradients': LayerIntegratedGradients}."
            )
    return {name: _resolve(name, name) for name in methods}


class CentredUniCAM(UniCAM):
    """UniCAM whose weights are multiplied with centred activations.

    Distances do not see a shift of a channel; the product in Eq. 6 does.
    """

    def _activations(self, samples: LayerSamples) -> Tensor:
        return centered(samples.activations, samples.reference_mean)


def unicam(
    pair: Pair,
    images: Tensor,
    labels: Tensor,
    *,
    method: type[UniCAM] = UniCAM,
    objective: str | Objective = "relevance",
    pool: int | None = None,
) -> list[TwoMaps]:
    """The paper's method, with the objective and the pooling given."""
    attribution = method(
        pair.student.model,
        pair.student.layers,
        pair.base.model,
        pair.base.layers,
        label_embeddings=pair.label_embeddings,
        reference=pair.reference,
        reshape_transform=pair.student.reshape_transform,
        objective=objective,
        pool=pool,
    )
    return list(zip(*attribution.attribute_all(images, labels), strict=True))


def deep_unicam(pair: Pair, method: type[DeepUniCAM] = DeepUniCAM, **options: Any) -> DeepUniCAM:
    """A :class:`~captum_kd.DeepUniCAM` of a pair, with further options of its constructor."""
    return method(
        pair.student.model,
        pair.student.layers,
        pair.base.model,
        pair.base.layers,
        reference=pair.reference,
        reshape_transform=pair.student.reshape_transform,
        **options,
    )


def recommended(
    pair: Pair, images: Tensor, labels: Tensor, *, signed: bool = False, **options: Any
) -> list[TwoMaps]:
    """Maps by :func:`deep_unicam`, which needs no labels: signed ones, or their positive part."""
    maps = deep_unicam(pair, **options).attribute_all(images, relu_attributions=not signed)
    return list(zip(*maps, strict=True))


def features_of(pair: Pair) -> str:
    """The features that :func:`recommended` takes distances between."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # making the maps has warned, or will
        return deep_unicam(pair).features


def both_models(pair: Pair, images: Tensor, labels: Tensor, *, function: MapFunction) -> list[TwoMaps]:
    """A method of one model, for the student and for the base model, each for the class it predicts."""
    ours, theirs = (_model_maps(function, side, images) for side in (pair.student, pair.base))
    return list(zip(ours, theirs, strict=True))


def difference(
    pair: Pair, images: Tensor, labels: Tensor, *, function: MapFunction, signed: bool = False
) -> list[TwoMaps]:
    """What one model's map has beyond the other's, each first divided by its maximum."""
    result = []
    for ours, theirs in both_models(pair, images, labels, function=function):
        theirs = LayerAttribution.interpolate(theirs, tuple(ours.shape[2:]), interpolate_mode="bilinear")
        beyond = _peak_one(ours) - _peak_one(theirs)
        result.append((beyond, -beyond) if signed else (beyond.relu(), (-beyond).relu()))
    return result


def maps_in_batches(
    method: MapMethod, pair: Pair, images: Tensor, labels: Tensor, batch_size: int = 32
) -> list[TwoMaps]:
    """The maps of many images, a batch at a time.

    Args:
        method: One of :data:`METHODS`, or another.
        pair: The models; with a reference, so that maps do not depend on the batch.
        images: Shape ``(n, c, h, w)``.
        labels: Class indices, ``(n,)``.
        batch_size: Images at a time.

    Returns:
        For each layer the two maps ``(n, 1, h', w')``.
    """
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    parts = [method.maps(pair, *batch) for batch in batches]
    return [
        (torch.cat([ours for ours, _ in layer]), torch.cat([theirs for _, theirs in layer]))
        for layer in zip(*parts, strict=True)
    ]


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling by Captum's own function, ``(n, 1, h, w)`` to ``(n, *size)``."""
    upsampled: Tensor = LayerAttribution.interpolate(maps, size, interpolate_mode="bilinear")
    return upsampled[:, 0]


METHODS: dict[str, MapMethod] = {
    "Grad-CAM": MapMethod(MODEL_SIDES, partial(both_models, function=grad_cam)),
    "Grad-CAM difference": MapMethod(UNIQUE_SIDES, partial(difference, function=grad_cam)),
    "gradient x activation": MapMethod(MODEL_SIDES, partial(both_models, function=gradient_x_activation)),
    "gradient x activation difference": MapMethod(
        UNIQUE_SIDES, partial(difference, function=gradient_x_activation)
    ),
    "UniCAM, published objective": MapMethod(UNIQUE_SIDES, unicam),
    "UniCAM, row maximum": MapMethod(UNIQUE_SIDES, partial(unicam, objective=row_max)),
    "UniCAM, uniqueness": MapMethod(
        UNIQUE_SIDES, partial(unicam, method=CentredUniCAM, objective="uniqueness", pool=1)
    ),
    "UniCAM, recommended": MapMethod(UNIQUE_SIDES, recommended, features_of),
    "UniCAM, recommended, signed": MapMethod(UNIQUE_SIDES, partial(recommended, signed=True), features_of),
}
"""The methods that :func:`captum_kd.compare` knows, each with the names of its two sides.

- Maps of each model, for the class that it predicts: "Grad-CAM", "gradient x activation".
- What one of these maps has beyond the other: "Grad-CAM difference", "gradient x activation difference".
- The paper's :class:`~captum_kd.UniCAM`: "UniCAM, published objective" (its defaults); "UniCAM, row maximum";
  "UniCAM, uniqueness" (the layer's own features, globally pooled, and centred activations).
- The recommended :class:`~captum_kd.DeepUniCAM`: "UniCAM, recommended, signed", and its positive part,
  "UniCAM, recommended".
"""


def _resolve(method: str | type[LayerAttribution] | UserFunction, name: object) -> MapMethod:
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(
                f"methods: {method!r} is unknown. Valid names are {', '.join(map(repr, METHODS))}."
            )
        return METHODS[method]
    if isinstance(method, type) and issubclass(method, PairAttribution):
        raise TypeError(
            f"methods: {name!r} is {method.__name__}, which explains a pair. Name one of "
            f"{', '.join(repr(m) for m in METHODS if m.startswith('UniCAM'))} instead."
        )
    function: MapFunction
    if isinstance(method, type) and issubclass(method, LayerAttribution):
        function = partial(captum_maps, method)
    elif isinstance(method, type) or not callable(method):
        raise TypeError(
            f"methods: {name!r} must be a valid name, a Captum LayerAttribution class or a function "
            f"(model, layer, images, classes) -> maps; got {method!r}."
        )
    else:
        function = partial(_users_maps, method)
    return MapMethod(MODEL_SIDES, partial(both_models, function=function))


def _users_maps(
    method: UserFunction,
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    classes: Tensor,
    reshape_transform: ReshapeTransform | None = None,
) -> Tensor:
    """What the user's function gives, which has to know about the layer's shape itself."""
    return method(model, layer, images, classes)


def _model_maps(function: MapFunction, side: Side[nn.Module], images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        output = side.model(images)
        predicted = class_indices(None, output, len(images), side.role)
    warn_of_embeddings(side.model, side.role)
    # Captum selects the column of the class, which one logit does not have.
    model = TwoLogits(side.model) if output.shape[1] == 1 else side.model
    result = []
    for layer in side.layers:
        # Captum needs inputs with gradients where the weights are frozen, and the caller may have none.
        with torch.enable_grad():
            inputs = images.detach().clone().requires_grad_()
            maps = function(model, layer, inputs, predicted, side.reshape_transform)
        if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != len(images):
            given = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(f"A method must give maps of shape ({len(images)}, c, h, w), got {given}.")
        result.append(maps.detach().sum(dim=1, keepdim=True))
    return result


def _peak_one(maps: Tensor) -> Tensor:
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
