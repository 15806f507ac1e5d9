"""What the benchmark writes: all numbers as JSON, tables as Markdown, figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from captum_kd._version import versions
from captum_kd.benchmark.localization.localize import LocalizationRow
from captum_kd.benchmark.localization.methods import CEILING, CHOSEN_ON, RANDOM
from captum_kd.benchmark.localization.parts import Part, part_record
from captum_kd.benchmark.localization.reliance import FEWEST, PairPoint, pair_points
from captum_kd.benchmark.localization.reliance_page import reliance_figure, reliance_section
from captum_kd.benchmark.localization.summary import Estimate, Findings, findings, means_by_place, over_pairs
from captum_kd.benchmark.pairs.truth import RULE
from captum_kd.metrics.localization import PARTS
from captum_kd.report.page import png
from captum_kd.report.tables import Cell, Table

LAYER_MARKERS = ("o", "s", "^", "D")
RELIANCE_PICTURE = "reliance.png"
LAYER_GREYS = ("0.75", "0.55", "0.35", "0.0")


def write_outcome(parts: Sequence[Part], folder: Path, command: str) -> Path:
    """Write ``results.json``, ``results.md``, ``separation.png`` and, of three pairs on, ``reliance.png``.

    Args:
        parts: What was found; at least one.
        folder: Where to; made if missing.
        command: That made the results.

    Returns:
        The path of ``results.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "command": command,
        "versions": versions(),
        "rule": RULE,
        "parts": [part_record(part) for part in parts],
    }
    (folder / "results.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (folder / "separation.png").write_bytes(png(separation_figure(parts)))
    points = pair_points(parts)
    if _are_related(points):
        (folder / RELIANCE_PICTURE).write_bytes(png(reliance_figure(points)))
    page = folder / "results.md"
    page.write_text(results_page(parts, command), "utf-8")
    return page


def results_page(parts: Sequence[Part], command: str) -> str:
    """The tables with what is needed to read them."""
    found = findings(parts)
    points = pair_points(parts)
    counted = len({(r.geometry, r.seed, r.pair) for r in found.rows["technique"]})
    out = "; ".join(f"{geometry} seed {seed} {pair}" for geometry, seed, pair in found.left_out) or "none"
    lines = [
        "# Do maps point where knowledge went?",
        f"Made by `{command}` with {', '.join(f'{k} {v}' for k, v in versions().items())}.",
        "0: the maps know nothing; perfect masks: the most there is. Each value is the mean over layers "
        "and over pairs (techniques x seeds) with a 95 % t interval over pairs. A geometry whose cue has "
        "no place shows the item's half of the separation alone. *other base*: the response-distilled "
        "student with base models of another width and of another architecture (a RegNet). *null*: pairs "
        "of base models, between which nothing was distilled, with the place that is farthest from 0. "
        "*lowest*: the lowest mean over pairs at any geometry and layer. *unseen*: the geometries that "
        f"the recommended maps were not chosen on (all but {' and '.join(CHOSEN_ON)}).",
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
    return "\n\n".join(lines) + "\n"


def separation_table(parts: Sequence[Part], found: Findings) -> Table:
    """The headline: separation by ranking AUC, methods x geometries."""
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
            Cell("-") if worst is None else Cell(f"{_number(worst[0])}", f"{worst[1]}, {worst[2]}"),
            _cell(over_pairs(mixed, method=method)),
            Cell("-") if method == CEILING else _null_cell(null, method),
        ]
        lines.append((method, cells))
    heads = ["method", *geometries, "mean", "mean, unseen", "lowest", "other base", "null"]
    return Table("Separation by ranking AUC", heads, lines)


def parts_table(found: Findings) -> Table:
    """What the separation is made of, where the cue has a place, and the other measures."""
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
            lines.append((name, [*(Cell(_number(value)) for value in values), Cell(t.led_by())]))
    heads = ["model", "accuracy", "says the cue", "changed without item", "changed without cue", "led by"]
    return Table("What predictions depend on, where cues say nothing (chance: 0.10)", heads, lines)


def probe_table(parts: Sequence[Part]) -> Table:
    """What a linear classifier can read from each layer."""
    # By their order: an architecture has its own names for them.
    stages = max(len(t.probes) for part in parts for t in part.truths)
    lines = [
        (
            f"{part.geometry}, seed {part.seed}, {t.model}",
            [Cell(f"{_number(probe.item)} / {_number(probe.cue)}") for probe in t.probes],
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
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(list(heights), methods)
    figure.supxlabel("separation (ranking AUC), mean over pairs", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 3 if len(geometries) < 3 else len(labels)
    figure.legend(handles, labels, loc="outside upper right", ncols=columns, fontsize=8, frameon=False)
    return figure


def methods_of(parts: Sequence[Part]) -> list[str]:
    """The methods in order, random maps first and perfect masks last."""
    names = dict.fromkeys(row.method for part in parts for row in part.rows)
    return [RANDOM, *(name for name in names if name not in (RANDOM, CEILING)), CEILING]


def _are_related(points: Sequence[PairPoint]) -> bool:
    """Whether there are pairs enough for a correlation."""
    return len({(p.geometry, p.seed, p.pair) for p in points if p.cue_has_place}) >= FEWEST


def _part(row: LocalizationRow, part: str) -> float:
    return row.parts[part]


def _cell(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell("-")
    note = "" if math.isnan(estimate.low) else f"{_number(estimate.low)} to {_number(estimate.high)}"
    return Cell(_number(estimate.mean), note)


def _value(estimate: Estimate | None) -> Cell:
    return Cell("-" if estimate is None else _number(estimate.mean))


def _null_cell(rows: Sequence[LocalizationRow], method: str) -> Cell:
    """The mean, and the place that is farthest from 0."""
    estimate, places = over_pairs(rows, method=method), means_by_place(rows, method)
    if estimate is None:
        return Cell("-")
    value, geometry, layer = max(places, key=lambda place: abs(place[0]))
    return Cell(_number(estimate.mean), f"{_number(value)} at {geometry}, {layer}")


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # adding zero turns "-0.00" into "0.00"
