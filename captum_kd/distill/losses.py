"""The losses of response-based distillation and of attention transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kd.functional.distance import accumulation_dtype

# Beyond these the softened outputs, or what is left of their differences, are rounding.
_COLDEST, _HOTTEST = 1e-6, 1e4
# Above this float32 is too coarse for the differences, whose squares T² makes up for.
_HOT = 50.0
# The target of a sample without a label, as PyTorch has it.
_NO_LABEL = -100

_AVERAGE_POOL: dict[int, Callable[[Tensor, Any], Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}


class ResponseLoss(nn.Module):
    """Cross-entropy with the labels, plus the distance of the softened outputs from the teacher's.

    ``(1 - w) CE(z_s, y) + w T² KL(softmax(z_t / T) || softmax(z_s / T))``, averaged over the batch, with the
    logits z_s of the student and z_t of the teacher (Hinton, Vinyals & Dean, "Distilling the Knowledge in a
    Neural Network", 2015). The factor T² keeps the two gradients comparable as T grows. No gradient reaches
    the teacher, and half precision is raised to float32. A sample of class -100 has no label: the
    cross-entropy is averaged over the others, and is 0 if there are none. A class that the teacher rules out
    with a logit of -inf adds nothing to the divergence.

    The defaults are the settings of Adhane et al., "On Explaining Knowledge Distillation".

    Args:
        temperature: T, from 1e-6 to 1e4. The larger it is, the more the small outputs of the teacher count.
        weight: w, from 0 (labels alone) to 1 (teacher alone).

    Raises:
        ValueError: ``temperature`` or ``weight`` is out of range.

    Example:
        >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> ResponseLoss(temperature=2.0, weight=1.0)(student, teacher, torch.tensor([1]))
        tensor(1.8485)
    """

    def __init__(self, temperature: float = 20.0, weight: float = 0.3) -> None:
        super().__init__()
        if not _COLDEST <= temperature <= _HOTTEST:
            raise ValueError(
                f"temperature must be from {_COLDEST:g} to {_HOTTEST:g}, where outputs still differ by more "
                f"than rounding, got {temperature}."
            )
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be from 0 (labels alone) to 1 (teacher alone), got {weight}.")
        self.temperature = temperature
        self.weight = weight

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            student_logits: ``(n, classes)``, floating point.
            teacher_logits: ``(n, classes)``, floating point.
            target: The classes of the samples, ``(n,)``, integers.

        Returns:
            A scalar, float32 or float64.

        Raises:
            ValueError: The shapes do not go together, or the batch is empty.
            TypeError: ``target`` does not hold integers.
        """
        if student_logits.dim() != 2 or student_logits.shape != teacher_logits.shape:
            raise ValueError(
                "student_logits and teacher_logits must both be (n, classes), got "
                f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}. Teacher and student must "
                "have the same classes, in the same order."
            )
        if target.shape != student_logits.shape[:1] or len(target) == 0:
            raise ValueError(
                "target must hold one class for each sample, and there must be a sample, got shape "
                f"{tuple(target.shape)} for logits of shape {tuple(student_logits.shape)}."
            )
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TypeError(f"target must hold class numbers (torch.long), got {target.dtype}.")
        student = at_least_float32(student_logits)
        teacher = at_least_float32(teacher_logits.detach())
        # A term of weight 0 is left out, since it may be infinite.
        terms = []
        if self.weight < 1:
            terms.append((1 - self.weight) * _cross_entropy(student, target.long()))
        if self.weight > 0:
            factor = self.weight * self.temperature**2
            terms.append(factor * _divergence(student, teacher, self.temperature))
        return torch.stack(terms).sum()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"temperature={self.temperature}, weight={self.weight}"


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over the samples that have a label."""
    total = F.cross_entropy(logits, target, ignore_index=_NO_LABEL, reduction="sum")
    return total / (target != _NO_LABEL).sum().clamp(min=1)


def _divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of softened outputs, averaged over the batch."""
    dtype = accumulation_dtype(student.device) if temperature > _HOT else student.dtype
    own, theirs = (F.log_softmax(logits.to(dtype) / temperature, dim=1) for logits in (student, teacher))
    # The limit of p log p is 0.
    ruled_out = theirs == -math.inf
    own, theirs = (values.masked_fill(ruled_out, 0.0) for values in (own, theirs))
    parts = theirs.exp().masked_fill(ruled_out, 0.0) * (theirs - own)
    return (parts.sum() / len(student)).to(student.dtype)


def attention_map(features: Tensor) -> Tensor:
    """Compute where a layer is active: the mean of its squared channels, scaled to length 1.

    ``vec(mean_c A_c²) / |vec(mean_c A_c²)|``, F²_sum of Zagoruyko & Komodakis, "Paying More Attention to
    Attention", ICLR 2017 (their sum and this mean are equal once scaled).

    Args:
        features: Activations, ``(n, channels, *spatial)``; half precision is raised to float32.

    Returns:
        ``(n, positions)``, each row of length 1 whatever the scale of the sample, or 0 where all its
        activations are 0.

    Raises:
        ValueError: ``features`` have no spatial axis, or no channel or position.

    Example:
        >>> attention_map(torch.tensor([[[0.0, 1.0], [2.0, 1.0]]]))
        tensor([[0.8944, 0.4472]])
    """
    if features.dim() < 3:
        raise ValueError(
            f"An attention map needs features (n, channels, *spatial), got shape {tuple(features.shape)}. "
            "Choose a layer before the global pooling."
        )
    if 0 in features.shape[1:]:
        raise ValueError(f"An attention map needs channels and positions, got shape {tuple(features.shape)}.")
    return _scaled_to_length_1(_mean_square(features))


class AttentionLoss(nn.Module):
    """Attention transfer: the distance between the attention maps of student and teacher.

    ``w / 2 · sum over layers of mean (Q_s - Q_t)²``, with Q of :func:`attention_map` and the mean over
    samples and positions (Zagoruyko & Komodakis, ICLR 2017, Eq. 2 with its norm squared, as they compute
    it). They set beta of that equation to 10³ divided by the positions and the samples, which is the
    mean here and ``weight=1000``. Their published code leaves out the half: its ``--beta 1e3`` is
    ``weight=2000``. The term is added to the cross-entropy, and may be combined with
    :class:`ResponseLoss`.

    Where the maps differ in size, the mean squares of the larger are average-pooled to the smaller (along
    each axis the lesser of the two) before they are scaled; the numbers of channels may differ. A layer of a
    single position has the map 1 for any weights, and adds nothing.

    The settings weight 0.1 and temperature 8 in the code of Adhane et al. belong to a loss on logits, which
    have no spatial axes: that loss is identically zero whatever the weight, so they are no guide here.

    Args:
        weight: w, at least 0.

    Raises:
        ValueError: ``weight`` is negative or not finite.

    Example:
        >>> student, teacher = torch.zeros(1, 1, 1, 2), torch.zeros(1, 3, 1, 2)
        >>> student[..., 0] = 1.0
        >>> teacher[..., 1] = 1.0
        >>> AttentionLoss(weight=2.0)([student], [teacher])
        tensor(1.)
    """

    def __init__(self, weight: float = 1000.0) -> None:
        super().__init__()
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight must be a finite number of at least 0, got {weight}.")
        self.weight = weight

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            student_features: One tensor ``(n, channels, *spatial)`` per layer, one to three spatial axes.
            teacher_features: As many tensors, in the same order; no gradient reaches them.

        Returns:
            A scalar, float32 or float64.

        Raises:
            ValueError: The lists are empty or differ in length; a pair differs in its number of samples or
                of spatial axes; or every pair has a single position, so that the loss would be constant.
        """
        check_lengths(student_features, teacher_features)
        sizes = [
            _common_size(index, student, teacher)
            for index, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True))
        ]
        if all(math.prod(size) == 1 for size in sizes):
            raise ValueError(
                "Every pair of features has a single position after matching, where an attention map is 1 "
                "for any weights and the loss always 0. Choose earlier layers, or larger images."
            )
        terms = [
            (_map_of_size(student, size) - _map_of_size(teacher.detach(), size)).square().mean()
            for student, teacher, size in zip(student_features, teacher_features, sizes, strict=True)
        ]
        return self.weight / 2 * torch.stack(terms).sum()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"weight={self.weight}"


def at_least_float32(values: Tensor) -> Tensor:
    """Raise half precision to float32, in which sums over a batch are safe; float64 stays as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def check_lengths(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> None:
    """Raise unless there are as many layers of the student as of the teacher, and at least one."""
    if len(student_features) != len(teacher_features) or not student_features:
        raise ValueError(
            "student_features and teacher_features must pair up, at least one layer each, got "
            f"{len(student_features)} and {len(teacher_features)}."
        )


def _common_size(index: int, student: Tensor, teacher: Tensor) -> tuple[int, ...]:
    shapes = f"pair {index}: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.dim() != teacher.dim() or not 3 <= student.dim() <= 5:
        raise ValueError(
            "Both features must be (n, channels, *spatial) with the same one to three spatial axes, got "
            f"{shapes}. Choose layers before the global pooling."
        )
    if len(student) != len(teacher) or 0 in student.shape + teacher.shape:
        raise ValueError(f"Both features must be of the same samples, and not empty, got {shapes}.")
    return tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))


def _map_of_size(features: Tensor, size: tuple[int, ...]) -> Tensor:
    squares = _mean_square(features)
    if squares.shape[2:] != size:
        squares = _AVERAGE_POOL[len(size)](squares, size)
    return _scaled_to_length_1(squares)


def _mean_square(features: Tensor) -> Tensor:
    """The mean of the squared channels, up to a power of 4 for each sample, so that no square overflows."""
    values = at_least_float32(features)
    if not len(values):
        return values.square().mean(dim=1, keepdim=True)
    peaks = values.detach().abs().amax(dim=tuple(range(1, values.dim())), keepdim=True)
    # Powers of two change no digit of what follows.
    return (values * _inverse_power_of_two(peaks)).square().mean(dim=1, keepdim=True)


def _inverse_power_of_two(values: Tensor) -> Tensor:
    """One over the greatest power of two that is at most a value; 1 where the value is subnormal or 0."""
    integers, exponent = (
        (torch.int64, 0x7FF0000000000000) if values.dtype == torch.float64 else (torch.int32, 0x7F800000)
    )
    # The bits of the exponent alone are the power.
    powers = (values.view(integers) & exponent).view(values.dtype)
    least = torch.finfo(values.dtype).tiny
    return torch.where(values < least, 1.0, powers.reciprocal().clamp(least, 1 / least))


def _scaled_to_length_1(squares: Tensor) -> Tensor:
    return F.normalize(squares.flatten(1), dim=1)
