"""How a comparison was made: everything that decides its result, and what the report says about the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from captum_kd.labels import LabelEmbeddings


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a :class:`~captum_kd.Comparison` was made.

    The object is frozen; ``dataclasses.replace(settings, data="my photos")`` gives a changed copy. The fields
    ``class_names`` and, at the end, ``command`` to ``skipped`` do not decide the result: they are there for
    the page of :meth:`captum_kd.Comparison.to_html`.

    Attributes:
        students: The names of the students.
        layers: The names of the layers, first to last.
        teacher: Whether a teacher was compared, too.
        samples: The number of scored images.
        left_out: The number of images that were not scored since they are identical to an earlier one, or are
            in the reference.
        reference: The number of images in the reference.
        reference_source: Where the reference comes from.
        label_embeddings: What represents the classes: "one-hot", the name of a language model, or a shape.
        class_names: The class names in the order of the class indices; empty if they are not known.
        confidence: The nominal coverage of the intervals.
        permutations: The number of permutations for each null.
        pool: The grid size that activations are averaged on; 1 is global pooling.
        kept_share: The share of the pixels that is kept for the scores of what maps keep; None if these were
            not computed.
        seed: The seed of permutations and imputation noise.
        reshape_transform: The name of the function that turns layer outputs into ``(n, c, h, w)``, if any.
        versions: The version of each library.
        decisions: For each map method what it chose by itself, such as its feature layers.
        positions: Where in the data each shown image is, counted from 0.
        command: The command line that made the comparison.
        data: The name of the data.
        notes: Sentences for the report.
        image_names: The file name of each shown image.
        skipped: The "file" and "reason" of each file that was left out.

    Example:
        >>> settings = Settings(students=("mine",), layers=("layer4",), samples=99, class_names=("cat",))
        >>> settings.class_name(0), settings.class_name(1)
        ('cat', 'class 1')
    """

    students: tuple[str, ...]
    layers: tuple[str, ...]
    teacher: bool = False
    samples: int = 0
    left_out: int = 0
    reference: int = 0
    reference_source: str | None = None
    label_embeddings: str = "one-hot"
    class_names: tuple[str, ...] = field(default=(), repr=False)
    confidence: float = 0.95
    permutations: int = 199
    pool: int = 1
    kept_share: float | None = None
    seed: int = 0
    reshape_transform: str | None = None
    versions: dict[str, str] = field(default_factory=dict, repr=False)
    decisions: dict[str, str] = field(default_factory=dict, repr=False)
    positions: tuple[int, ...] = field(default=(), repr=False)
    command: str | None = field(default=None, repr=False)
    data: str | None = None
    notes: tuple[str, ...] = field(default=(), repr=False)
    image_names: tuple[str, ...] = field(default=(), repr=False)
    skipped: tuple[dict[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Settings:
        """Read the settings that ``dataclasses.asdict`` and JSON wrote.

        Args:
            content: A parsed JSON object. Settings that it lacks get their defaults.

        Returns:
            The settings.

        Raises:
            TypeError: A name is unknown, or ``students`` or ``layers`` is missing.

        Example:
            >>> Settings.from_json({"students": ["mine"], "layers": ["layer4"]}).layers
            ('layer4',)
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**values)

    def class_name(self, index: int) -> str:
        """The name of a class, "class 3" if names are not known."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def image_name(self, row: int) -> str:
        """The file name of a shown image, empty if it is not known."""
        return self.image_names[row] if row < len(self.image_names) else ""

    def provenance(self, shown: int) -> list[tuple[str, str]]:
        """Say how the numbers were made, as terms and what stands for them.

        Args:
            shown: The number of shown images.

        Returns:
            A term and a text for each line of the report. What does not apply is left out.
        """
        reference = f"{self.reference} images that UniCAM takes distances to"
        source = f" ({self.reference_source})" if self.reference_source else ""
        grid = "over all positions" if self.pool == 1 else f"on a {self.pool} × {self.pool} grid"
        copies = "identical to earlier ones or to ones of the reference"
        kept = f"{self.kept_share} of the pixels, the others imputed (ROAD)"
        lines = [
            ("Data", self.data),
            ("Images scored", str(self.samples)),
            ("Images left out", f"{self.left_out}, {copies}" if self.left_out else None),
            ("Images shown", f"{shown}, the first ones; nothing was chosen" if shown else None),
            ("Reference", reference + source if self.reference else None),
            ("Features", f"activations averaged {grid}"),
            ("Reshape transform", self.reshape_transform),
            ("Label embeddings", self.label_embeddings),
            ("Estimators", "FSS biased, as in the paper; everything else bias-corrected"),
            ("Intervals", f"{100 * self.confidence:g} %, from leaving out images"),
            ("Null", f"{self.permutations} permutations of the samples"),
            ("Kept share", None if self.kept_share is None else kept),
            ("Teacher", "compared with both" if self.teacher else None),
            ("Seed", str(self.seed)),
            *self.decisions.items(),
            ("Versions", ", ".join(f"{library} {version}" for library, version in self.versions.items())),
        ]
        return [(term, text) for term, text in lines if text]


def describe_embeddings(label_embeddings: LabelEmbeddings | Tensor | None) -> str:
    """Say in a few words what represents the classes."""
    if label_embeddings is None:
        return "one-hot"
    if isinstance(label_embeddings, LabelEmbeddings):
        return label_embeddings.model
    return f"given, {' x '.join(map(str, label_embeddings.shape))}"
