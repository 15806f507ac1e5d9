"""The features of named layers in a forward pass of training, for losses on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

from captum_kd.models.hooks import hooked, uncompiled
from captum_kd.models.layers import find_layer, unwrap

BATCH_NORMS = (_BatchNorm, FrozenBatchNorm2d)
"""The modules that normalise each channel by batch statistics, then scale and shift it."""

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
)
"""The activation functions whose input ``before_relu`` returns."""

_SIDE_BRANCHES = ("downsample", "shortcut")


def run_with_features(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, before_relu: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """Run one forward pass and return the output and the features of layers, for a loss on both.

    The model runs in its current mode. Gradients flow from the features into the model, except under
    ``torch.no_grad()``, which a teacher should run in. The features are copies, which later in-place
    operations do not change. A compiled model runs uncompiled, because its graph skips hooks.

    Args:
        model: The model; layers are looked up inside DistributedDataParallel and compiled models.
        images: The model's input, ``(n, channels, height, width)``.
        layers: Dotted names as in ``model.named_modules()``, for instance ``["layer3", "layer4"]``. If a
            layer runs several times, its last run counts.
        before_relu: Return the features before the activation function that ends a layer: the input of the
            module of ``captum_kd.distill.features.ACTIVATIONS`` whose output is the layer's output. For a
            layer that does not end with one, return its output.

    Returns:
        The model's output, and one tensor per layer in the order of ``layers``.

    Raises:
        ValueError: A layer is not in the model (the message lists near matches) or does not run; the layer
            ends with a ReLU that is not a module, with ``before_relu``; or the model is a DataParallel over
            several devices.
        TypeError: The output of a layer or of the model is not one tensor.

    Example:
        >>> import torch
        >>> from captum_kd.models.small import small_resnet
        >>> student = small_resnet(width=4)
        >>> logits, features = run_with_features(
        ...     student, torch.rand(2, 3, 56, 56), ["layer3", "layer4"], before_relu=True
        ... )
        >>> [tuple(f.shape) for f in features], bool(features[0].min() < 0)
        ([(2, 16, 7, 7), (2, 32, 4, 4)], True)
    """
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(
            "The features of a DataParallel model over several devices cannot be collected with gradients. "
            "Use DistributedDataParallel, or one device."
        )
    found = [_LayerFeatures(name, before_relu) for name in layers]
    with ExitStack() as stack:
        for features in found:
            stack.enter_context(features.hooked(find_layer(model, features.name)))
        stack.enter_context(uncompiled(model))
        output = model(images)
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{type(unwrap(model)).__name__} gives {type(output).__name__}, but one tensor of logits is "
            "needed. For torchvision's GoogLeNet and Inception build the model with aux_logits=False."
        )
    return output, [features.result() for features in found]


def last_batch_norm(model: nn.Module, layer: str) -> nn.Module:
    """Return the BatchNorm whose weight and bias describe the features of a layer before its ReLU.

    It is the last BatchNorm of the layer's main branch in the order of definition; those inside a child
    named ``downsample`` or ``shortcut`` are skipped. In a residual block it describes the branch before
    the sum, as in Heo et al. (ICCV 2019). In a pre-activation network the BatchNorm before the ReLU is the
    first one of the next block: give that module itself as the layer.

    Args:
        model: The teacher.
        layer: A dotted name, for instance ``"layer4"``, or ``"features.41"`` for a BatchNorm itself.

    Returns:
        A BatchNorm, for :func:`~captum_kd.distill.relu_margins`.

    Raises:
        ValueError: There is no such layer, or it has no BatchNorm in its main branch.

    Example:
        >>> from captum_kd.models.small import small_resnet
        >>> model = small_resnet(width=4)
        >>> last_batch_norm(model, "layer2") is model.layer2[-1].bn2
        True
    """
    found = [
        module
        for name, module in find_layer(model, layer).named_modules()
        if isinstance(module, BATCH_NORMS) and not set(name.split(".")) & set(_SIDE_BRANCHES)
    ]
    if not found:
        raise ValueError(
            f"Layer {layer!r} of {type(unwrap(model)).__name__} holds no BatchNorm in its main branch, so "
            "its margins are unknown. Choose a layer that ends with BatchNorm (and ReLU), or the BatchNorm "
            "itself; a network without BatchNorm cannot be the teacher of overhaul distillation."
        )
    return found[-1]


class _LayerFeatures:
    """The features of one layer, which hooks keep from its last run."""

    def __init__(self, name: str, before_relu: bool) -> None:
        self.name = name
        self.before_relu = before_relu
        self.features: object = None
        self.called = False
        self.found = False
        self.before: Tensor | None = None
        self.after: Tensor | None = None

    @contextmanager
    def hooked(self, layer: nn.Module) -> Iterator[None]:
        modules = layer.modules() if self.before_relu else ()
        activations = [module for module in modules if isinstance(module, ACTIVATIONS)]
        with (
            hooked(activations, self._before_activation, attribute_to_layer_input=True),
            hooked(activations, self._after_activation),
            # After those above, because hooks run in order and the layer may be an activation itself.
            hooked([layer], self._after_layer),
        ):
            yield

    def result(self) -> Tensor:
        if not self.called:
            raise ValueError(
                f"Layer {self.name!r} was not called in the forward pass. Choose one that the model runs."
            )
        if not isinstance(self.features, Tensor):
            raise TypeError(
                f"Layer {self.name!r} gives {type(self.features).__name__}, but one tensor is needed. "
                "Choose a layer inside it, or the one after it."
            )
        if self.before_relu and not self.found and _looks_rectified(self.features):
            raise ValueError(
                f"Layer {self.name!r} gives rectified features, but its last operation is no activation "
                "module, so what came before the ReLU is unknown. Choose a layer that ends with an nn.ReLU "
                "or right before one."
            )
        return self.features

    def _before_activation(self, _: int, arguments: tuple[Tensor, ...]) -> None:
        # A copy, because ReLU(inplace=True) overwrites its input.
        self.before = arguments[0].clone()

    def _after_activation(self, _: int, output: Tensor) -> None:
        self.after = output

    def _after_layer(self, _: int, output: Any) -> None:
        self.called = True
        self.found = self.after is not None and self.after is output
        if self.found:
            self.features = self.before
        else:
            # A copy, because whatever follows the layer may work in place.
            self.features = output.clone() if isinstance(output, Tensor) else output


def _looks_rectified(features: Tensor) -> bool:
    # A minimum of exactly 0 points to a ReLU: sums and products hardly ever have it.
    smallest, largest = features.detach().aminmax()
    return bool((smallest == 0) & (largest > 0))
