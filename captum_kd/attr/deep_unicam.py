"""DeepUniCAM: what is unique in late features and used for the class, traced back to earlier layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from captum_kd._warn import warn
from captum_kd.attr.deep_features import AtLayer, DeepFeatures, deep_features
from captum_kd.attr.pair_attribution import Call, PairAttribution
from captum_kd.attr.reference import ModelReference, Reference
from captum_kd.attr.samples import ModelSamples, model_samples, objective_gradients
from captum_kd.functional import cam
from captum_kd.functional.cam import DIRECTIONS, Direction
from captum_kd.functional.objectives import uniqueness
from captum_kd.functional.pooling import centered
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.layers import Layers, deep_layers, layer_name, pair_layers, unwrap
from captum_kd.models.side import Side
from captum_kd.models.targets import check_same_classes, warn_of_embeddings

_POOL = 1  # distances between globally pooled features


class DeepUniCAM(PairAttribution):
    r"""The recommended method: what is unique in late features and used for the class, as one signed map.

    It takes the uniqueness :math:`|U|^2 / |P|^2` of globally pooled late features
    (:func:`captum_kd.functional.uniqueness`), traces its gradient back to ``layer``, multiplies it with the
    centred activation at each position, and subtracts the same map of the other model. To this it adds what
    either model uses for its prediction (or for ``target``) and the other does not: the positive part of
    gradient times activation, in units of its deviation, scaled to the deviation of the map that it is added
    to.

    Maps are signed: positive where the student's features account for the difference more, negative where
    the base model's do. That ranks positions best. ``relu_attributions=True`` keeps the positive part.

    On planted cues with known truth ``captum-kd benchmark localization`` measures how well such maps separate
    what was distilled from what was left behind, beside other methods and without each of these parts. The
    method costs one forward and two backward passes of each model.

    Args:
        forward_func: The student: a module, or a function that runs it. Pass the module where you can; only
            then can late layers be found, and training flags be switched to evaluation and back.
        layer: The layer to explain, as a module or by its name, or a list of layers; a list gives a list of
            maps.
        base_model: The model that the student is compared with. It runs on the same inputs.
        base_layer: The base model's layer or layers, in the order of ``layer``. None: those of the same
            names.
        feature_layer: The student's layer or layers that distances are taken between. They must run after
            ``layer`` or be it. "late": the last two stages, see :func:`captum_kd.models.layers.deep_layers`;
            where these are not known of both models, and with a ``reshape_transform``, a warning says so and
            the explained layers' own features are used, which point less well in early layers. None: the
            explained layers' own features.
        base_feature_layer: The base model's feature layers, in their order. None: those of the same names.
        class_evidence: Add what one model uses for a class and the other does not. The class is ``target``,
            or each model's own prediction. Both models must return class scores ``(n, num_classes)`` of the
            same classes, or the logit ``(n, 1)`` of a binary classifier; pass False where they do not, as
            where a model returns embeddings, which look the same.
        reference: Samples that distances are taken to: a tensor, a pair ``(inputs, target)``, or a
            DataLoader of either; at least 3 samples. A sample's map then does not depend on its batch. When
            it is run again says :class:`UniCAM`.
        reshape_transform: Turns a layer's output into ``(n, c, *spatial)``, for token models and for layers
            with several outputs.
        device_ids: Device order under DataParallel, as in Captum.

    Raises:
        ValueError: A layer that is not in its model, lists of different lengths, or a bad ``reference``.
        TypeError: A model is not callable, or a layer is neither a module nor a name.

    Example:
        >>> import torch, torchvision
        >>> student, base = torchvision.models.resnet18(), torchvision.models.resnet18()
        >>> method = DeepUniCAM(student, student.layer2, base)
        >>> method
        DeepUniCAM(layer2, features of layer3 and layer4, with class evidence)
        >>> method.attribute(torch.randn(4, 3, 64, 64)).shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_model: Callable[..., Any],
        base_layer: Layers | None = None,
        *,
        feature_layer: Layers | Literal["late"] | None = "late",
        base_feature_layer: Layers | None = None,
        class_evidence: bool = True,
        reference: Reference | None = None,
        reshape_transform: ReshapeTransform | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        feature_layers: tuple[list[nn.Module], list[nn.Module]] | None = None
        if isinstance(feature_layer, str) and feature_layer == "late" and base_feature_layer is None:
            feature_layers = _late_layers(forward_func, base_model, reshape_transform)
        elif feature_layer is None or feature_layer == "late":
            if base_feature_layer is not None:
                raise ValueError("base_feature_layer is given, but no feature_layer.")
        else:
            try:
                feature_layers = pair_layers(forward_func, feature_layer, base_model, base_feature_layer)
            except (TypeError, ValueError) as error:
                raise type(error)(f"feature_layer: {error}") from error
        super().__init__(
            forward_func,
            layer,
            base_model,
            base_layer,
            feature_layers=feature_layers,
            label_embeddings=None,
            pool=_POOL,
            reference=reference,
            reshape_transform=reshape_transform,
            device_ids=device_ids,
            label_use="ignored",
            relu=False,
        )
        self.class_evidence = class_evidence

    @property
    def features(self) -> str:
        """What distances are taken between: "own features", or "features of" and the names of layers."""
        ours, theirs = (
            None if side.feature_layers is None else _names(side.model, side.feature_layers)
            for side in self.sides
        )
        if ours is None:
            return "own features"
        return f"features of {ours}" + ("" if ours == theirs else f" (base model: {theirs})")

    def __repr__(self) -> str:
        explained = _names(self.sides[0].model, self.sides[0].layers)
        evidence = "with" if self.class_evidence else "without"
        return f"{type(self).__name__}({explained}, {self.features}, {evidence} class evidence)"

    def _signed_maps(
        self,
        call: Call,
        references: Sequence[ModelReference | None],
        sum_channels: bool,
        directions: tuple[Direction, ...],
    ) -> dict[Direction, list[Tensor]]:
        if not sum_channels:
            raise ValueError(
                "attr_dim_summation=False is for UniCAM: DeepUniCAM subtracts the map of another model, "
                "whose channels do not correspond."
            )
        student, base = (self._samples(side, call, r) for side, r in zip(self.sides, references, strict=True))
        if self.class_evidence:
            self._check_class_scores(call, student, base)
        # First, as the objective's gradient releases the graph.
        evidence = [self._evidence(one, call) for one in (student, base)] if self.class_evidence else []
        unique = self._contrasted(self._unique(student, base), self._unique(base, student))
        if evidence:
            beyond = cam.contrast_maps(*evidence)
            unique = {
                direction: [
                    cam.add_evidence(*both) for both in zip(unique[direction], beyond[direction], strict=True)
                ]
                for direction in DIRECTIONS
            }
        return unique

    def _samples(
        self, side: Side[Callable[..., Any]], call: Call, reference: ModelReference | None
    ) -> _DeepSamples:
        """One forward pass of a model, with the graph if something is traced back through it."""
        graph = None
        if side.feature_layers is None and not self.class_evidence:
            activations, _ = self._run(side, call)
        else:
            graph = deep_features(
                side,
                call.inputs,
                call.additional_forward_args,
                attribute_to_layer_input=call.attribute_to_layer_input,
                means=None if reference is None else reference.means(),
            )
            activations = graph.activations()
            self._classes(call.target, graph.output, len(activations[0]), side.role)
        with torch.autocast(activations[0].device.type, enabled=False):
            samples = model_samples(
                activations, None, None, self.pool, reference, call.same, side.feature_names()
            )
        return _DeepSamples(samples, None if side.feature_layers is None else graph, graph)

    def _unique(self, explained: _DeepSamples, other: _DeepSamples) -> list[Tensor]:
        """Uniqueness of one model's features as a signed map at every layer."""
        samples = explained.samples.layers
        with torch.autocast(samples[0].activations.device.type, enabled=False):
            gradients = objective_gradients(uniqueness, explained.samples, other.samples)
            if explained.to_features is not None:
                at_layers = explained.to_features.objective_weights(samples, gradients)
            else:
                at_layers = [
                    AtLayer(
                        cam.activation_gradient(
                            gradient, mine.distances.to, mine.features, mine.others, mine.activations
                        ),
                        mine.activations,
                        mine.reference_mean,
                    )
                    for mine, gradient in zip(samples, gradients, strict=True)
                ]
            return [
                cam.attribution_map(self._weights(one.weights), self._activations(one), relu=False)
                for one in at_layers
            ]

    def _check_class_scores(self, call: Call, *models: _DeepSamples) -> None:
        """Check what can be known of class scores: predictions are compared where no target is given."""
        outputs = {}
        for side, one in zip(self.sides, models, strict=True):
            assert one.to_scores is not None
            outputs[side.role] = one.to_scores.output
            warn_of_embeddings(side.model, side.role)
        if call.target is None:
            check_same_classes(outputs)

    def _evidence(self, explained: _DeepSamples, call: Call) -> list[Tensor]:
        """What a model uses for the class, at every layer."""
        assert explained.to_scores is not None
        with torch.autocast(explained.samples.layers[0].activations.device.type, enabled=False):
            return [
                cam.class_evidence(self._weights(one.weights), self._activations(one))
                for one in explained.to_scores.class_weights(call.target)
            ]

    # The three steps that the benchmark takes away one at a time.

    def _weights(self, gradient: Tensor) -> Tensor:
        """A weight for each position."""
        return gradient

    def _activations(self, at_layer: AtLayer) -> Tensor:
        """Centred activations: distances do not see a shift of a channel, so the map should not."""
        return centered(at_layer.activations, at_layer.reference_mean)

    def _contrasted(self, distilled: list[Tensor], residual: list[Tensor]) -> dict[Direction, list[Tensor]]:
        """Each direction minus the other."""
        return cam.contrast_maps(distilled, residual)


class _DeepSamples(NamedTuple):
    """The samples in one model, and the graph to its features and class scores where one is needed."""

    samples: ModelSamples
    to_features: DeepFeatures | None
    to_scores: DeepFeatures | None


def _late_layers(
    forward_func: Any, base_model: Any, reshape_transform: ReshapeTransform | None
) -> tuple[list[nn.Module], list[nn.Module]] | None:
    """The late layers of both models, or None with a warning where they are not known."""
    models = (forward_func, base_model)
    for model in models:
        if isinstance(model, nn.Module) and "late" in dict(unwrap(model).named_modules()):
            raise ValueError(
                f"{type(model).__name__} has a layer called 'late', which is also the word for the last "
                "stages. Pass the layer itself as feature_layer, or the last stages by their names."
            )
    ours, theirs = (deep_layers(model) if isinstance(model, nn.Module) else [] for model in models)
    if reshape_transform is None and ours and len(ours) == len(theirs):
        return ours, theirs
    why = (
        "with a reshape_transform late layers are not looked for"
        if reshape_transform is not None
        else "the late layers of both models are not known"
    )
    warn(
        f"DeepUniCAM takes the explained layers' own features, since {why}. Such maps point less well in "
        "early layers. Name late layers with feature_layer=, or pass feature_layer=None to say that own "
        "features are meant."
    )
    return None


def _names(model: Any, layers: list[nn.Module]) -> str:
    names = [layer_name(model, layer) or type(layer).__name__ for layer in layers]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
