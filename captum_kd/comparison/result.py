"""What a comparison of models found: records, tables, figures, a page, and a file."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.comparison.figures import MapFigures, known_name, one_name
from captum_kd.comparison.file import Maps, read_comparison, write_comparison
from captum_kd.metrics import Score
from captum_kd.report.comparison_page import comparison_page
from captum_kd.report.tables import Cell, Table, score_cell
from captum_kd.visualization import scores_figure

COLUMNS = ("student", "layer", "quantity", *Score._fields)
MAIN_QUANTITIES = ("FSS", "RS student", "RS base", "RS distilled", "RS residual")


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(MapFigures):
    """The result of :func:`captum_kd.compare`.

    Attributes:
        rows: A record for each score: student, layer, quantity, value, low and high (the confidence
            interval), null and null_high (mean and 95 % quantile under permuted samples), p_value
            (one-sided), samples, estimator.
        accuracy: Of each model on the scored images: the students by name, "base" and, where there is one,
            "teacher". None for a model whose output is not ``(n, num_classes)``.
        images: The shown images as the models took them, ``(n, c, h, w)``, on the CPU.
        labels: Their classes, int64 ``(n,)``.
        maps: Per student, layer and method the two maps, ``(n, 1, h, w)`` at the layer's resolution.
        sides: For each method what its two maps are: ("distilled", "residual") or ("student", "base").
        settings: How the comparison was made: students, layers, numbers of samples, options, versions.

    Example:
        >>> import torch
        >>> row = dict(zip(COLUMNS, ("mine", "layer4", "FSS", .9, .8, 1., .2, .3, .005, 99, "biased")))
        >>> settings = {"students": ["mine"], "layers": ["layer4"], "samples": 99}
        >>> none = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long)
        >>> comparison = Comparison([row], {"mine": 0.5, "base": 0.4}, *none, {"mine": {}}, {}, settings)
        >>> comparison
        Comparison(mine with base at layer4: 99 images scored, 0 shown)
        >>> comparison.score("FSS", "layer4").value
        0.9
    """

    rows: list[dict[str, Any]]
    accuracy: dict[str, float | None]
    images: Tensor
    labels: Tensor
    maps: Maps
    sides: dict[str, tuple[str, str]]
    settings: dict[str, Any]

    @property
    def students(self) -> tuple[str, ...]:
        """Names of the students."""
        return tuple(self.settings["students"])

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(self.settings["layers"])

    def score(self, quantity: str, layer: str, student: str | None = None) -> Score:
        """One score; ``student`` may be left out where there is only one.

        Raises:
            ValueError: There is no such score; the message lists what there is.
        """
        student = one_name(student, self.students, "student")
        known_name(layer, self.layers, "layer")
        known_name(quantity, self._quantities(student), "quantity")
        for row in self._of(student):
            if (row["layer"], row["quantity"]) == (layer, quantity):
                return _score(row)
        raise ValueError(f"{quantity!r} was not computed at {layer!r}.")

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
        content = {"settings": self.settings, "accuracy": self.accuracy, "rows": self.rows}
        return json.dumps(content, indent=1)

    def to_markdown(self) -> str:
        """Accuracies and all scores as tables in GitHub's Markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables()) + "\n"

    def to_html(self) -> str:
        """One page that needs no other file: scores with intervals and nulls, and the maps to explore.

        It shows more where ``settings`` has it: "command", "data" and "notes" (texts, notes a list of them),
        "class_names", "image_names" (a list, one for each shown image) and "skipped" (of each file left out
        its "file" and "reason").

        Returns:
            The page. Names are escaped, and it forbids the browser every request.
        """
        scores = {
            student: {(row["quantity"], row["layer"]): _score(row) for row in self._of(student)}
            for student in self.students
        }
        return comparison_page(
            self.settings, self.tables(), scores, self.images, self.labels, self.maps, self.sides
        )

    def tables(self) -> list[Table]:
        """Accuracies; for several students their RS side by side; and every score of each student."""
        accuracies = [
            (name, [Cell("not a classifier" if value is None else f"{value:.4f}")])
            for name, value in self.accuracy.items()
        ]
        n = self.settings["samples"]
        tables = [Table(f"Accuracy on the {n} scored images", ["model", "accuracy"], accuracies)]
        if len(self.students) > 1:
            tables.append(self._summary())
        return tables + [self._scores_of(student) for student in self.students]

    def plot_scores(
        self, *, quantities: Sequence[str] | None = None, students: Sequence[str] | None = None
    ) -> tuple[Figure, Any]:
        """Scores per layer with their intervals; a dash marks the 95 % quantile of each null.

        Args:
            quantities: Which. None: FSS and RS of one student; of several, "RS distilled".
            students: Which. None: all.

        Returns:
            The figure and its axes.

        Raises:
            ValueError: An unknown name, or more than 8 series.
        """
        chosen = self.students if students is None else tuple(students)
        if quantities is None:
            quantities = MAIN_QUANTITIES if len(chosen) == 1 else ("RS distilled",)
        series: dict[str, list[Score]] = {}
        for student in chosen:
            for quantity in quantities:
                name = quantity if len(chosen) == 1 else f"{student}: {quantity}"
                series[name] = [self.score(quantity, layer, student) for layer in self.layers]
        title = chosen[0] if len(chosen) == 1 and len(self.students) > 1 else None
        ylabel = quantities[0] if len(quantities) == 1 else "score"
        return scores_figure(series, self.layers, ylabel=ylabel, title=title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one safetensors file, which holds tensors and text, never code."""
        write_comparison(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not a saved comparison.
        """
        return cls(**read_comparison(path))

    def __repr__(self) -> str:
        return (
            f"Comparison({', '.join(self.students)} with base at {', '.join(self.layers)}: "
            f"{self.settings['samples']} images scored, {len(self.images)} shown)"
        )

    def _repr_markdown_(self) -> str:
        return self._summary().to_markdown()

    def _summary(self) -> Table:
        """A row per student and layer: FSS and the four RS (as in the paper's Tables 1 and 2)."""
        rows = [
            (
                f"{student}, {layer}" if len(self.students) > 1 else layer,
                [Cell(f"{self.score(q, layer, student).value:.4f}") for q in MAIN_QUANTITIES],
            )
            for student in self.students
            for layer in self.layers
        ]
        head = "student, layer" if len(self.students) > 1 else "layer"
        caption = f"Scores on {self.settings['samples']} images (FSS biased, RS bias-corrected)"
        return Table(caption, [head, *MAIN_QUANTITIES], rows)

    def _scores_of(self, student: str) -> Table:
        cells = {(row["quantity"], row["layer"]): score_cell(_score(row)) for row in self._of(student)}
        rows = [
            (q, [cells.get((q, layer), Cell("")) for layer in self.layers]) for q in self._quantities(student)
        ]
        percent = f"{100 * self.settings.get('confidence', 0.95):g} %"
        caption = f"{student}: score, {percent} interval, and mean under permuted samples (the null)"
        return Table(caption, ["quantity", *self.layers], rows)

    def _of(self, student: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["student"] == student]

    def _quantities(self, student: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row["quantity"] for row in self._of(student)))


def _score(row: dict[str, Any]) -> Score:
    return Score(*(row[field] for field in Score._fields))
