"""What the demo writes: figures, tables, the page, and all numbers as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from captum_kd._version import versions
from captum_kd.attr.methods import METHODS, maps_in_batches, upsample
from captum_kd.datasets.demo_pair import FASHION_MNIST_CLASSES
from captum_kd.datasets.planted_cue import CUE_AGREEMENT
from captum_kd.demo.experiment import (
    COMPARED,
    KEPT_SHARE,
    LAYERS,
    PERTURBED_COUNT,
    PUBLISHED,
    REFERENCE_COUNT,
    Experiment,
    ScoreRow,
)
from captum_kd.metrics.localization import CEILING, PARTS, RANDOM, Separation
from captum_kd.report.page import png, render_page
from captum_kd.report.tables import Cell, Table, score_cell
from captum_kd.visualization import Outline, plot_intervals, plot_maps

SHOWN = 8
SHOWN_LAYER = "layer3"
RECOMMENDED = "UniCAM, recommended"


def write_outcome(experiment: Experiment, folder: Path) -> Path:
    """Write ``report.html``, ``maps.png``, ``separation.png``, ``tables.md`` and ``results.json``.

    Args:
        experiment: The experiment that was run.
        folder: The folder to write to; it is made if it does not exist.

    Returns:
        The path of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    maps, separation = maps_figure(experiment), separation_figure(experiment)
    tables = all_tables(experiment)
    (folder / "maps.png").write_bytes(png(maps))
    (folder / "separation.png").write_bytes(png(separation))
    (folder / "tables.md").write_text("\n\n".join(t.to_markdown() for t in tables.values()) + "\n", "utf-8")
    (folder / "results.json").write_text(json.dumps(records(experiment), indent=1) + "\n", "utf-8")
    page = render_page(
        "demo.html",
        **tables,
        maps_figure=maps,
        separation_figure=separation,
        maps_alt=f"Eight images with maps of {SHOWN_LAYER} by each method, item and cue outlined",
        layer=SHOWN_LAYER,
        # A cue that is drawn at random can name the label by chance, too.
        agreement=CUE_AGREEMENT + (1 - CUE_AGREEMENT) / len(FASHION_MNIST_CLASSES),
        scored=len(experiment.inputs),
        reference=REFERENCE_COUNT,
        perturbed=PERTURBED_COUNT,
        kept_share=KEPT_SHARE,
        ceiling_auc=f"{_of_layers(experiment, CEILING, 'auc')[0].separation:.2f}",
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )
    report = folder / "report.html"
    report.write_text(page, "utf-8")
    return report


def all_tables(experiment: Experiment) -> dict[str, Table]:
    """The tables of the page, by their names in its template."""
    return {
        "predictions": predictions_table(experiment),
        "auc_table": separation_table(experiment, "auc", "Separation by ranking AUC"),
        "energy_table": separation_table(experiment, "energy", "Separation by share of positive energy"),
        "parts_table": parts_table(experiment, RECOMMENDED),
        "score_table": score_table(experiment.scores, "FSS and RS of globally pooled features"),
        "kept_table": score_table(
            experiment.kept, f"RS of images reduced to {100 * KEPT_SHARE:.0f} % of their pixels by ROAD"
        ),
    }


def predictions_table(experiment: Experiment) -> Table:
    """Which models follow the item, and which the cue."""
    rows = []
    for p in experiment.predictions:
        test = experiment.models.tested[p.model]
        cells = [p.accuracy, p.cue_agreement, test["accuracy"], test["cue_agreement"]]
        rows.append((p.model, [Cell(f"{value:.3f}") for value in cells]))
    count, full = experiment.predictions[0].samples, experiment.models.training["data"]["test_images"]
    return Table(
        "Accuracy, and how often the prediction is the class of the cue (chance: 0.1)",
        [
            "model",
            f"accuracy, {count} images",
            f"predicts the cue, {count} images",
            f"accuracy, {full} images",
            f"predicts the cue, {full} images",
        ],
        rows,
    )


def separation_table(experiment: Experiment, measure: str, caption: str) -> Table:
    """The separation of each method at each layer and on average."""
    rows = []
    for method in [RANDOM, *COMPARED, CEILING]:
        found = _of_layers(experiment, method, measure)
        cells = [Cell(f"{r.separation:.3f}", f"{r.low:.3f} to {r.high:.3f}") for r in found]
        mean = sum(r.separation for r in found) / len(found)
        rows.append((method, [*cells, Cell(f"{mean:.3f}")]))
    best = max((r for r in rows if r[0] != CEILING), key=lambda r: float(r[1][-1].value))[0]
    return Table(caption, ["method", *LAYERS, "mean"], rows, best)


def parts_table(experiment: Experiment, method: str) -> Table:
    """The four areas under the curve that a method's separation is made of."""
    found = _of_layers(experiment, method, "auc")
    return Table(
        f"{method}: what the separation is made of (ranking AUC; 0.5: chance)",
        ["maps, region", *LAYERS],
        [(part, [Cell(f"{r.parts[part]:.3f}") for r in found]) for part in PARTS],
    )


def score_table(rows: list[ScoreRow], caption: str) -> Table:
    """A row for each quantity and a column for each layer, with interval and null in small print."""
    cells = {(quantity, layer): score_cell(score) for quantity, layer, score in rows}
    quantities, layers = (dict.fromkeys(key[i] for key in cells) for i in range(2))
    return Table(
        caption,
        ["quantity", *layers],
        [(quantity, [cells.get((quantity, layer), Cell("")) for layer in layers]) for quantity in quantities],
    )


def maps_figure(experiment: Experiment) -> Figure:
    """Images, Grad-CAMs, their difference, and UniCAM as published and as recommended."""
    truth, layer = experiment.planted, LAYERS.index(SHOWN_LAYER)
    size = (truth.images.shape[2], truth.images.shape[3])
    few, labels = experiment.inputs[:SHOWN], truth.labels[:SHOWN]
    columns = {}
    models = maps_in_batches(METHODS["Grad-CAM"], experiment.pair.only([layer]), few, labels)[0]
    for name, maps in zip(("Grad-CAM\nstudent", "Grad-CAM\nbase"), models, strict=True):
        columns[name] = upsample(maps, size)
    distilled, residual = experiment.maps["Grad-CAM difference"][layer]
    columns["Grad-CAM\ndifference"] = upsample((distilled - residual)[:SHOWN], size)
    for method, title in ((PUBLISHED, "published"), (RECOMMENDED, "recommended")):
        for side, maps in zip(("distilled", "residual"), experiment.maps[method][layer], strict=True):
            columns[f"UniCAM\n{title}\n{side}"] = upsample(maps[:SHOWN], size)
    names = list(columns)
    items, cues = (
        [FASHION_MNIST_CLASSES[i] for i in classes[:SHOWN]] for classes in (truth.labels, truth.cues)
    )
    figure, _ = plot_maps(
        truth.images[:SHOWN].float() / 255,
        columns,
        shared=[names[0:2], names[3:5], names[5:7]],
        outlines=[
            Outline(truth.item_masks[:SHOWN], "item (the label)", "#19d3f3"),
            Outline(truth.cue_masks[:SHOWN], "cue (the shortcut)", "#7CFC00", ":"),
        ],
        row_titles=[f"{item}\ncue: {cue}" for item, cue in zip(items, cues, strict=True)],
    )
    return figure


def separation_figure(experiment: Experiment) -> Figure:
    """Separation by ranking AUC with intervals."""
    series = {
        method: [(r.separation, r.low, r.high) for r in _of_layers(experiment, method, "auc")]
        for method in (RANDOM, *COMPARED)
    }
    ceiling = _of_layers(experiment, CEILING, "auc")[0].separation
    figure, _ = plot_intervals(
        series,
        LAYERS,
        ylabel="separation (ranking AUC)",
        lines={CEILING: ceiling},
        title="Do distilled maps lie on the item, and residual maps on the cue?",
    )
    return figure


def summary(experiment: Experiment) -> str:
    """The main numbers on one screen of the terminal."""
    lines = ["Separation of distilled and residual maps (ranking AUC; 0: no better than noise)"]
    lines.append(f"  {'':33s}" + "".join(f"{layer:>9s}" for layer in LAYERS) + f"{'mean':>9s}")
    for method in [RANDOM, *COMPARED, CEILING]:
        values = [r.separation for r in _of_layers(experiment, method, "auc")]
        cells = "".join(f"{v:9.3f}" for v in [*values, sum(values) / len(values)])
        lines.append(f"  {method:33s}{cells}")
    lines.append("")
    lines.append("FSS (biased) and RS (bias-corrected; permuted labels give about 0)")
    for quantity in dict.fromkeys(row.quantity for row in experiment.scores):
        values = [row.score.value for row in experiment.scores if row.quantity == quantity]
        lines.append(f"  {quantity:33s}" + "".join(f"{v:9.3f}" for v in values))
    lines.append("")
    for p in experiment.predictions:
        lines.append(f"  {p.model:8s} accuracy {p.accuracy:.3f}, predicts the cue {p.cue_agreement:.3f}")
    return "\n".join(lines)


def records(experiment: Experiment) -> dict[str, Any]:
    """All numbers as plain records."""
    return {
        "versions": versions(),
        "reference_images": REFERENCE_COUNT,
        "training": experiment.models.training,
        "predictions": [p._asdict() for p in experiment.predictions],
        "localization": [
            {"method": method, "layer": layer, **asdict(found)}
            for (method, layer, _), found in experiment.separations.items()
        ],
        "scores": [_flat(row) for row in experiment.scores],
        "kept": [_flat(row) for row in experiment.kept],
    }


def _flat(row: ScoreRow) -> dict[str, Any]:
    return {"quantity": row.quantity, "layer": row.layer, **row.score._asdict()}


def _of_layers(experiment: Experiment, method: str, measure: str) -> list[Separation]:
    return [experiment.separations[method, layer, measure] for layer in LAYERS]
