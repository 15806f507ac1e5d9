"""What the sanity checks write: all numbers as JSON, tables as Markdown, one figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from captum_kd._version import versions
from captum_kd.benchmark.localization.methods import RANDOM
from captum_kd.benchmark.sanity.checks import ALL_LAYERS, SanityRow
from captum_kd.report.page import png
from captum_kd.report.tables import Cell, Table
from captum_kd.visualization.style import series_style

CAPTIONS = {
    "parameters": "Rank correlation with the original map, the student with fresh weights from the top to",
    "training": "Rank correlation with the original map, the student trained anew without a teacher",
    "labels": "Rank correlation with the original map when labels of images and reference are permuted",
    "inputs": "Rank correlation with another image's map",
    "reference": "Rank correlation of maps under two references without a common sample, by their size",
    "batch": "Rank correlation of maps in two batches without a reference, by their size",
    "insertion": "Selectivity when only this share of the pixels is kept (to be above 0)",
    "deletion": "Selectivity when this share of the pixels is taken away (to be below 0)",
}
HORIZONTAL = {
    "parameters": "fresh weights from the top down to",
    "reference": "reference samples",
    "batch": "batch size, no reference",
    "insertion": "share of pixels kept",
    "deletion": "share of pixels taken away",
}


def write_sanity(rows: Sequence[SanityRow], folder: Path, command: str) -> Path:
    """Write ``sanity.json``, ``sanity.md`` and ``sanity.png``; returns the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"command": command, "versions": versions(), "rows": [row._asdict() for row in rows]}
    (folder / "sanity.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (folder / "sanity.png").write_bytes(png(sanity_figure(rows)))
    parts = [f"Made by `{command}`. Means of layers; in brackets 95 % intervals over images."]
    parts += [sanity_table(rows, check).to_markdown() for check in dict.fromkeys(row.check for row in rows)]
    parts.append(layers_table(rows).to_markdown())
    page = folder / "sanity.md"
    page.write_text("\n\n".join(parts) + "\n", "utf-8")
    return page


def sanity_table(rows: Sequence[SanityRow], check: str) -> Table:
    """One check: methods x settings, in the mean of layers."""
    chosen = {(r.method, r.setting): r for r in rows if r.check == check and r.layer == ALL_LAYERS}
    methods, settings = (list(dict.fromkeys(key[i] for key in chosen)) for i in range(2))
    lines = [(m, [_cell(chosen[m, setting]) for setting in settings]) for m in methods]
    return Table(CAPTIONS[check], ["method", *settings], lines)


def layers_table(rows: Sequence[SanityRow]) -> Table:
    """At each layer: how much is left of a map when the whole student is random."""
    chosen = [row for row in rows if row.check == "parameters" and row.layer != ALL_LAYERS]
    lowest = chosen[-1].setting
    found = {(r.method, r.layer): r for r in chosen if r.setting == lowest}
    methods, layers = (list(dict.fromkeys(key[i] for key in found)) for i in range(2))
    lines = [(m, [_cell(found[m, layer]) for layer in layers]) for m in methods]
    caption = "Rank correlation with the original map when the whole student is random, at each layer"
    return Table(caption, ["method", *layers], lines)


def sanity_figure(rows: Sequence[SanityRow]) -> Figure:
    """A panel a check that has several settings; means of layers with 95 % intervals over images."""
    checks = [check for check in HORIZONTAL if any(row.check == check for row in rows)]
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    methods = [RANDOM, *dict.fromkeys(row.method for row in rows if row.method != RANDOM)]
    for axes, check in zip(panels, checks, strict=False):
        chosen = [row for row in rows if row.check == check and row.layer == ALL_LAYERS]
        settings = list(dict.fromkeys(row.setting for row in chosen))
        for i, method in enumerate(methods):
            of_method = [row for row in chosen if row.method == method]
            if not of_method:
                continue
            colour, marker = series_style(i)
            x = [settings.index(row.setting) + (i - 2) * 0.06 for row in of_method]
            y = [row.mean for row in of_method]
            error = [row.high - row.mean for row in of_method]
            axes.errorbar(
                x, y, yerr=error, color=colour, marker=marker, markersize=5, capsize=2, label=method
            )
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xticks(range(len(settings)), settings)
        axes.set_xlabel(HORIZONTAL[check])
        axes.set_ylabel("selectivity" if check in ("insertion", "deletion") else "rank correlation of maps")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title({"batch": "re-batching", "reference": "stability"}.get(check, check), fontsize=10)
    for axes in panels[len(checks) :]:
        axes.axis("off")
    known = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    panels[-1].legend(
        [known[m] for m in methods if m in known],
        [m for m in methods if m in known],
        loc="center",
        fontsize=10,
        frameon=False,
    )
    return figure


def _cell(row: SanityRow) -> Cell:
    if math.isnan(row.mean):
        return Cell("-")
    low, mean, high = (f"{round(value, 2) + 0.0:.2f}" for value in (row.low, row.mean, row.high))
    return Cell(mean, f"{low} to {high}")
