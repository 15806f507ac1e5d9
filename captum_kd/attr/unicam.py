"""UniCAM: class activation maps of what only one of two models has learnt."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from captum.log import log_usage
from torch import Tensor, nn

from captum_kd.attr.pair_attribution import LabelUse, PairAttribution
from captum_kd.attr.samples import LayerSamples, ModelSamples
from captum_kd.functional import cam
from captum_kd.functional.cam import Distances
from captum_kd.functional.centering import check_sample_count
from captum_kd.functional.evidence import add_evidence, class_evidence
from captum_kd.functional.objectives import IGNORE_LABELS, OBJECTIVES, Objective, relevance
from captum_kd.labels import LabelEmbeddings
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.layers import Layers, deep_layers

Features = Literal["distilled", "residual"]
Combine = Literal["channel", "elementwise"]
Maps = Tensor | list[Tensor]
_Self = TypeVar("_Self", bound="UniCAM")


class UniqueAttributions(NamedTuple):
    """Maps of both directions: what the student has beyond the base model, and the reverse."""

    distilled: Maps
    residual: Maps


class UniCAM(PairAttribution):
    r"""Unique class activation mapping of a student given a base model, and the reverse.

    Grad-CAM asks which positions of a layer raise a class score. UniCAM asks which positions make the
    student's geometry of samples differ from the base model's: with :math:`P^{(s)}, P^{(b)}` the U-centred
    distance matrices of both models' features, the student's unique component is

    .. math:: U = P^{(s)} - \frac{\langle P^{(s)}, P^{(b)}\rangle}{\langle P^{(b)}, P^{(b)}\rangle} P^{(b)},

    an objective turns :math:`U` into a scalar :math:`S`, and the map is
    :math:`\mathrm{ReLU}(\sum_k \beta_k A_k)` with :math:`\beta_k` the spatial mean of
    :math:`\partial S / \partial A_k` (Eq. 3, 5 and 6 of Adhane et al., "On Explaining Knowledge
    Distillation"). The gradient has a closed form, so all layers and both directions cost one forward pass
    of each model and no backward pass. With ``feature_layer`` the distances are those of later layers, and
    one backward pass of each model traces the gradient back to all explained layers; with
    ``class_evidence`` there is one more.

    A map is relative to the samples that distances are taken between: by default those of the batch, as
    in the paper. Pass ``reference`` to fix them; a sample's map then does not depend on its batch.

    The defaults are those of the published code. :meth:`recommended` gives the setting that has the best
    evidence, among UniCAM's, of pointing where the two models differ.

    Args:
        forward_func: The student: a module, or a function that runs it (pass the module where you can;
            only then its training flags can be switched to evaluation and back).
        layer: The layer to explain, or a list of layers; lists of maps are then returned.
        base_model: The model that the student is compared with, run on the same inputs.
        base_layer: Its layer or layers, in the order of ``layer``. None takes those of the same names.
            Architecture, channels and map size may differ.
        label_embeddings: :class:`~captum_kd.LabelEmbeddings` or a tensor ``(num_classes, d)`` whose rows
            represent the classes in objectives that use labels. None: one-hot.
        objective: "relevance" (how far the unique component follows the labels), "uniqueness" (how large it
            is; needs no labels), "row_max", or a callable ``(explained, other, labels) -> scalar`` of the
            ``(n, n)`` distance matrices; ``labels`` is None if there are no targets.
        combine: "channel" (Eq. 5: one weight per channel) or "elementwise" (gradient times activation at each
            position).
        pool: None takes distances between flattened activations; a number g between activations that were
            average-pooled to g x g (1 is global pooling).
        reference: Samples that distances are taken against: a tensor, a pair ``(inputs, target)`` or a
            DataLoader of either; at least 3 samples. It is read once, and run again when a model's weights
            have changed (but PyTorch keeps no record of writes through ``parameter.data``).
        reshape_transform: Turns a layer's output into ``(n, c, *spatial)``, for token models and for layers
            with several outputs.
        device_ids: Device order under DataParallel, as in Captum.
        center: Multiply the weights with activations minus their channel mean over the batch (or the
            reference) and over positions. Distances do not see such a shift; the map does.
        feature_layer: Layer or layers of the student that distances are taken between, where these are not
            the explained ones; the objective is summed over them, and its gradient is traced back to
            ``layer`` by one backward pass. They must run after ``layer`` or be it.
        base_feature_layer: Those of the base model, in their order. None takes those of the same names.
        contrast: Subtract the map of the other direction, resized: where the student's features drive the
            difference of the two models more than the base model's do, or the reverse.
        class_evidence: Add what one model uses for a class and the other does not: the positive part of the
            class score's gradient times activation, in units of its deviation, one model's minus the other's,
            scaled to the deviation of the map it is added to. The class is ``target``, or each model's own
            prediction. Needs ``contrast`` and models that return class scores ``(n, num_classes)``.

    Raises:
        ValueError: An unknown word for an option, a layer that is not in its model, lists of different
            lengths, a bad ``reference``, or ``class_evidence`` without ``contrast``.
        TypeError: A model is not callable or a layer is not a module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> def network():
        ...     return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
        >>> student, base, images = network(), network(), torch.randn(16, 3, 8, 8)
        >>> unicam = UniCAM(student, student[1], base)
        >>> unicam.attribute(images, target=torch.arange(16) % 4).shape
        torch.Size([16, 1, 6, 6])
        >>> distilled, residual = unicam.attribute_all(images)
        >>> upsampled = UniCAM.interpolate(distilled, (8, 8), interpolate_mode="bilinear")
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_model: Callable[..., Any],
        base_layer: Layers | None = None,
        *,
        label_embeddings: LabelEmbeddings | Tensor | None = None,
        objective: str | Objective = "relevance",
        combine: Combine = "channel",
        pool: int | None = None,
        reference: Any = None,
        reshape_transform: ReshapeTransform | None = None,
        device_ids: list[int] | None = None,
        center: bool = False,
        feature_layer: Layers | None = None,
        base_feature_layer: Layers | None = None,
        contrast: bool = False,
        class_evidence: bool = False,
    ) -> None:
        if not callable(objective):
            _one_of(objective, tuple(OBJECTIVES), "objective (if not a callable)")
            objective = OBJECTIVES[objective]
        _one_of(combine, get_args(Combine), "combine")
        if class_evidence and not contrast:
            raise ValueError("class_evidence=True needs contrast=True: it is one model's minus the other's.")
        super().__init__(
            forward_func,
            layer,
            base_model,
            base_layer,
            label_embeddings=label_embeddings,
            pool=pool,
            reference=reference,
            reshape_transform=reshape_transform,
            device_ids=device_ids,
            feature_layer=feature_layer,
            base_feature_layer=base_feature_layer,
            label_use=_label_use(objective),
            traced=class_evidence,
        )
        self.objective: Objective = objective
        self.combine = combine
        self.center = center
        self.contrast = contrast
        self.class_evidence = class_evidence

    @classmethod
    def recommended(
        cls: type[_Self],
        forward_func: Callable[..., Any],
        layer: Layers,
        base_model: Callable[..., Any],
        base_layer: Layers | None = None,
        **options: Any,
    ) -> _Self:
        """The setting that the evidence favours: what is unique in late features and used for the class.

        Uniqueness of globally pooled features of the last two stages, traced back to ``layer``; gradient
        times centred activation at each position; minus the same of the other model; plus what either model
        uses for its prediction (or for ``target``) and the other does not. On planted cues with known truth
        ``captum-kd benchmark localization`` measures how well such maps separate what was distilled from what
        was left behind, beside other methods and without each of these parts. This costs one forward and two
        backward passes of each model; the constructor's defaults stay the paper's. With
        ``relu_attributions=False`` maps are signed, which ranks positions best: positive where the student,
        negative where the base model has more.

        Both models must return class scores; pass ``class_evidence=False`` where they do not. The features
        are those of :func:`captum_kd.models.layers.deep_layers`. Where these are not known, and with a
        ``reshape_transform``, they are those of the explained layers themselves, which points less well in
        early layers: name better ones with ``feature_layer``.

        Args:
            forward_func: As in the constructor.
            layer: As in the constructor.
            base_model: As in the constructor.
            base_layer: As in the constructor.
            **options: Further keywords of the constructor; they win over the recommended ones.

        Returns:
            A :class:`UniCAM` with ``objective="uniqueness"``, ``pool=1``, ``center=True``,
            ``combine="elementwise"``, ``contrast=True``, ``class_evidence=True`` (unless ``contrast`` is
            False) and, where they are known, deep layers as ``feature_layer``.

        Example:
            >>> import torchvision
            >>> student, base = torchvision.models.resnet18(), torchvision.models.resnet18()
            >>> unicam = UniCAM.recommended(student, student.layer2, base)
            >>> unicam.pool, unicam.contrast
            (1, True)
        """
        settings: dict[str, Any] = {
            "objective": "uniqueness",
            "pool": 1,
            "center": True,
            "combine": "elementwise",
            "contrast": True,
            "class_evidence": options.get("contrast", True),
        }
        if "feature_layer" not in options and options.get("reshape_transform") is None:
            settings |= _feature_layers(forward_func, base_model)
        return cls(forward_func, layer, base_model, base_layer, **{**settings, **options})

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
        *,
        features: Features = "distilled",
    ) -> Maps:
        """Map what only one of the two models has learnt.

        Args:
            inputs: A tensor or a tuple of tensors with the samples in dimension 0, as in Captum. Without
                ``reference`` at least 4 samples, and the maps depend on all of them.
            target: Class index of each sample: an int for all, a list, or a tensor ``(n,)``. With
                ``label_embeddings`` it selects the rows, with ``class_evidence`` the class that is asked
                about. None: each model's own prediction.
            additional_forward_args: Passed to both models after the inputs.
            attribute_to_layer_input: Explain the layer's input instead of its output.
            relu_attributions: Keep only positive values (Eq. 6). False gives the signed map.
            attr_dim_summation: Sum over channels. False gives a map per channel.
            features: "distilled" (the student given the base model; with ``contrast`` minus the reverse) or
                "residual" (the base model given the student; the maps then have the size of the base layer).

        Returns:
            Maps of shape ``(n, 1, *spatial)``, or ``(n, c, *spatial)`` without summation, at the layer's
            resolution, float32 (float64 for a float64 model); a list of them if ``layer`` is a list.
            All zero where the two models share everything. Where they differ by rounding alone (the same
            weights, one of them compiled), maps are rounding noise: look at their size before their shape.

        Raises:
            ValueError: Fewer than 4 samples without a reference; a target that is missing, out of range or
                of the wrong length; too few label embeddings; an unknown word for ``features``;
                activations that are not finite or not ``(n, c, ...)``; feature layers that do not depend on
                an explained layer; ``attr_dim_summation=False`` with ``contrast``.
        """
        _one_of(features, get_args(Features), "features")
        (maps,) = self._explain(
            inputs,
            target,
            additional_forward_args,
            attribute_to_layer_input,
            relu_attributions,
            attr_dim_summation,
            (features,),
        )
        return maps

    @log_usage()
    def attribute_all(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = True,
        attr_dim_summation: bool = True,
    ) -> UniqueAttributions:
        """Both directions for every layer from one forward pass of each model.

        With ``feature_layer`` there is one backward pass of each model as well.

        Takes the arguments of :meth:`attribute` but ``features``.

        Returns:
            ``UniqueAttributions(distilled, residual)``, each as :meth:`attribute` returns it.
        """
        return UniqueAttributions(
            *self._explain(
                inputs,
                target,
                additional_forward_args,
                attribute_to_layer_input,
                relu_attributions,
                attr_dim_summation,
                get_args(Features),
            )
        )

    @torch.no_grad()
    def _explain(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        additional_forward_args: Any,
        layer_input: bool,
        relu: bool,
        sum_channels: bool,
        directions: tuple[Features, ...],
    ) -> list[Maps]:
        if self._reference is None:
            first = inputs[0] if isinstance(inputs, tuple) else inputs
            check_sample_count(len(first) if isinstance(first, Tensor) and first.dim() else 0)
        if self.contrast and not sum_channels:
            raise ValueError(
                "attr_dim_summation=False needs contrast=False: the channels of two models do not correspond."
            )
        student, base = self._samples(inputs, target, additional_forward_args, layer_input)
        if self.objective is relevance and any(_all_equal(s.labels) for s in (student, base)):
            warnings.warn(
                "All targets are of one class, so the relevance objective has nothing to follow and its "
                "maps are zero. Explain samples of several classes together, pass a reference with several "
                "classes, or use objective='uniqueness'.",
                stacklevel=5,
            )
        evidence: list[list[Tensor]] = []
        if self.class_evidence:  # first, as the objective's gradient releases the graph
            evidence = [self._evidence(samples, target) for samples in (student, base)]
        signed: dict[str, list[Tensor]] = {}
        for direction in get_args(Features) if self.contrast else directions:
            explained, other = (student, base) if direction == "distilled" else (base, student)
            signed[direction] = self._signed_maps(explained, other, sum_channels)
        if self.contrast:
            signed = cam.contrast_maps(*(signed[direction] for direction in get_args(Features)))
        if self.class_evidence:
            beyond = cam.contrast_maps(*evidence)
            for direction, maps in signed.items():
                signed[direction] = [
                    add_evidence(*both) for both in zip(maps, beyond[direction], strict=True)
                ]
        results: list[Maps] = []
        for direction in directions:
            maps = [value.relu() for value in signed[direction]] if relu else signed[direction]
            results.append(maps if isinstance(self.layer, (list, tuple)) else maps[0])
        return results

    def _signed_maps(self, explained: ModelSamples, other: ModelSamples, sum_channels: bool) -> list[Tensor]:
        """One direction's maps of every layer."""
        with torch.autocast(explained.layers[0].activations.device.type, enabled=False):
            gradients = [
                cam.distances_gradient(
                    self.objective,
                    mine.distances,
                    theirs.distances.like(mine.distances.to),
                    None if explained.labels is None else explained.labels.like(mine.distances.to),
                )
                for mine, theirs in zip(explained.layers, other.layers, strict=True)
            ]
            if explained.traced is None or self._feature_layers is None:
                at_layers = [
                    (self._weights(mine, gradient), mine.activations, mine.reference_mean)
                    for mine, gradient in zip(explained.layers, gradients, strict=True)
                ]
            else:
                at_layers = explained.traced.weights(explained.layers, gradients, self.combine == "channel")
            return [
                cam.attribution_map(
                    weights, self._centered(activations, mean), relu=False, sum_channels=sum_channels
                )
                for weights, activations, mean in at_layers
            ]

    def _evidence(self, samples: ModelSamples, target: Any) -> list[Tensor]:
        """What a model uses for the class, at every layer."""
        assert samples.traced is not None
        with torch.autocast(samples.layers[0].activations.device.type, enabled=False):
            return [
                class_evidence(weights, self._centered(activations, mean))
                for weights, activations, mean in samples.traced.class_weights(
                    target, self.combine == "channel"
                )
            ]

    def _centered(self, activations: Tensor, mean: Tensor | None) -> Tensor:
        """Activations minus the reference's channel mean, or their own, if that is asked for."""
        if not self.center:
            return activations
        mean = cam.channel_mean([activations]) if mean is None else mean
        return activations - mean.reshape(1, -1, *[1] * (activations.dim() - 2))

    def _weights(self, explained: LayerSamples, gradient: Tensor) -> Tensor:
        """The objective's gradient at the layer whose distances it is taken of, in closed form."""
        activations, features, others, distances, _ = explained
        if self.combine == "channel":
            positions = cam.positions_of(activations)
            return cam.channel_weights(gradient, distances.to, features, others, positions)
        return cam.activation_gradient(gradient, distances.to, features, others, activations)


def _label_use(objective: Objective) -> LabelUse:
    if objective in IGNORE_LABELS:
        return "ignored"
    # An objective of the user's gets labels where there are any.
    return "needed" if objective is relevance else "if known"


def _feature_layers(forward_func: Any, base_model: Any) -> dict[str, list[nn.Module]]:
    """The constructor's feature layers for :meth:`UniCAM.recommended`, if they are known of both models."""
    models = (forward_func, base_model)
    ours, theirs = (deep_layers(model) if isinstance(model, nn.Module) else [] for model in models)
    if not ours or len(ours) != len(theirs):
        return {}
    return {"feature_layer": ours, "base_feature_layer": theirs}


def _all_equal(labels: Distances | None) -> bool:
    return labels is not None and not any(d.any() for d in labels if d is not None)


def _one_of(word: Any, words: tuple[str, ...], option: str) -> None:
    if word not in words:
        raise ValueError(f"{option} must be one of {words}, got {word!r}.")
