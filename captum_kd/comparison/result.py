"""What a comparison of models found: records, tables, figures, a page, and a file."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.comparison.figures import (
    kept_figure,
    layers_figure,
    maps_figure,
    models_figure,
    scores_figure,
)
from captum_kd.comparison.file import read_comparison, write_comparison
from captum_kd.comparison.maps import Maps
from captum_kd.comparison.names import one_name
from captum_kd.comparison.scores import COLUMNS, Record, find_score, scores_of
from captum_kd.comparison.settings import Settings
from captum_kd.comparison.tables import all_tables, summary_table
from captum_kd.metrics import Score
from captum_kd.report.comparison_page import PageFacts, comparison_page
from captum_kd.report.tables import Table
from captum_kd.visualization.grid import AxesGrid


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The result of :func:`captum_kd.compare`.

    Attributes:
        rows: A record for each score: student, layer, quantity, value, low and high (the confidence
            interval), null and null_high (mean and 95 % quantile under permuted samples), p_value
            (one-sided), samples, estimator.
        accuracy: The accuracy of each model on the scored images: the students by name, "base" and, if there
            is one, "teacher". None for a model whose output is not ``(n, num_classes)``.
        images: The shown images as the models took them, ``(n, c, h, w)``, on the CPU.
        labels: The classes of the shown images, int64 ``(n,)``.
        maps: For each student, layer and method two maps, ``(n, 1, h, w)`` at the layer's resolution.
        sides: For each method what its two maps are: ("distilled", "residual") or ("student", "base").
        settings: How the comparison was made, see :class:`~captum_kd.comparison.settings.Settings`.

    Example:
        >>> import torch
        >>> row = dict(zip(COLUMNS, ("mine", "layer4", "FSS", .9, .8, 1., .2, .3, .005, 99, "biased")))
        >>> settings = Settings(students=("mine",), layers=("layer4",), samples=99)
        >>> none = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long)
        >>> comparison = Comparison([row], {"mine": 0.5, "base": 0.4}, *none, {"mine": {}}, {}, settings)
        >>> comparison
        Comparison(mine with base at layer4: 99 images scored, 0 shown)
        >>> comparison.score("FSS", "layer4").value
        0.9
    """

    rows: list[Record]
    accuracy: dict[str, float | None]
    images: Tensor
    labels: Tensor
    maps: Maps
    sides: dict[str, tuple[str, str]]
    settings: Settings

    @property
    def students(self) -> tuple[str, ...]:
        """The names of the students."""
        return self.settings.students

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers."""
        return self.settings.layers

    def score(self, quantity: str, layer: str, student: str | None = None) -> Score:
        """Look up one score.

        Args:
            quantity: The quantity, for instance "RS distilled".
            layer: The name of the layer.
            student: The name of the student; may be left out if there is only one.

        Returns:
            The score with its interval and null.

        Raises:
            ValueError: There is no such score; the message lists what there is.
        """
        student = one_name(student, self.students, "student")
        return find_score(self.rows, self.settings, quantity, layer, student)

    def to_dataframe(self) -> Any:
        """The records as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ImportError(
                "to_dataframe needs pandas (pip install pandas). Without it: `rows`, to_csv() and to_json()."
            ) from error
        return pandas.DataFrame(self.rows, columns=list(COLUMNS))

    def to_csv(self) -> str:
        """The records as comma-separated values, with a line of column names."""
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return buffer.getvalue()

    def to_json(self) -> str:
        """Settings, accuracies and records as JSON."""
        content = {"settings": asdict(self.settings), "accuracy": self.accuracy, "rows": self.rows}
        return json.dumps(content, indent=1)

    def to_markdown(self) -> str:
        """Accuracies and all scores as tables in GitHub's Markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables()) + "\n"

    def to_html(self) -> str:
        """One page that needs no other file: scores with intervals and nulls, and the maps to explore.

        The page shows more if the settings say more: ``command``, ``data``, ``notes``, ``class_names``,
        ``image_names`` and ``skipped`` of :class:`~captum_kd.comparison.settings.Settings`. Set them with
        ``dataclasses.replace``.

        Returns:
            The page. Names are escaped, and it forbids the browser every request.
        """
        made = self.settings
        captions = [(made.class_name(k), made.image_name(i)) for i, k in enumerate(self.labels.tolist())]
        facts = PageFacts(
            students=made.students,
            layers=made.layers,
            provenance=made.provenance(len(self.images)),
            command=made.command,
            data=made.data,
            notes=made.notes,
            skipped=made.skipped,
        )
        scores = {student: scores_of(self.rows, student) for student in self.students}
        return comparison_page(facts, self.tables(), scores, self.images, captions, self.maps, self.sides)

    def tables(self) -> list[Table]:
        """Accuracies; for several students their RS side by side; and every score of each student."""
        return all_tables(self.rows, self.accuracy, self.settings)

    def plot_maps(self, layer: str | None = None, student: str | None = None) -> tuple[Figure, AxesGrid]:
        """Draw the shown images with the maps of every method at one layer.

        Args:
            layer: The name of a layer. None: the last but one that has maps.
            student: The name of a student; may be left out if there is only one.

        Returns:
            The figure and its axes, an array ``(images, 1 + 2 * methods)``. The two maps of a method share a
            scale.

        Raises:
            ValueError: There is no such student or layer, or no maps were made.
        """
        return maps_figure(self, layer, student)

    def plot_models(
        self,
        method: str = "Grad-CAM",
        layer: str | None = None,
        *,
        students: Sequence[str] | None = None,
        images: Sequence[int] | None = None,
        shared_scale: bool = True,
        opacity: float | None = None,
    ) -> tuple[Figure, AxesGrid]:
        """Draw one method's maps of the base model and the students, as in the paper's Figure 3.

        Args:
            method: A method that explains a single model, such as "Grad-CAM"; one of those that ``compare``
                was given.
            layer: The name of a layer. None: the last but one that has maps.
            students: The names of students. None: all.
            images: The numbers of shown images. None: all.
            shared_scale: Use one scale for all models within a row; False: each panel has its own.
            opacity: Draw the maps over the images, see :func:`captum_kd.visualization.plot_maps`.

        Returns:
            The figure and its axes, an array ``(images, 2 + students)``.

        Raises:
            ValueError: A name is unknown, the method explains a pair of models, or no maps were made.
        """
        return models_figure(
            self,
            method,
            layer,
            students=students,
            images=images,
            shared_scale=shared_scale,
            opacity=opacity,
        )

    def plot_layers(
        self,
        method: str,
        layers: Sequence[str] | None = None,
        *,
        students: Sequence[str] | None = None,
        images: Sequence[int] | None = None,
        shared_scale: bool = True,
    ) -> tuple[Figure, AxesGrid]:
        """Draw both sides of a method at every layer, as in the paper's Figure 5.

        Args:
            method: One of the methods that ``compare`` was given.
            layers: The names of layers. None: all that have maps.
            students: The names of students, which are drawn below each other. None: all.
            images: The numbers of shown images. None: all.
            shared_scale: Use one scale for the maps of an image at a layer; False: each panel has its own.

        Returns:
            The figure and its axes, an array ``(images * 2 * students, 1 + layers)``.

        Raises:
            ValueError: A name is unknown, or no maps were made.
        """
        return layers_figure(
            self, method, layers, students=students, images=images, shared_scale=shared_scale
        )

    def plot_kept(
        self,
        method: str,
        layers: str | Sequence[str] | None = None,
        *,
        share: float = 0.2,
        students: Sequence[str] | None = None,
        images: Sequence[int] | None = None,
    ) -> tuple[Figure, AxesGrid]:
        """Draw the images reduced to what maps rank highest, as in the paper's Figures 1 and C.1.

        Args:
            method: One of the methods that ``compare`` was given.
            layers: The names of layers. None: all that have maps.
            share: The share of the pixels that is kept; the others are imputed (ROAD).
            students: The names of students, which are drawn below each other. None: all.
            images: The numbers of shown images. None: all.

        Returns:
            The figure and its axes, an array ``(images * 2 * students, 1 + layers)``.

        Raises:
            ValueError: A name is unknown, the share is not from 0 to 1, or no maps were made.
        """
        return kept_figure(self, method, layers, share=share, students=students, images=images)

    def plot_scores(
        self, *, quantities: Sequence[str] | None = None, students: Sequence[str] | None = None
    ) -> tuple[Figure, Axes]:
        """Draw scores per layer with their intervals; a dash marks the 95 % quantile of each null.

        Args:
            quantities: The quantities. None: FSS and RS for one student; "RS distilled" for several.
            students: The names of students. None: all.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: A name is unknown, or there are more than 8 series.
        """
        return scores_figure(self.rows, self.settings, quantities=quantities, students=students)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, which holds tensors and text, never code.

        Args:
            path: The file to write.
        """
        write_comparison(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read what :meth:`save` wrote.

        Args:
            path: The file to read.

        Returns:
            The comparison.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a saved comparison, or it was damaged or altered: the message says
                what is wrong.
        """
        return cls(**read_comparison(path))

    def __repr__(self) -> str:
        return (
            f"Comparison({', '.join(self.students)} with base at {', '.join(self.layers)}: "
            f"{self.settings.samples} images scored, {len(self.images)} shown)"
        )

    def _repr_markdown_(self) -> str:
        return summary_table(self.rows, self.settings).to_markdown()
