"""What the sanity checks write: all numbers as JSON, tables as Markdown, and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from captum_kd.benchmark.output import interval_cell, made_by, open_frame, write_page, write_record
from captum_kd.benchmark.sanity.checks import ALL_LAYERS, SanityRow
from captum_kd.metrics.localization import RANDOM
from captum_kd.report.page import png
from captum_kd.report.tables import Cell, Table
from captum_kd.visualization.style import series_style

CAPTIONS = {
    "parameters": "Rank correlation with the original map if the student has fresh weights from the top to",
    "training": "Rank correlation with the original map if the student is trained anew without a teacher",
    "labels": "Rank correlation with the original map if the labels of images and reference are permuted",
    "inputs": "Rank correlation with another image's map",
    "reference": "Rank correlation of maps under two references that share no sample, by their size",
    "batch": "Rank correlation of maps in two batches without a reference, by their size",
    "insertion": "Selectivity if only this share of the pixels is kept (should be above 0)",
    "deletion": "Selectivity if this share of the pixels is removed (should be below 0)",
}
HORIZONTAL = {
    "parameters": "fresh weights from the top down to",
    "reference": "reference samples",
    "batch": "batch size, no reference",
    "insertion": "share of pixels kept",
    "deletion": "share of pixels removed",
}


def write_sanity(rows: Sequence[SanityRow], folder: Path, command: str) -> Path:
    """Write ``sanity.json``, ``sanity.md`` and ``sanity.png``.

    Args:
        rows: The rows of all checks.
        folder: The folder to write to; it is made if it does not exist.
        command: The command that made the rows.

    Returns:
        The path of ``sanity.md``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_record(folder / "sanity.json", command, rows=[row._asdict() for row in rows])
    (folder / "sanity.png").write_bytes(png(sanity_figure(rows)))
    tables = [sanity_table(rows, check) for check in dict.fromkeys(row.check for row in rows)]
    explained = (
        f"{made_by(command)} The values are means of layers, with 95 % intervals over images in brackets."
    )
    paragraphs = [explained, *(table.to_markdown() for table in [*tables, layers_table(rows)])]
    return write_page(folder / "sanity.md", paragraphs)


def sanity_table(rows: Sequence[SanityRow], check: str) -> Table:
    """One check: the mean of layers, methods x settings."""
    chosen = {(r.method, r.setting): r for r in rows if r.check == check and r.layer == ALL_LAYERS}
    methods, settings = (list(dict.fromkeys(key[i] for key in chosen)) for i in range(2))
    lines = [(m, [_cell(chosen[m, setting]) for setting in settings]) for m in methods]
    return Table(CAPTIONS[check], ["method", *settings], lines)


def layers_table(rows: Sequence[SanityRow]) -> Table:
    """How much is left of a map at each layer if the whole student is random."""
    chosen = [row for row in rows if row.check == "parameters" and row.layer != ALL_LAYERS]
    lowest = chosen[-1].setting
    found = {(r.method, r.layer): r for r in chosen if r.setting == lowest}
    methods, layers = (list(dict.fromkeys(key[i] for key in found)) for i in range(2))
    lines = [(m, [_cell(found[m, layer]) for layer in layers]) for m in methods]
    caption = "Rank correlation with the original map if the whole student is random, at each layer"
    return Table(caption, ["method", *layers], lines)


def sanity_figure(rows: Sequence[SanityRow]) -> Figure:
    """Means of layers with 95 % intervals over images: a panel for each check that has several settings."""
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
        open_frame(axes)
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
    return interval_cell(row.mean, row.low, row.high)
