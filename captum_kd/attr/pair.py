"""Two models with the layers that are compared, as methods take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from captum_kd.attr.reference import Reference
from captum_kd.labels import LabelEmbeddings
from captum_kd.models.layers import find_layer
from captum_kd.models.side import Side


@dataclass(frozen=True)
class Pair:
    """A student and its base model.

    Attributes:
        student: The student with its layers.
        base: The base model with its own, in their order.
        reference: Samples that UniCAM takes distances to; None: those of the batch.
        label_embeddings: What represents the classes in objectives that use labels; None: one-hot.
    """

    student: Side[nn.Module]
    base: Side[nn.Module]
    reference: Reference | None = None
    label_embeddings: LabelEmbeddings | Tensor | None = None

    @classmethod
    def named(
        cls,
        student: nn.Module,
        layers: Sequence[str],
        base: nn.Module,
        base_layers: Sequence[str] | None = None,
        reference: Reference | None = None,
    ) -> Pair:
        """A pair whose layers are given by name.

        Args:
            student: The student.
            layers: Names of its layers.
            base: The base model.
            base_layers: Names of the layers of that; None: the same names.
            reference: As the attribute.

        Raises:
            ValueError: A layer does not exist; the message lists near matches.

        Example:
            >>> student, base = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 4))
            >>> Pair.named(student, ["0"], base).base.layers
            [Linear(in_features=2, out_features=4, bias=True)]
        """
        ours = [find_layer(student, name) for name in layers]
        theirs = [find_layer(base, name) for name in (layers if base_layers is None else base_layers)]
        return cls(Side(student, ours, "student"), Side(base, theirs, "base model"), reference)

    def only(self, indices: Sequence[int]) -> Pair:
        """The pair with some of its layers."""
        return replace(self, student=self.student.only(indices), base=self.base.only(indices))
