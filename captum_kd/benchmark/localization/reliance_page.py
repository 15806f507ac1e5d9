"""How closely maps follow what models rely on: a table, a figure, and what is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from captum_kd.benchmark.localization.reliance import (
    PairPoint,
    correlate,
    correlate_null,
    select,
)
from captum_kd.benchmark.output import interval_cell, legend_above, number, open_frame
from captum_kd.benchmark.pairs.trained_pairs import PairKind
from captum_kd.metrics.localization import CEILING, RANDOM
from captum_kd.report.tables import Cell, Table

HEADING = "## Does separation follow how much the models differ?"
SHOWN = (
    RANDOM,
    "UniCAM, published objective",
    "UniCAM, recommended, no class evidence, signed",
    "UniCAM, recommended, signed",
    "Grad-CAM difference, signed",
    "integrated gradients difference, signed",
)
COLUMNS = 3
KINDS: dict[PairKind, dict[str, str]] = {
    "technique": {"marker": "o", "color": "0.25", "label": "student and base model"},
    "mixed": {"marker": "s", "color": "0.65", "label": "student and another base model"},
    "null": {"marker": "^", "color": "1.0", "label": "null pair"},
}


def reliance_section(points: Sequence[PairPoint], picture: str) -> list[str]:
    """The paragraphs of the section; the picture comes last.

    Args:
        points: The points of all pairs and methods.
        picture: The file name of the figure.
    """
    return [
        HEADING,
        "The *reliance difference* of a pair is ((changed without item, student - base model) + (changed "
        "without cue, base model - student)) / 2, from the table of what predictions depend on; it is "
        "halved as the separation is. The table shows its Spearman correlation with the mean separation "
        "over layers, for all pairs, including those whose truth does not hold. *within*: the mean of the "
        "correlations within each geometry and seed, to which differences between geometries add nothing. "
        "*distilled pairs*: all but null pairs. Random maps show how far chance reaches. A geometry whose "
        "cue has no location counts only in the last column, where the item's halves of both are compared.",
        "Intervals: 95 % bootstrap over geometries x seeds, each with all its pairs, which share models; "
        "with so few groups they are too narrow. *null pairs*: each in both orders, since which of two base"
        " models comes first is arbitrary; *p*: how often the correlation is as high if the separations of "
        "each geometry and seed get a random sign; *same sign*: the number of null pairs whose separation "
        "and reliance difference have the same sign.",
        reliance_table(points).to_markdown(),
        f"![Separation against reliance difference of every pair, for a few methods]({picture})",
    ]


def reliance_table(points: Sequence[PairPoint]) -> Table:
    """Rank correlations, methods x kinds of pairs."""
    lines = []
    for method in dict.fromkeys(point.method for point in points):
        if method == CEILING:  # the same for every pair
            continue
        null = correlate_null(select(points, method, ["null"]))
        cells = [
            interval_cell(*correlate(some, within=within)[:3])
            for some in (select(points, method), select(points, method, ["technique", "mixed"]))
            for within in (False, True)
        ]
        cells += [
            Cell(number(null.value), "" if math.isnan(null.p) else f"p {null.p:.3f}"),
            Cell(f"{null.same_sign} of {null.pairs}" if null.pairs else "-"),
            Cell(number(correlate(select(points, method, without_location=True), draws=0).value)),
        ]
        lines.append((method, cells))
    some = next(iter(lines))[0]
    every = len(select(points, some, without_location=True))
    counted, null_pairs = len(select(points, some)), len(select(points, some, ["null"]))
    heads = [
        "method",
        f"all {counted} pairs",
        "all, within",
        f"{counted - null_pairs} distilled pairs",
        "distilled, within",
        f"{null_pairs} null pairs",
        "same sign",
        f"{every} pairs, with item's halves",
    ]
    return Table("Rank correlation of separation with reliance difference", heads, lines)


def reliance_figure(points: Sequence[PairPoint]) -> Figure:
    """Separation against reliance difference: a panel for each of a few methods, a marker for each pair."""
    shown = [method for method in SHOWN if select(points, method)]
    rows = math.ceil(len(shown) / COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 0.8 + 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(shown) :]:
        axes.remove()
    for axes, method in zip(panels, shown, strict=False):
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.axvline(0, color="0.8", linewidth=0.8, zorder=0)
        for kind, style in KINDS.items():
            chosen = select(points, method, [kind])
            axes.scatter(
                [p.difference for p in chosen],
                [p.separation for p in chosen],
                s=30,
                edgecolors="0.0",
                linewidths=0.8,
                **style,
            )
        found = correlate(select(points, method), draws=0)
        axes.set_title(f"{method}\nrank correlation {number(found.value)}", fontsize=9)
        axes.tick_params(labelbottom=True)
        open_frame(axes)
    figure.supxlabel("reliance difference: how much more the student relies on the item", fontsize=10)
    figure.supylabel("separation, mean over layers", fontsize=10)
    legend_above(figure, panels[0], columns=len(KINDS))
    return figure
