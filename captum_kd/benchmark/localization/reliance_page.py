"""How far maps follow what models rely on: a table, a figure and what is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from captum_kd.benchmark.localization.methods import CEILING, RANDOM
from captum_kd.benchmark.localization.reliance import (
    PairPoint,
    RankCorrelation,
    correlate,
    correlate_null,
    select,
)
from captum_kd.benchmark.pairs.subjects import PairKind
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
    """The paragraphs of the section, the picture last."""
    return [
        HEADING,
        "The *reliance difference* of a pair is ((changed without item, student - base model) + (changed "
        "without cue, base model - student)) / 2, from the table of what predictions depend on; it is halved "
        "as the separation is. Of all pairs, also those whose truth does not hold: Spearman's correlation of "
        "it with the pair's mean separation over layers. *within*: the mean of the correlations within each "
        "geometry and seed, to which differences between geometries add nothing. *distilled pairs*: all but "
        "null pairs. Random maps show how far chance reaches. A geometry whose cue has no place counts in "
        "the last column alone, where the item's halves of both are compared.",
        "Intervals: 95 % bootstrap over geometries x seeds, each with all its pairs, which share models; of "
        "so few groups they are too narrow. *null pairs*: each in both orders, since it is arbitrary which "
        "of two base models comes first; *p*: how often the correlation is as high when the separations of "
        "geometries x seeds get random signs; *same sign*: of how many null pairs separation and reliance "
        "difference have one sign.",
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
            _cell(correlate(some, within=within))
            for some in (select(points, method), select(points, method, ["technique", "mixed"]))
            for within in (False, True)
        ]
        cells += [
            Cell(_number(null.value), "" if math.isnan(null.p) else f"p {null.p:.3f}"),
            Cell(f"{null.same_sign} of {null.pairs}" if null.pairs else "-"),
            Cell(_number(correlate(select(points, method, any_place=True), draws=0).value)),
        ]
        lines.append((method, cells))
    some = next(iter(lines))[0]
    every = len(select(points, some, any_place=True))
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
    """A panel for each of a few methods: separation against reliance difference, a marker for each pair."""
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
        axes.set_title(f"{method}\nrank correlation {_number(found.value)}", fontsize=9)
        axes.tick_params(labelbottom=True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("reliance difference: how much more the student goes by the item", fontsize=10)
    figure.supylabel("separation, mean over layers", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(KINDS), fontsize=9, frameon=False)
    return figure


def _cell(found: RankCorrelation) -> Cell:
    note = "" if math.isnan(found.low) else f"{_number(found.low)} to {_number(found.high)}"
    return Cell(_number(found.value), note)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"
