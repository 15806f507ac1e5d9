"""What the localization benchmark writes: all numbers as JSON, tables as Markdown, figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

from matplotlib.figure import Figure

from captum_kd.benchmark.localization.localize import LocalizationRow
from captum_kd.benchmark.localization.methods import CHOSEN_ON
from captum_kd.benchmark.localization.parts import Part, part_record
from captum_kd.benchmark.localization.reliance import FEWEST, PairPoint, pair_points
from captum_kd.benchmark.localization.reliance_page import reliance_figure, reliance_section
from captum_kd.benchmark.localization.summary import Estimate, Findings, findings, means_by_place, over_pairs
from captum_kd.benchmark.output import (
    interval_cell,
    legend_above,
    made_by,
    number,
    open_frame,
    write_page,
    write_record,
)
from captum_kd.benchmark.pairs.truth import RULE
from captum_kd.metrics.localization import CEILING, PARTS, RANDOM
from captum_kd.report.page import png
from captum_kd.report.tables import Cell, Table

LAYER_MARKERS = ("o", "s", "^", "D")
RELIANCE_PICTURE = "reliance.png"
LAYER_GREYS = ("0.75", "0.55", "0.35", "0.0")


def write_outcome(parts: Sequence[Part], folder: Path, command: str) -> Path:
    """Write ``results.json``, ``results.md``, ``separation.png`` and, from three pairs on, ``reliance.png``.

    Args:
        parts: The parts that were measured; at least one.
        folder: The folder to write to; it is made if it does not exist.
        command: The command that made the results.

    Returns:
        The path of ``results.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records = [part_record(part) for part in parts]
    write_record(folder / "results.json", command, rule=RULE, parts=records)
    (folder / "separation.png").write_bytes(png(separation_figure(parts)))
    points = pair_points(parts)
    if _are_related(points):
        (folder / RELIANCE_PICTURE).write_bytes(png(reliance_figure(points)))
    return write_page(folder / "results.md", results_page(parts, command))


def results_page(parts: Sequence[Part], command: str) -> list[str]:
    """The paragraphs of the page: the tables, with what is needed to read them."""
    found = findings(parts)
    points = pair_points(parts)
    counted = len({(r.geometry, r.seed, r.pair) for r in found.rows["technique"]})
    out = "; ".join(f"{geometry} seed {seed} {pair}" for geometry, seed, pair in found.left_out) or "none"
    lines = [
        "# Do maps point where knowledge went?",
        made_by(command),
        "0: the maps know nothing; perfect masks show both regions exactly. Each value is the mean over "
        "layers and over pairs (techniques x seeds), with a 95 % t interval over pairs. For a geometry "
        "whose cue has no location, only the item's half of the separation counts. *other base*: the "
        "response-distilled student with base models of another width and of another architecture (a "
        "RegNet). *null*: pairs of base models, between which nothing was distilled; in brackets, the "
        "geometry and layer farthest from 0. *lowest*: the lowest mean over pairs at any geometry and "
        "layer. *unseen*: the geometries that the recommended maps were not chosen on (all but "
        f"{' and '.join(CHOSEN_ON)}).",
        separation_table(parts, found).to_markdown(),
        "![Separation of every method, geometry and layer](separation.png)",
        parts_table(found).to_markdown(),
        layers_table(found).to_markdown(),
        "## Is the truth what it is meant to be?",
        f"{RULE} {counted} pairs count. Left out: {out}.",
        truth_table(parts).to_markdown(),
        probe_table(parts).to_markdown(),
    ]
    if _are_related(points):
        lines += reliance_section(points, RELIANCE_PICTURE)
    return lines


def separation_table(parts: Sequence[Part], found: Findings) -> Table:
    """The main result: separation by ranking AUC, methods x geometries."""
    geometries = dict.fromkeys(part.geometry for part in parts)
    rows, mixed, null = (found.rows[kind] for kind in ("technique", "mixed", "null"))
    unseen = [row for row in rows if row.geometry not in CHOSEN_ON]
    lines = []
    for method in methods_of(parts):
        cells = [_cell(over_pairs(rows, method=method, geometry=geometry)) for geometry in geometries]
        worst = min(means_by_place(rows, method), default=None)
        cells += [
            _cell(over_pairs(rows, method=method)),
            _cell(over_pairs(unseen, method=method)),
            Cell("-") if worst is None else Cell(number(worst[0]), f"{worst[1]}, {worst[2]}"),
            _cell(over_pairs(mixed, method=method)),
            Cell("-") if method == CEILING else _null_cell(null, method),
        ]
        lines.append((method, cells))
    heads = ["method", *geometries, "mean", "mean, unseen", "lowest", "other base", "null"]
    return Table("Separation by ranking AUC", heads, lines)


def parts_table(found: Findings) -> Table:
    """The parts of the separation where the cue has a location, and the other measures."""
    rows = [row for row in found.rows["technique"] if len(row.parts) == len(PARTS)]
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        cells = [
            _value(over_pairs(rows, method=method, quantity=partial(_part, part=part))) for part in PARTS
        ]
        cells += [_value(over_pairs(rows, method=method, measure=m)) for m in ("energy", "pointing")]
        cells += [
            _value(over_pairs(rows, method=method, quantity=attrgetter(side)))
            for side in ("zero_distilled", "zero_residual")
        ]
        lines.append((method, cells))
    heads = ["method", *PARTS, "separation by energy", "by pointing game", "zero distilled", "zero residual"]
    return Table("Ranking AUC of each map on each region, and other measures", heads, lines)


def layers_table(found: Findings) -> Table:
    """Separation by ranking AUC, methods x layers, over all geometries."""
    rows = found.rows["technique"]
    layers = dict.fromkeys(row.layer for row in rows)
    lines = [
        (method, [_cell(over_pairs(rows, method=method, layer=layer)) for layer in layers])
        for method in dict.fromkeys(row.method for row in rows)
    ]
    return Table("Separation by ranking AUC at each layer", ["method", *layers], lines)


def truth_table(parts: Sequence[Part]) -> Table:
    """What each model follows."""
    lines = []
    for part in parts:
        for t in part.truths:
            values = (t.accuracy, t.cue_agreement, t.changed_without_item, t.changed_without_cue)
            name = f"{part.geometry}, seed {part.seed}, {t.model}"
            lines.append((name, [*(Cell(number(value)) for value in values), Cell(t.led_by())]))
    heads = ["model", "accuracy", "predicts the cue", "changed without item", "changed without cue", "led by"]
    return Table("What predictions depend on, on decorrelated images (chance: 0.10)", heads, lines)


def probe_table(parts: Sequence[Part]) -> Table:
    """What linear classifiers can read from each layer."""
    # Layers are matched by their order, since every architecture has its own names for them.
    stages = max(len(t.probes) for part in parts for t in part.truths)
    lines = [
        (
            f"{part.geometry}, seed {part.seed}, {t.model}",
            [Cell(f"{number(probe.item)} / {number(probe.cue)}") for probe in t.probes],
        )
        for part in parts
        for t in part.truths
    ]
    caption = "Accuracy of linear probes of globally pooled features: item / cue (chance: 0.10)"
    return Table(caption, ["model", *(f"stage {i}" for i in range(1, stages + 1))], lines)


def separation_figure(parts: Sequence[Part]) -> Figure:
    """A panel for each geometry: methods from top to bottom, a marker for each layer."""
    found = findings(parts)
    rows, null = found.rows["technique"], found.rows["null"]
    methods = methods_of(parts)
    geometries = list(dict.fromkeys(part.geometry for part in parts))
    layers = list(dict.fromkeys(row.layer for part in parts for row in part.rows))
    figure = Figure(figsize=(2.6 + 1.9 * len(geometries), 1.4 + 0.3 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(geometries), sharey=True, sharex=True, squeeze=False)[0]
    heights = range(len(methods) - 1, -1, -1)
    for axes, geometry in zip(panels, geometries, strict=True):
        for layer, marker, grey in zip(layers, LAYER_MARKERS, LAYER_GREYS, strict=False):
            values = [over_pairs(rows, method=m, geometry=geometry, layer=layer) for m in methods]
            x = [e.mean if e is not None else math.nan for e in values]
            axes.plot(x, heights, marker, color=grey, markeredgecolor="0.0", markersize=5, label=layer)
        nulls = [None if m == CEILING else over_pairs(null, method=m, geometry=geometry) for m in methods]
        if any(e is not None for e in nulls):
            x = [e.mean if e is not None else math.nan for e in nulls]
            axes.plot(x, heights, "|", color="0.0", markersize=9, label="null pairs (mean of layers)")
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.grid(axis="y", color="0.9", linewidth=0.6)
        axes.set_title(geometry, fontsize=10)
        open_frame(axes)
    panels[0].set_yticks(list(heights), methods)
    figure.supxlabel("separation (ranking AUC), mean over pairs", fontsize=10)
    columns = 3 if len(geometries) < 3 else len(layers) + 1
    legend_above(figure, panels[0], columns, fontsize=8, loc="outside upper right")
    return figure


def methods_of(parts: Sequence[Part]) -> list[str]:
    """The methods in their order, random maps first and perfect masks last."""
    names = dict.fromkeys(row.method for part in parts for row in part.rows)
    return [RANDOM, *(name for name in names if name not in (RANDOM, CEILING)), CEILING]


def _are_related(points: Sequence[PairPoint]) -> bool:
    """Whether there are enough pairs for a correlation."""
    return len({(p.geometry, p.seed, p.pair) for p in points if p.cue_has_location}) >= FEWEST


def _part(row: LocalizationRow, part: str) -> float:
    return row.parts[part]


def _cell(estimate: Estimate | None) -> Cell:
    return Cell("-") if estimate is None else interval_cell(estimate.mean, estimate.low, estimate.high)


def _value(estimate: Estimate | None) -> Cell:
    return Cell("-" if estimate is None else number(estimate.mean))


def _null_cell(rows: Sequence[LocalizationRow], method: str) -> Cell:
    """The mean, with the geometry and layer that are farthest from 0."""
    estimate, places = over_pairs(rows, method=method), means_by_place(rows, method)
    if estimate is None:
        return Cell("-")
    value, geometry, layer = max(places, key=lambda place: abs(place[0]))
    return Cell(number(estimate.mean), f"{number(value)} at {geometry}, {layer}")
