"""The classes that samples are explained for, and the class scores of models.

A model with one output is a binary classifier: its output ``z`` stands for the class scores ``[-z/2, z/2]``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kd._warn import warn
from captum_kd.models.layers import unwrap

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
        ValueError: The target is missing and the output is not ``(n, num_classes)`` or not finite; or the
            target has the wrong length, or is out of range.
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
            raise ValueError(
                f"target is needed: without it the {role}'s prediction is taken, which needs an output of "
                f"shape ({count}, num_classes), but the {role} returned {described_output(output)}."
            )
        return predicted_classes(scores, role)
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
    classes = None if scores is None else class_count(scores)
    if int(indices.min()) < 0 or (classes is not None and int(indices.max()) >= classes):
        limit = "0 or more" if classes is None else f"from 0 to {classes - 1}"
        raise ValueError(
            f"target must be {limit}, got values from {int(indices.min())} to {int(indices.max())}."
        )
    return indices


def has_class_scores(output: object) -> TypeGuard[Tensor]:
    """Return whether a model's output is a tensor of shape ``(n, num_classes)``."""
    return isinstance(output, Tensor) and output.dim() == 2


def class_count(scores: Tensor) -> int:
    """Return the number of classes of class scores: 2 if there is one output, the logit of class 1."""
    return max(scores.shape[1], 2) if scores.shape[1] else 0


def predicted_classes(scores: Tensor, role: str = "model") -> Tensor:
    """Return the class that a model predicts for each sample.

    Args:
        scores: The model's output, ``(n, num_classes)``; of one output, class 1 is predicted where it is
            positive.
        role: What messages call the model.

    Raises:
        ValueError: A score is NaN or infinite.

    Warns:
        UserWarning: The only output lies between 0 and 1, so it seems to be a probability.

    Example:
        >>> predicted_classes(torch.tensor([[0.1, 0.9], [0.8, 0.2]])).tolist()
        [1, 0]
        >>> predicted_classes(torch.tensor([[-2.0], [3.0]])).tolist()
        [0, 1]
    """
    check_finite_scores(scores, role)
    predicted: Tensor = scores.argmax(dim=1)
    if scores.shape[1] != 1:
        return predicted
    logit = scores[:, 0]
    if len(logit) and bool(((logit >= 0) & (logit <= 1)).all()):
        warn(
            f"The only output of the {role} lies between 0 and 1 for all samples, so class 1 is predicted "
            "for each that is not 0. If it is a probability, wrap the model so that it returns the logit, "
            "torch.logit(output)."
        )
    return (logit > 0).long()


def check_finite_scores(scores: Tensor, role: str) -> None:
    """Check class scores.

    Raises:
        ValueError: A score is NaN or infinite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError(
            f"The class scores of the {role} hold NaN or infinite values. Check the weights of its "
            "classifier and the input scaling; under float16, run the model in float32 or bfloat16."
        )


def class_score_gradient(classes: Tensor, scores: Tensor) -> Tensor:
    """Return the gradient of each sample's class score with respect to the model's output.

    Args:
        classes: Class index of each sample, ``(n,)``.
        scores: The output, ``(n, num_classes)`` or ``(n, 1)``.

    Returns:
        Of the shape of ``scores``: one-hot rows; of one logit, 1/2 for class 1 and -1/2 for class 0.

    Example:
        >>> class_score_gradient(torch.tensor([1, 0]), torch.zeros(2, 1)).tolist()
        [[0.5], [-0.5]]
    """
    classes = classes.to(scores.device)
    if scores.shape[1] == 1:
        return (classes.to(scores) - 0.5)[:, None]
    return F.one_hot(classes, scores.shape[1]).to(scores)


class TwoLogits(nn.Module):
    """A model with one output as the classifier of two classes that it is.

    Args:
        model: A model whose output ``z`` is ``(n, 1)``.

    Example:
        >>> TwoLogits(nn.Identity())(torch.tensor([[3.0]])).tolist()
        [[-1.5, 1.5]]
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the class scores ``[-z/2, z/2]``."""
        half = self.model(*args, **kwargs) / 2
        return torch.cat([-half, half], dim=1)


def check_same_classes(outputs: Mapping[str, object]) -> None:
    """Check that models whose class scores are compared have as many classes.

    Args:
        outputs: The output of each model, by what messages call it; others than class scores are skipped.

    Raises:
        ValueError: The numbers differ.

    Example:
        >>> check_same_classes({"student": torch.zeros(4, 10), "base model": torch.zeros(4, 1000)})
        Traceback (most recent call last):
        ValueError: The student has 10 outputs and the base model 1000, so their classes are not the same. ...
    """
    message = different_classes(outputs)
    if message is not None:
        raise ValueError(
            f"{message} Pass target where both have the class, or compare models without their class scores: "
            "class_evidence=False for DeepUniCAM, objective='uniqueness' for UniCAM."
        )


def different_classes(outputs: Mapping[str, object]) -> str | None:
    """Return a sentence that names the models that differ in the number of classes; None if none do."""
    known = [(role, output) for role, output in outputs.items() if has_class_scores(output)]
    for role, output in known[1:]:
        first_role, first = known[0]
        if class_count(output) != class_count(first):
            return (
                f"The {first_role} has {first.shape[1]} outputs and the {role} {output.shape[1]}, so their "
                "classes are not the same."
            )
    return None


def gives_embeddings(model: Callable[..., Any]) -> bool:
    """Return whether a model plainly has no classifier, so that its output is not class scores.

    That is a timm model with ``num_classes=0``, or a network whose head (``fc``, ``classifier``, ``head``)
    has been replaced by an ``nn.Identity``; alone or in a wrapper that adds nothing with weights.

    Example:
        >>> import torchvision
        >>> model = torchvision.models.resnet18()
        >>> gives_embeddings(model)
        False
        >>> model.fc = nn.Identity()
        >>> gives_embeddings(model)
        True
    """
    if not isinstance(model, nn.Module):
        return False
    inner: nn.Module | None = unwrap(model)
    while inner is not None:
        classes = getattr(inner, "num_classes", None)
        if isinstance(classes, int) and not isinstance(classes, bool) and classes == 0:
            return True
        heads = [head for name, head in inner.named_children() if name in _HEADS]
        if heads:
            return all(isinstance(head, nn.Identity) for head in heads)
        weighted = [child for child in inner.children() if next(child.parameters(), None) is not None]
        inner = weighted[0] if len(weighted) == 1 and not list(inner.parameters(recurse=False)) else None
    return False


def warn_of_embeddings(model: Callable[..., Any], role: str) -> bool:
    """Warn if a model plainly has no classifier where its class scores are used; return whether it has none.

    Args:
        model: The model.
        role: What messages call it.
    """
    found = gives_embeddings(model)
    if found:
        warn(
            f"The output of the {role} does not look like class scores: it has no classifier, so these are "
            "features. Pass class_evidence=False to DeepUniCAM, or a target and objective='uniqueness' to "
            "UniCAM."
        )
    return found


def described_output(output: object) -> str:
    """Describe what a model returned in a message about class scores, with the cure for a flat logit."""
    if not isinstance(output, Tensor):
        return type(output).__name__
    if output.dim() == 1:
        return (
            f"{tuple(output.shape)}; one logit per sample must have the shape (n, 1): wrap the model so that "
            "it returns output.unsqueeze(1)"
        )
    return str(tuple(output.shape))


# What the classifier at the end of a network is called.
_HEADS = ("fc", "classifier", "head", "heads", "last_linear")
