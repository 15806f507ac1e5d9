"""What a teacher adds to the loss of its student: one object for all techniques."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from captum_kd.distill.features import last_batch_norm, run_with_features
from captum_kd.distill.losses import AttentionLoss, ResponseLoss
from captum_kd.distill.overhaul import OverhaulLoss, relu_margins

Technique = Literal["response", "attention", "overhaul"]
TECHNIQUES: tuple[Technique, ...] = get_args(Technique)


class Guidance(nn.Module):
    """The loss of a student that has a teacher.

    "response" is :class:`ResponseLoss`, which includes the cross-entropy; "attention" and "overhaul" are the
    cross-entropy plus :class:`AttentionLoss` or :class:`OverhaulLoss` of the features of ``layers``. The
    teacher is frozen, in evaluation mode, and not part of this module's parameters or state.

    Args:
        technique: "response", "attention" or "overhaul".
        student: The student, for the channels of its layers.
        teacher: The teacher.
        layers: Names of the student's layers; "response" ignores them.
        teacher_layers: Names of the teacher's layers, in the same order.
        example: A few images, ``(n, 3, h, w)``, n >= 1, from which the shapes are learnt.
        weight: Weight of the teacher's part of the loss; None takes the loss's default.
        temperature: Temperature of "response"; None takes the default.

    Raises:
        ValueError: The technique is unknown, the lists differ in length, a number is out of range, a
            temperature is given for another technique than "response", a layer is not in its model, the
            shapes of layers cannot be matched, or the teacher has other classes than the student.

    Example:
        >>> import torch
        >>> from captum_kd.models.small import small_resnet
        >>> student, teacher, images = small_resnet(4), small_resnet(8), torch.randn(4, 3, 32, 32)
        >>> layers = ["layer3", "layer4"]
        >>> guidance = Guidance("attention", student, teacher, layers, layers, images)
        >>> guidance(student, images, torch.arange(4))[0].shape
        torch.Size([])
    """

    def __init__(
        self,
        technique: Technique,
        student: nn.Module,
        teacher: nn.Module,
        layers: Sequence[str],
        teacher_layers: Sequence[str],
        example: Tensor,
        *,
        weight: float | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if technique not in TECHNIQUES:
            raise ValueError(f"technique must be one of {TECHNIQUES}, got {technique!r}.")
        if len(layers) != len(teacher_layers):
            raise ValueError(
                f"Student and teacher need the same number of layers, got {list(layers)} and "
                f"{list(teacher_layers)}."
            )
        if temperature is not None and technique != "response":
            raise ValueError(f"temperature is for 'response', but the technique is {technique!r}.")
        # In a tuple, so that the teacher's weights are neither trained nor saved with the student.
        self._teacher = (teacher.eval().requires_grad_(False),)
        self.technique = technique
        self.layers = [] if technique == "response" else list(layers)
        self.teacher_layers = [] if technique == "response" else list(teacher_layers)
        options = {} if weight is None else {"weight": weight}
        logits, features, answers, targets = self._example(student, example)
        if logits.shape != answers.shape:
            raise ValueError(
                f"The teacher must have as many classes as the student: its output has shape "
                f"{tuple(answers.shape)}, the student's {tuple(logits.shape)}."
            )
        self.loss: nn.Module
        if technique == "response":
            warmth = {} if temperature is None else {"temperature": temperature}
            self.loss = ResponseLoss(**options, **warmth)
        elif technique == "attention":
            self.loss = AttentionLoss(**options)
        else:
            margins = [relu_margins(last_batch_norm(teacher, layer)) for layer in teacher_layers]
            self.loss = OverhaulLoss(
                [f.shape[1] for f in features], [t.shape[1] for t in targets], margins, **options
            )
        if technique != "response":
            self._check_pairs(features, targets)

    def forward(self, student: nn.Module, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch, and the student's logits."""
        teacher = self._teacher[0].to(images.device)
        before_relu = self.technique == "overhaul"
        # The student may be trained in another precision than the teacher's weights are in.
        seen = images.to(next((p.dtype for p in teacher.parameters()), images.dtype))
        with torch.no_grad():
            answers, theirs = run_with_features(teacher, seen, self.teacher_layers, before_relu=before_relu)
        logits, features = run_with_features(student, images, self.layers, before_relu=before_relu)
        if self.technique == "response":
            loss: Tensor = self.loss(logits, answers, target)
        else:
            loss = F.cross_entropy(logits, target) + self.loss(features, theirs)
        return loss, logits

    def _example(
        self, student: nn.Module, example: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor, list[Tensor]]:
        training, before_relu = student.training, self.technique == "overhaul"
        try:
            with torch.no_grad():
                mine = run_with_features(student.eval(), example, self.layers, before_relu=before_relu)
                theirs = run_with_features(
                    self._teacher[0], example, self.teacher_layers, before_relu=before_relu
                )
        finally:
            student.train(training)
        return *mine, *theirs

    def _check_pairs(self, features: list[Tensor], targets: list[Tensor]) -> None:
        """Name the layers when the loss refuses their shapes."""
        training = self.loss.training
        try:
            with torch.no_grad():
                self.loss.eval()(features, targets)
        except ValueError as error:
            pairs = "; ".join(
                f"student {mine} {tuple(f.shape[1:])} with teacher {theirs} {tuple(t.shape[1:])}"
                for mine, theirs, f, t in zip(
                    self.layers, self.teacher_layers, features, targets, strict=True
                )
            )
            raise ValueError(
                f"The layers cannot be matched for {self.technique} distillation: {error} The pairs are: "
                f"{pairs} (channels and positions). Choose others with --layers and --teacher-layers."
            ) from error
        finally:
            self.loss.train(training)
