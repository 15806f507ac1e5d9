"""UniCAM: class activation maps of what only one of two models has learnt, as in the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from captum_kd._warn import warn
from captum_kd.attr.deep_unicam import DeepUniCAM
from captum_kd.attr.pair_attribution import Call, LabelUse, PairAttribution, one_of
from captum_kd.attr.reference import ModelReference, Reference
from captum_kd.attr.samples import LayerSamples, ModelSamples, model_samples, objective_gradients
from captum_kd.functional import cam
from captum_kd.functional.cam import Direction
from captum_kd.functional.objectives import IGNORE_LABELS, OBJECTIVES, Distances, Objective, relevance
from captum_kd.functional.pooling import positions_of
from captum_kd.labels import LabelEmbeddings
from captum_kd.models.activations import ReshapeTransform
from captum_kd.models.layers import Layers
from captum_kd.models.targets import check_same_classes

Combine: TypeAlias = Literal["channel", "elementwise"]


class UniCAM(PairAttribution):
    r"""Unique class activation mapping of a student given a base model, and the reverse.

    Grad-CAM asks which positions of a layer raise a class score. UniCAM asks which positions make the
    student's geometry of samples differ from the base model's. With :math:`P^{(s)}, P^{(b)}` the U-centred
    distance matrices of both models' features, the student's unique component is

    .. math:: U = P^{(s)} - \frac{\langle P^{(s)}, P^{(b)}\rangle}{\langle P^{(b)}, P^{(b)}\rangle} P^{(b)},

    an objective turns :math:`U` into a scalar :math:`S`, and the map is
    :math:`\mathrm{ReLU}(\sum_k \beta_k A_k)` with :math:`\beta_k` the spatial mean of
    :math:`\partial S / \partial A_k` (Eq. 3, 5 and 6 of Adhane et al., "On Explaining Knowledge
    Distillation"). The gradient has a closed form, so all layers and both directions cost one forward pass
    of each model and no backward pass.

    A map is relative to the samples that distances are taken between. By default these are the samples of the
    batch, as in the paper. Pass ``reference`` to fix them; a sample's map then does not depend on its batch.

    The defaults are those of the published code. :class:`DeepUniCAM` (or :meth:`recommended`) is the method
    with the best evidence of pointing where the two models differ.

    Args:
        forward_func: The student: a module, or a function that runs it. Pass the module where you can; only
            then can its training flags be switched to evaluation and back.
        layer: The layer to explain, as a module or by its name, or a list of layers; a list gives a list of
            maps.
        base_model: The model that the student is compared with. It runs on the same inputs.
        base_layer: The base model's layer or layers, in the order of ``layer``. None: those of the same
            names. Architecture, channels and map size may differ.
        label_embeddings: :class:`~captum_kd.LabelEmbeddings` or a tensor ``(num_classes, d)`` whose rows
            represent the classes in objectives that use labels. None: one-hot.
        objective: "relevance" (how far the unique component follows the labels), "uniqueness" (how large the
            unique component is; needs no labels), or a callable ``(explained, other, labels) -> scalar`` of
            the ``(n, n)`` distance matrices, such as :func:`captum_kd.functional.row_max`; ``labels`` is None
            if there are no targets.
        combine: "channel" (Eq. 5: one weight per channel) or "elementwise" (gradient times activation at each
            position).
        pool: None takes distances between flattened activations; a number g between activations that were
            average-pooled to g x g (1 is global pooling).
        reference: Samples that distances are taken to: a tensor, a pair ``(inputs, target)``, or a
            DataLoader of either; at least 3 samples. It is read and copied once. Its features are kept as
            long as a digest of both models, their weights and attributes, stays the same
            (``captum_kd.models.fingerprint``, which takes about as long as the forward pass
            of one image); they are computed in every call where a model is a function or holds what a digest
            cannot read, and with ``additional_forward_args``.
        reshape_transform: Turns a layer's output into ``(n, c, *spatial)``, for token models and for layers
            with several outputs.
        device_ids: Device order under DataParallel, as in Captum.

    Raises:
        ValueError: An unknown word for an option, a layer that is not in its model, lists of different
            lengths, or a bad ``reference``.
        TypeError: A model is not callable, or a layer is neither a module nor a name.

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
        reference: Reference | None = None,
        reshape_transform: ReshapeTransform | None = None,
        device_ids: list[int] | None = None,
    ) -> None:
        if isinstance(objective, str):
            one_of(objective, tuple(OBJECTIVES), "objective (if not a callable)")
            objective = OBJECTIVES[objective]
        elif not callable(objective):
            raise TypeError(f"objective must be a name or a callable, got {type(objective).__name__}.")
        one_of(combine, get_args(Combine), "combine")
        super().__init__(
            forward_func,
            layer,
            base_model,
            base_layer,
            feature_layers=None,
            label_embeddings=label_embeddings,
            pool=pool,
            reference=reference,
            reshape_transform=reshape_transform,
            device_ids=device_ids,
            label_use=_label_use(objective),
            relu=True,
        )
        self.objective: Objective = objective
        self.combine = combine

    @staticmethod
    def recommended(
        forward_func: Callable[..., Any],
        layer: Layers,
        base_model: Callable[..., Any],
        base_layer: Layers | None = None,
        **options: Any,
    ) -> DeepUniCAM:
        """The method that the evidence favours: a :class:`DeepUniCAM` with these arguments.

        Example:
            >>> import torchvision
            >>> student, base = torchvision.models.resnet18(), torchvision.models.resnet18()
            >>> type(UniCAM.recommended(student, student.layer2, base)).__name__
            'DeepUniCAM'
        """
        return DeepUniCAM(forward_func, layer, base_model, base_layer, **options)

    def _signed_maps(
        self,
        call: Call,
        references: Sequence[ModelReference | None],
        sum_channels: bool,
        directions: tuple[Direction, ...],
    ) -> dict[Direction, list[Tensor]]:
        models, outputs = [], {}
        for side, reference in zip(self.sides, references, strict=True):
            activations, classes, output = self._run_with_output(side, call)
            if call.target is None and classes is not None:
                outputs[side.role] = output
            with torch.autocast(activations[0].device.type, enabled=False):
                models.append(
                    model_samples(
                        activations,
                        classes,
                        self.label_embeddings,
                        self.pool,
                        reference,
                        call.same,
                        side.feature_names(),
                    )
                )
        check_same_classes(outputs)
        student, base = models
        if self.objective is relevance and any(_all_equal(model.labels) for model in models):
            warn(
                "All targets are of one class, so the relevance objective has nothing to follow and its "
                "maps are zero. Explain samples of several classes together, pass a reference with several "
                "classes, or use objective='uniqueness'."
            )
        maps: dict[Direction, list[Tensor]] = {}
        for direction in directions:
            explained, other = (student, base) if direction == "distilled" else (base, student)
            maps[direction] = self._one_direction(explained, other, sum_channels)
        return maps

    def _one_direction(
        self, explained: ModelSamples, other: ModelSamples, sum_channels: bool
    ) -> list[Tensor]:
        """The signed maps of one model at every layer."""
        with torch.autocast(explained.layers[0].activations.device.type, enabled=False):
            gradients = objective_gradients(self.objective, explained, other)
            return [
                cam.attribution_map(
                    self._weights(samples, gradient),
                    self._activations(samples),
                    relu=False,
                    sum_channels=sum_channels,
                )
                for samples, gradient in zip(explained.layers, gradients, strict=True)
            ]

    def _weights(self, samples: LayerSamples, gradient: Tensor) -> Tensor:
        """The objective's gradient at the layer whose distances it is taken of, in closed form."""
        activations, features, others, distances, _ = samples
        if self.combine == "channel":
            positions = positions_of(activations)
            return cam.channel_weights(gradient, distances.to, features, others, positions)
        return cam.activation_gradient(gradient, distances.to, features, others, activations)

    def _activations(self, samples: LayerSamples) -> Tensor:
        """What the weights are multiplied with (Eq. 6)."""
        return samples.activations


def _label_use(objective: Objective) -> LabelUse:
    if objective in IGNORE_LABELS:
        return "ignored"
    # An objective of the user's gets labels where there are any.
    return "needed" if objective is relevance else "if known"


def _all_equal(labels: Distances | None) -> bool:
    return labels is not None and not any(d.any() for d in labels if d is not None)
