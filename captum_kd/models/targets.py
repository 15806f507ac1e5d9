"""The classes that samples are explained for: what a caller passes as ``target``, as class indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor

Target = int | Sequence[int] | Tensor | None
"""What a caller may pass as ``target``.

None: the model's own prediction. An int, or an integer tensor of one element: that class for all samples. A
sequence of ints, or an integer tensor of shape ``(n,)``: a class for each sample.
"""


def class_indices(target: Target, output: object, count: int, role: str = "model") -> Tensor:
    """Return one class index per sample.

    Args:
        target: See :data:`Target`.
        output: The model's output, from which predictions are taken, and the number of classes where it is
            ``(n, num_classes)``.
        count: The number of samples ``n``.
        role: What error messages call the model.

    Returns:
        Integer tensor of shape ``(n,)``.

    Raises:
        ValueError: The target is missing and the output is not ``(n, num_classes)``; or the target has the
            wrong length, or is out of range.
        TypeError: The target does not hold integers.

    Example:
        >>> import torch
        >>> class_indices(None, torch.tensor([[0.1, 0.9], [0.8, 0.2]]), count=2)
        tensor([1, 0])
        >>> class_indices(1, None, count=3)
        tensor([1, 1, 1])
    """
    scores = output if has_class_scores(output) else None
    if target is None:
        if scores is None or len(scores) != count:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"target is needed: without it the {role}'s prediction is taken, which needs an output of "
                f"shape ({count}, num_classes), but the {role} returned {shape}."
            )
        predicted: Tensor = scores.argmax(dim=1)
        return predicted
    try:
        indices = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"target must be an int, a list of ints or an integer tensor: {error}") from error
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"target must hold integer class indices, got {indices.dtype}.")
    if indices.numel() == 1:
        indices = indices.reshape(1).expand(count)
    if tuple(indices.shape) != (count,):
        raise ValueError(
            f"target must be one class index per sample: {count} samples, but target has shape "
            f"{tuple(indices.shape)}."
        )
    classes = None if scores is None else scores.shape[1]
    if int(indices.min()) < 0 or (classes is not None and int(indices.max()) >= classes):
        limit = "0 or more" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(
            f"target must be {limit}, got values from {int(indices.min())} to {int(indices.max())}."
        )
    return indices


def has_class_scores(output: object) -> TypeGuard[Tensor]:
    """Return whether a model's output is a tensor of shape ``(n, num_classes)``."""
    return isinstance(output, Tensor) and output.dim() == 2
