"""What the checks of scores write: all numbers as JSON, tables as Markdown, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_kd.benchmark.output import (
    interval_cell,
    legend_above,
    made_by,
    number,
    open_frame,
    write_page,
    write_record,
)
from captum_kd.benchmark.scores.relation import Coefficient, Relation
from captum_kd.benchmark.scores.small_samples import CURVES, CircularityRow, SizeRow
from captum_kd.report.page import png
from captum_kd.report.tables import Cell, Table
from captum_kd.visualization.style import series_style


def write_scores(
    sizes: Sequence[SizeRow],
    circular: Sequence[CircularityRow],
    relation: Relation | None,
    folder: Path,
    command: str,
) -> Path:
    """Write ``scores.json``, ``scores.md``, ``score_sizes.png`` and, with models, ``score_relation.png``.

    Args:
        sizes: The scores of random subsets.
        circular: The scores of false labels.
        relation: What was found over trained models; None: nothing.
        folder: The folder to write to; it is made if it does not exist.
        command: The command that made the numbers.

    Returns:
        The path of ``scores.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "sizes": [row._asdict() for row in sizes],
        "circularity": [row._asdict() for row in circular],
    }
    (folder / "score_sizes.png").write_bytes(png(sizes_figure(sizes)))
    tables = [sizes_table(sizes), widths_table(sizes), circularity_table(circular)]
    if relation is not None:
        record |= {name: [row._asdict() for row in rows] for name, rows in relation._asdict().items()}
        (folder / "score_relation.png").write_bytes(png(relation_figure(relation)))
        tables.append(coefficients_table(relation.coefficients))
    write_record(folder / "scores.json", command, **record)
    return write_page(folder / "scores.md", [made_by(command), *(table.to_markdown() for table in tables)])


def sizes_table(rows: Sequence[SizeRow]) -> Table:
    """The mean and spread of each score at each n, and its null."""
    sizes = list(dict.fromkeys(row.samples for row in rows))
    found = {(r.quantity, r.estimator, r.features, r.samples): r for r in rows}
    lines = []
    for features in dict.fromkeys(row.features for row in rows):
        for curve in CURVES:
            of_curve = [found[(*curve, features, n)] for n in sizes]
            cells = [
                Cell(f"{number(r.mean)} ± {number(r.spread)}", f"null {number(r.null)}") for r in of_curve
            ]
            lines.append((f"{curve.name()}, {features}", cells))
    caption = (
        "Scores of random subsets of n images: mean ± standard deviation over subsets (mean of the null)"
    )
    return Table(caption, ["score", *(f"n = {n}" for n in sizes)], lines)


def widths_table(rows: Sequence[SizeRow]) -> Table:
    """How wide intervals are at each n."""
    sizes = list(dict.fromkeys(row.samples for row in rows))
    chosen = [row for row in rows if row.estimator == "unbiased"]
    found = {(r.quantity, r.features, r.samples): r for r in chosen}
    lines = [
        (
            f"{quantity}, {features}",
            [Cell(number(found[quantity, features, n].half_width)) for n in sizes],
        )
        for quantity, features in dict.fromkeys((row.quantity, row.features) for row in chosen)
    ]
    caption = "Mean half-width of the nominal 95 % interval of bias-corrected scores"
    return Table(caption, ["score", *(f"n = {n}" for n in sizes)], lines)


def circularity_table(rows: Sequence[CircularityRow]) -> Table:
    """RS of false labels by the maps that the images are reduced to."""
    lines = [(row.maps, [Cell(f"{number(row.score)} ± {number(row.error)}")]) for row in rows]
    caption = f"RS of permuted labels (mean ± standard error over {rows[0].batches} batches); 0 is honest"
    return Table(caption, ["images reduced to maps made with", "RS"], lines)


def coefficients_table(rows: Sequence[Coefficient]) -> Table:
    """Rank correlations, questions x layers."""
    layers = list(dict.fromkeys(row.layer for row in rows))
    found = {(row.question, row.layer): row for row in rows}
    lines = []
    for question in dict.fromkeys(row.question for row in rows):
        of_layers = [found[question, layer] for layer in layers]
        cells = [interval_cell(r.within, r.low, r.high) for r in of_layers]
        lines.append((question, [*cells, Cell(number(of_layers[-1].pooled)), Cell(str(of_layers[0].points))]))
    groups = rows[0].groups
    caption = (
        f"Rank correlations: mean of those within each of {groups} geometries and seeds (95 % bootstrap over "
        "models)"
    )
    return Table(caption, ["what with what", *layers, f"{layers[-1]}, all at once", "points"], lines)


def sizes_figure(rows: Sequence[SizeRow]) -> Figure:
    """The mean and spread of each score and of its null by n: a panel for each score and kind of features."""
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    quantities = list(dict.fromkeys(row.quantity for row in rows))
    kinds = list(dict.fromkeys(row.features for row in rows))
    panels = figure.subplots(len(kinds), len(quantities), sharex=True, sharey=True, squeeze=False)
    for line, features in zip(panels, kinds, strict=True):
        for axes, quantity in zip(line, quantities, strict=True):
            chosen = [row for row in rows if (row.quantity, row.features) == (quantity, features)]
            for i, estimator in enumerate(("biased", "unbiased")):
                _draw_curve(axes, [row for row in chosen if row.estimator == estimator], i)
            sizes = list(dict.fromkeys(row.samples for row in chosen))
            axes.axhline(0, color="0.4", linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sizes, [str(size) for size in sizes])
            axes.minorticks_off()
            axes.set_title(f"{quantity}, {features}", fontsize=10)
            open_frame(axes)
    figure.supxlabel("images", fontsize=10)
    figure.supylabel("score", fontsize=10)
    legend_above(figure, panels[0][0], columns=4)
    return figure


def _draw_curve(axes: Axes, rows: Sequence[SizeRow], index: int) -> None:
    """One score and its null by n; the second curve of a panel is moved a little to the right."""
    if not rows:
        return
    colour, marker = series_style(4 - 3 * index)
    name = "biased" if rows[0].estimator == "biased" else "bias-corrected"
    x = [row.samples * (1 + 0.06 * index) for row in rows]
    style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4, "capsize": 2}
    axes.errorbar(x, [r.mean for r in rows], [r.spread for r in rows], label=name, **style)
    axes.errorbar(
        x,
        [r.null for r in rows],
        [r.null_spread for r in rows],
        linestyle=":",
        markerfacecolor="white",
        label=f"{name}, permuted",
        **style,
    )


def relation_figure(relation: Relation) -> Figure:
    """What models do against RS at the last layer: on decorrelated and on biased images, and for pairs."""
    layer = list(relation.models[0].relevance)[-1]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    geometries = list(dict.fromkeys(row.geometry for row in relation.models))
    for i, geometry in enumerate(geometries):
        colour, marker = series_style(i)
        style = {"color": colour, "marker": marker, "linestyle": "", "markersize": 5, "label": geometry}
        models = [row for row in relation.models if row.geometry == geometry]
        pairs = [p for p in relation.pairs if p.geometry == geometry and p.is_distillation()]
        panels[0].plot([r.relevance[layer] for r in models], [r.accuracy for r in models], **style)
        panels[1].plot([r.biased_relevance[layer] for r in models], [r.accuracy for r in models], **style)
        panels[2].plot([p.relevance[layer] for p in pairs], [p.gain for p in pairs], **style)
    for axes, title, x, y in zip(
        panels,
        ("models", "models", "students and base models"),
        (
            f"RS at {layer}, decorrelated images",
            f"RS at {layer}, biased images",
            f"RS distilled at {layer}, decorrelated images",
        ),
        ("accuracy on decorrelated images",) * 2 + ("gain in that accuracy",),
        strict=True,
    ):
        axes.set(xlabel=x, ylabel=y)
        axes.set_title(title, fontsize=10)
        open_frame(axes)
    legend_above(figure, panels[0], columns=len(geometries))
    return figure
