"""Overhaul feature distillation: the student's features before the ReLU follow the teacher's.

Heo, Kim, Yun, Park, Kwak & Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captum_kd.distill.features import BATCH_NORMS
from captum_kd.distill.losses import at_least_float32, check_lengths

_RARELY_NEGATIVE = 0.001


def relu_margins(batch_norm: nn.Module) -> Tensor:
    """Compute each channel's expected value where it is negative, from the BatchNorm that makes the features.

    After a BatchNorm of bias b and weight w a channel is taken as x ~ N(b, w²), so
    ``E[x | x < 0] = b - |w| phi(b / w) / Phi(-b / |w|)``. Where ``P(x < 0) <= 0.001`` the margin is
    ``-3 |w|``, the rule of the authors' code. A channel of weight 0 is constant: its margin is min(b, 0).

    Args:
        batch_norm: The BatchNorm that is followed by a ReLU, or by a residual sum and then the ReLU; see
            :func:`~captum_kd.distill.last_batch_norm`.

    Returns:
        Margins, ``(c,)``, none above 0, on the device of the BatchNorm, float32 or float64; computed in
        float64.

    Raises:
        TypeError: ``batch_norm`` is not a BatchNorm.

    Example:
        >>> relu_margins(nn.BatchNorm2d(2))  # -sqrt(2 / pi)
        tensor([-0.7979, -0.7979])
    """
    if not isinstance(batch_norm, BATCH_NORMS):
        raise TypeError(
            f"batch_norm must be a BatchNorm, got {type(batch_norm).__name__}. "
            "captum_kd.distill.features.last_batch_norm(model, layer) finds that of a layer."
        )
    weight, bias = batch_norm.weight, batch_norm.bias
    if weight is None or bias is None:  # affine=False: standard normal channels
        device = None if batch_norm.running_mean is None else batch_norm.running_mean.device
        return torch.full((batch_norm.num_features,), -math.sqrt(2 / math.pi), device=device)
    # On the CPU because not every device has float64.
    scale = weight.detach().cpu().double().abs()
    mean = bias.detach().cpu().double()
    # For a scale of 0 any divisor will do: what z leads to is multiplied by the scale.
    z = -mean / scale.masked_fill(scale == 0, 1.0)
    log_probability = torch.special.log_ndtr(z)
    log_density = -z.square() / 2 - math.log(2 * math.pi) / 2
    margins = mean - scale * torch.exp(log_density - log_probability)
    margins = torch.where(log_probability <= math.log(_RARELY_NEGATIVE), -3 * scale, margins)
    return margins.clamp(max=0.0).to(weight.device, torch.promote_types(weight.dtype, torch.float32))


def margin_relu(features: Tensor, margins: Tensor) -> Tensor:
    """Raise the teacher's features below the margin of their channel to the margin: max(x, m_c).

    Args:
        features: Features before the ReLU, ``(n, c, *spatial)``.
        margins: Margins, ``(c,)``, as :func:`relu_margins` returns them.

    Returns:
        A tensor shaped as ``features``.

    Raises:
        ValueError: There is not one margin per channel.

    Example:
        >>> margin_relu(torch.tensor([[-2.0, -0.1], [1.0, -2.0]]), torch.tensor([-0.5, -1.0]))
        tensor([[-0.5000, -0.1000],
                [ 1.0000, -1.0000]])
    """
    if features.dim() < 2 or margins.shape != features.shape[1:2]:
        raise ValueError(
            "margins must be (c,) for features (n, c, *spatial), got "
            f"{tuple(margins.shape)} for {tuple(features.shape)}."
        )
    return torch.maximum(features, margins.view(-1, *[1] * (features.dim() - 2)))


def partial_l2(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the squared distance that skips what the ReLU hides anyway.

    The sum of ``(s - t)²`` over the entries with ``s > t`` or ``t > 0``: where the teacher is silent
    (``t <= 0``), the student may be as far below as it likes.

    Args:
        student: The student's features before the ReLU, after its connector.
        teacher: The teacher's features, after :func:`margin_relu`; of the same shape.

    Returns:
        A scalar tensor (float32 or float64), the sum over all samples, channels and positions.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> partial_l2(torch.tensor([-3.0, 2.0, 0.0]), torch.tensor([-1.0, -1.0, 2.0]))  # 0 + 9 + 4
        tensor(13.)
    """
    if student.shape != teacher.shape:
        raise ValueError(
            "partial_l2 needs student and teacher of one shape, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    student, teacher = at_least_float32(student), at_least_float32(teacher)
    # Written so that NaN counts, and is not hidden.
    counts = ~((student <= teacher) & (teacher <= 0))
    return torch.where(counts, student - teacher, 0.0).square().sum()


class OverhaulLoss(nn.Module):
    """Overhaul feature distillation, to be added to the cross-entropy.

    ``w / n · sum_i partial_l2(r_i(s_i), max(t_i, m_i)) / 2^(L - i - 1)`` over the layers i = 0 .. L - 1 and
    a batch of n, with features s_i and t_i before the ReLU, a connector r_i (1x1 convolution and BatchNorm)
    and margins m_i. The connectors are trained with the student, so give their parameters to the optimiser;
    they are not needed afterwards.

    The sum runs over channels and positions, so the weight depends on their number: the authors use 1e-3
    for 32-pixel images (CIFAR-100), 1e-4 for ImageNet, 1e-5 for segmentation. They keep the
    teacher in training mode, where its features have the statistics of the margins batch by batch.

    Args:
        student_channels: Channels of the student's layers, from the first layer to the last.
        teacher_channels: Channels of the teacher's layers.
        margins: One tensor ``(teacher channels,)`` per layer, as :func:`relu_margins` returns it; kept as
            buffers.
        weight: w, at least 0.

    Raises:
        ValueError: The lists are empty or differ in length, a margin has a wrong shape, is above 0 or not
            finite, or ``weight`` is out of range.

    Example:
        >>> loss = OverhaulLoss([4, 8], [6, 12], [torch.full((6,), -0.8), torch.full((12,), -0.8)])
        >>> student = [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
        >>> teacher = [torch.randn(2, 6, 8, 8), torch.randn(2, 12, 4, 4)]
        >>> loss(student, teacher).shape
        torch.Size([])
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        margins: Sequence[Tensor],
        weight: float = 1e-3,
    ) -> None:
        super().__init__()
        lengths = {len(student_channels), len(teacher_channels), len(margins)}
        if len(lengths) > 1 or lengths == {0}:
            raise ValueError(
                "student_channels, teacher_channels and margins must have one entry per layer, at least one, "
                f"got {len(student_channels)}, {len(teacher_channels)} and {len(margins)}."
            )
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight must be a finite number of at least 0, got {weight}.")
        self.weight = weight
        self.student_channels = tuple(student_channels)
        self.teacher_channels = tuple(teacher_channels)
        self.connectors = nn.ModuleList(map(_connector, student_channels, teacher_channels))
        for index, (margin, channels) in enumerate(zip(margins, teacher_channels, strict=True)):
            if margin.shape != (channels,) or not (torch.isfinite(margin) & (margin <= 0)).all():
                raise ValueError(
                    f"Margins {index} must be {channels} finite numbers of at most 0, one for each channel "
                    f"of the teacher, got shape {tuple(margin.shape)}. captum_kd.distill.overhaul."
                    "relu_margins gives them."
                )
            self.register_buffer(f"margins_{index}", margin.detach().clone())

    def forward(self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
        """Compute the loss.

        Args:
            student_features: One tensor ``(n, student channels, height, width)`` per layer, before the ReLU.
            teacher_features: As many tensors ``(n, teacher channels, height, width)``; no gradient reaches
                them.

        Returns:
            A scalar, float32 or float64.

        Raises:
            ValueError: The features do not go together with each other or with the channels given.
        """
        check_lengths(student_features, teacher_features)
        layers = len(self.connectors)
        if len(student_features) != layers:
            raise ValueError(f"This loss was made for {layers} layers, got {len(student_features)}.")
        terms = []
        for index, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True)):
            self._check_pair(index, student, teacher)
            connector = self.connectors[index]
            connected = connector(student.to(next(connector.parameters()).dtype))
            margins = self.get_buffer(f"margins_{index}")
            target = margin_relu(at_least_float32(teacher.detach()), margins)
            terms.append(partial_l2(connected, target) / 2 ** (layers - index - 1))
        return self.weight / len(student_features[0]) * torch.stack(terms).sum()

    def extra_repr(self) -> str:
        """The settings, for ``print``."""
        return f"weight={self.weight}"

    def _check_pair(self, index: int, student: Tensor, teacher: Tensor) -> None:
        shapes = f"pair {index}: student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        if student.dim() != 4 or teacher.dim() != 4 or len(student) != len(teacher) or not len(student):
            raise ValueError(
                f"Both features must be (n, channels, height, width) of the same samples, got {shapes}."
            )
        if student.shape[2:] != teacher.shape[2:]:
            raise ValueError(
                f"Overhaul distillation needs maps of one size, got {shapes}. Choose layers of the same "
                "resolution, usually the last before each stride; attention transfer matches any sizes."
            )
        wanted = self.student_channels[index], self.teacher_channels[index]
        if (student.shape[1], teacher.shape[1]) != wanted:
            raise ValueError(
                f"This loss was made for {wanted[0]} channels of the student and {wanted[1]} of the teacher, "
                f"got {shapes}. Give the layers in the same order as the channels, or make a new loss."
            )


def _connector(student_channels: int, teacher_channels: int) -> nn.Sequential:
    convolution = nn.Conv2d(student_channels, teacher_channels, kernel_size=1, bias=False)
    # Normal with variance 2 / (outputs of the 1x1 kernel), the initialisation of the authors.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(teacher_channels))
