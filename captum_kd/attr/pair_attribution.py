"""A Captum layer attribution of two models: it runs both on samples, and keeps what a reference gave."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_kd.attr.reference import (
    Inputs,
    ModelReference,
    Reference,
    ReferenceBatch,
    model_reference,
    read_reference,
    same_samples,
)
from captum_kd.functional.cam import DIRECTIONS, Direction
from captum_kd.functional.centering import check_sample_count
from captum_kd.labels import LabelEmbeddings
from captum_kd.models.activations import ReshapeTransform, layer_activations
from captum_kd.models.fingerprint import UnknownStateError, fingerprint
from captum_kd.models.hooks import as_tuple
from captum_kd.models.layers import Layers, describe_layer, pair_layers
from captum_kd.models.side import Side
from captum_kd.models.targets import Target, class_indices, has_class_scores, warn_of_embeddings

Maps: TypeAlias = Tensor | list[Tensor]
# Whether class labels are needed, used where a model's output or the caller gives them, or ignored.
LabelUse: TypeAlias = Literal["needed", "if known", "ignored"]


class UniqueAttributions(NamedTuple):
    """Maps of both directions: what the student has beyond the base model, and the reverse."""

    distilled: Maps
    residual: Maps


class Call(NamedTuple):
    """What one call of ``attribute`` was given for the models to run on."""

    inputs: Inputs
    target: Target
    additional_forward_args: Any
    attribute_to_layer_input: bool
    same: Tensor | None = None  # which inputs are the very samples that distances are taken to


class PairAttribution(LayerAttribution):
    """Layers of two models, and the samples that distances between their features are taken to.

    :class:`~captum_kd.UniCAM` and :class:`~captum_kd.DeepUniCAM` document the arguments; they say what a map
    is in :meth:`_signed_maps`.

    Args:
        forward_func: The student.
        layer: Its layer or layers.
        base_model: The model that it is compared with.
        base_layer: The base model's layers in the same order; None: those of the same names.
        feature_layers: Layers of both models that distances are taken between; None: the explained ones.
        label_embeddings: What represents the classes.
        pool: Grid of average pooling, or None.
        reference: The samples that distances are taken to; None: those of the batch.
        reshape_transform: Turns what a layer gives into activations.
        device_ids: Device order under DataParallel.
        label_use: Whether labels are needed.
        relu: Whether maps keep only positive values unless a call says otherwise.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: Layers,
        base_model: Callable[..., Any],
        base_layer: Layers | None,
        *,
        feature_layers: tuple[list[nn.Module], list[nn.Module]] | None,
        label_embeddings: LabelEmbeddings | Tensor | None,
        pool: int | None,
        reference: Reference | None,
        reshape_transform: ReshapeTransform | None,
        device_ids: list[int] | None,
        label_use: LabelUse,
        relu: bool,
    ) -> None:
        for option, model in (("forward_func", forward_func), ("base_model", base_model)):
            if not callable(model):
                raise TypeError(f"{option} must be callable, got {type(model).__name__}.")
        layers, base_layers = pair_layers(forward_func, layer, base_model, base_layer)
        super().__init__(forward_func, layers if isinstance(layer, (list, tuple)) else layers[0], device_ids)
        if pool is not None and (not isinstance(pool, int) or pool < 1):
            raise ValueError(f"pool must be None or a grid size of at least 1, got {pool!r}.")
        ours, theirs = feature_layers or (None, None)
        self.base_model = base_model
        self.sides = (
            Side(forward_func, layers, "student", reshape_transform, ours),
            Side(base_model, base_layers, "base model", reshape_transform, theirs),
        )
        self.label_embeddings = label_embeddings
        self.pool = pool
        self.reshape_transform = reshape_transform
        self._label_use = label_use
        self._relu = relu
        self._reference = None if reference is None else read_reference(reference)
        self._reference_cache: tuple[Any, list[ModelReference]] | None = None

    @log_usage()
    def attribute(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool | None = None,
        attr_dim_summation: bool = True,
        *,
        features: Direction = "distilled",
    ) -> Maps:
        """Map what only one of the two models has learnt.

        Args:
            inputs: A tensor or a tuple of tensors with the samples in dimension 0, as in Captum. Without
                ``reference`` at least 4 samples are needed, and each map depends on all of them.
            target: Class index of each sample: an int for all, a list, or a tensor ``(n,)``. None: each
                model's own prediction. UniCAM takes it as the objective's labels, DeepUniCAM as
                the class that evidence is asked for.
            additional_forward_args: Passed to both models after the inputs.
            attribute_to_layer_input: Explain the layer's input instead of its output.
            relu_attributions: Keep only positive values (True), or give the signed map (False). None: True
                for :class:`UniCAM` (Eq. 6), False for :class:`DeepUniCAM`.
            attr_dim_summation: Sum over channels. False gives a map per channel (UniCAM only).
            features: "distilled" (the student given the base model) or "residual" (the base model given the
                student; these maps have the size of the base model's layer).

        Returns:
            Maps of shape ``(n, 1, *spatial)``, or ``(n, c, *spatial)`` without summation, at the layer's
            resolution, float32 (float64 for a float64 model); a list of them if ``layer`` is a list.
            Maps are zero where the two models share everything. Where the models differ by rounding alone
            (the same weights, one of them compiled), maps are rounding noise: look at their size before
            their shape.

        Raises:
            ValueError: Fewer than 4 samples without a reference; a target that is missing, out of range or
                of the wrong length; too few label embeddings; an unknown word for ``features``;
                activations that are not finite or not ``(n, c, ...)``; feature layers that do not depend on
                an explained layer; ``attr_dim_summation=False`` for :class:`DeepUniCAM`.
        """
        one_of(features, DIRECTIONS, "features")
        call = Call(inputs, target, additional_forward_args, attribute_to_layer_input)
        return self._explain(call, relu_attributions, attr_dim_summation, (features,))[0]

    @log_usage()
    def attribute_all(
        self,
        inputs: Inputs,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool | None = None,
        attr_dim_summation: bool = True,
    ) -> UniqueAttributions:
        """Map both directions at every layer from the same passes of each model.

        It takes the arguments of :meth:`attribute` except ``features``.

        Returns:
            ``UniqueAttributions(distilled, residual)``, each as :meth:`attribute` returns it.
        """
        call = Call(inputs, target, additional_forward_args, attribute_to_layer_input)
        return UniqueAttributions(*self._explain(call, relu_attributions, attr_dim_summation, DIRECTIONS))

    @abstractmethod
    def _signed_maps(
        self,
        call: Call,
        references: Sequence[ModelReference | None],
        sum_channels: bool,
        directions: tuple[Direction, ...],
    ) -> Mapping[Direction, list[Tensor]]:
        """The signed maps of every layer, by direction."""

    @torch.no_grad()
    def _explain(
        self, call: Call, relu: bool | None, sum_channels: bool, directions: tuple[Direction, ...]
    ) -> list[Maps]:
        if self._reference is None:
            first = call.inputs[0] if isinstance(call.inputs, tuple) else call.inputs
            check_sample_count(len(first) if isinstance(first, Tensor) and first.dim() else 0)
        references = self._references(call)
        call = call._replace(same=self._same_samples(call, self._reference))
        signed = self._signed_maps(call, references, sum_channels, directions)
        self._keep_reference(call)
        relu = self._relu if relu is None else relu
        results: list[Maps] = []
        for direction in directions:
            _check_finite(signed[direction], self.sides[DIRECTIONS.index(direction)])
            maps = [value.relu() for value in signed[direction]] if relu else signed[direction]
            results.append(maps if isinstance(self.layer, list) else maps[0])
        return results

    def _references(self, call: Call) -> Sequence[ModelReference | None]:
        """The reference in both models; not computed again where nothing that it depends on has changed."""
        if self._reference is None:
            return [None, None]
        self._check_arguments(call)
        key = self._reference_key(call)
        kept = self._reference_cache
        if key is not None and kept is not None and kept[0] == key:
            return kept[1]
        result = []
        same = self._same_samples(call, self._reference, self._reference)
        for side in self.sides:
            calls = [call._replace(inputs=batch.inputs, target=batch.target) for batch in self._reference]
            runs = [self._run(side, batch) for batch in calls]
            activations, targets = zip(*runs, strict=True)
            count = len(side.feature_layers or ())
            with torch.autocast(activations[0][0].device.type, enabled=False):
                features = [batch[-count:] if count else batch for batch in activations]
                explained = [batch[:-count] for batch in activations] if count else []
                result.append(model_reference(features, targets, self.pool, explained, same))
        self._reference_cache = None if key is None else (key, result)
        return result

    def _keep_reference(self, call: Call) -> None:
        """Do not count what the models' own passes have changed, such as the list of a hook that records."""
        kept = self._reference_cache
        if kept is None:
            return
        (_, *weights_and_options), result = kept
        state = self._reference_key(call, weights=False)
        if self._reference_cache is kept:  # another thread may have kept a newer one
            self._reference_cache = None if state is None else ((state[0], *weights_and_options), result)

    def _reference_key(self, call: Call, weights: bool = True) -> tuple[object, ...] | None:
        """What the reference's features depend on; None where that cannot be told, so they are not kept.

        What a function does depends on more than can be looked at, and so may further arguments.
        """
        models = [side.model for side in self.sides]
        if call.additional_forward_args is not None or not all(isinstance(m, nn.Module) for m in models):
            return None
        try:
            found = fingerprint(*models, [side.reshape_transform for side in self.sides], weights=weights)
        except UnknownStateError:
            return None
        inputs = [value for batch in self._reference or () for value in batch.inputs]
        autocast = [
            (name, torch.is_autocast_enabled(name), torch.get_autocast_dtype(name))
            for name in sorted({value.device.type for value in inputs})
            if torch.amp.is_autocast_available(name)
        ]
        precision = (torch.get_default_dtype(), torch.get_float32_matmul_precision())
        return (*found, call.attribute_to_layer_input, self.pool, self._label_use, *autocast, *precision)

    @staticmethod
    def _same_samples(
        call: Call, others: list[ReferenceBatch] | None, ours: list[ReferenceBatch] | None = None
    ) -> Tensor | None:
        """Which samples are given twice; None where an argument of its own may set one apart."""
        inputs = call.inputs if isinstance(call.inputs, tuple) else (call.inputs,)
        given = [batch.inputs for batch in ours] if ours else [inputs]
        arguments = as_tuple(call.additional_forward_args)
        if any(not isinstance(v, Tensor) or not v.dim() for v in inputs) or any(
            isinstance(v, Tensor) and v.dim() for v in arguments
        ):
            return None
        return same_samples(given, given if others is None else [batch.inputs for batch in others])

    def _check_arguments(self, call: Call) -> None:
        """Further arguments of the models go with the inputs and with the reference, so they fit both."""
        first = call.inputs[0] if isinstance(call.inputs, tuple) else call.inputs
        if not isinstance(first, Tensor) or not first.dim():
            return  # the model's own pass says what is wrong
        count = len(first)
        for batch in self._reference or ():
            size = len(batch.inputs[0])
            for i, value in enumerate(as_tuple(call.additional_forward_args)):
                of_samples = isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
                if of_samples and size != count:
                    raise ValueError(
                        f"additional_forward_args: argument {i} has {len(value)} rows, one for each of the "
                        f"{count} inputs, but a batch of the reference has {size} samples. The models run "
                        "on both with the same arguments. Leave out the reference, give one in batches of "
                        f"{count}, or put the argument into the inputs: inputs=(inputs, argument), and the "
                        "same in the reference."
                    )

    def _run(self, side: Side[Callable[..., Any]], call: Call) -> tuple[list[Tensor], Tensor | None]:
        """One forward pass: activations of each layer, and class indices where labels are used.

        Feature layers, if there are any, come after the explained ones.
        """
        activations, classes, _ = self._run_with_output(side, call)
        return activations, classes

    def _run_with_output(
        self, side: Side[Callable[..., Any]], call: Call
    ) -> tuple[list[Tensor], Tensor | None, Any]:
        """What :meth:`_run` gives, and what the model returned."""
        activations, output = layer_activations(
            side.model,
            [*side.layers, *(side.feature_layers or ())],
            call.inputs,
            call.additional_forward_args,
            attribute_to_layer_input=call.attribute_to_layer_input,
            reshape_transform=side.reshape_transform,
            device_ids=self.device_ids,
            role=side.role,
        )
        classes = self._classes(call.target, output, len(activations[0]), side.role)
        if call.target is None and classes is not None:
            warn_of_embeddings(side.model, side.role)
        return activations, classes, output

    def _classes(self, target: Target, output: Any, count: int, role: str) -> Tensor | None:
        """Class indices where labels are needed or known."""
        known = target is not None or (self._label_use == "if known" and has_class_scores(output))
        if not known and self._label_use != "needed":
            return None
        indices = class_indices(target, output, count, role)  # a bad target is an error in any case
        return None if self._label_use == "ignored" else indices


def _check_finite(maps: Sequence[Tensor], side: Side[Callable[..., Any]]) -> None:
    for value, layer in zip(maps, side.layers, strict=True):
        if not torch.isfinite(value).all():
            raise ValueError(
                f"The maps of {describe_layer(side.model, layer, side.role)} hold NaN or infinite values: "
                "products of its activations and gradients are too large for their precision. Scale the "
                "inputs as the model was trained, or run it in float64 (model.double())."
            )


def one_of(word: Any, words: Sequence[str], option: str) -> None:
    """Check a word that an option was given.

    Raises:
        ValueError: It is not one of ``words``.
    """
    if word not in words:
        raise ValueError(f"{option} must be one of {tuple(words)}, got {word!r}.")
