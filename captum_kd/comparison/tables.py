"""The tables of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from captum_kd.comparison.scores import MAIN_QUANTITIES, Record, find_score, scores_of
from captum_kd.comparison.settings import Settings
from captum_kd.report.tables import Cell, Table, score_cell


def accuracy_table(accuracy: Mapping[str, float | None], settings: Settings) -> Table:
    """The accuracy of each model."""
    rows = [
        (name, [Cell("not a classifier" if value is None else f"{value:.4f}")])
        for name, value in accuracy.items()
    ]
    return Table(f"Accuracy on the {settings.samples} scored images", ["model", "accuracy"], rows)


def summary_table(rows: Sequence[Record], settings: Settings) -> Table:
    """A row per student and layer: FSS and the four RS (as in the paper's Tables 1 and 2)."""
    several = len(settings.students) > 1
    lines = []
    for student in settings.students:
        for layer in settings.layers:
            scores = [find_score(rows, settings, quantity, layer, student) for quantity in MAIN_QUANTITIES]
            cells = [Cell(f"{score.value:.4f}") for score in scores]
            lines.append((f"{student}, {layer}" if several else layer, cells))
    caption = f"Scores on {settings.samples} images (FSS biased, RS bias-corrected)"
    return Table(caption, ["student, layer" if several else "layer", *MAIN_QUANTITIES], lines)


def scores_table(rows: Sequence[Record], settings: Settings, student: str) -> Table:
    """Every score of a student: a row per quantity, a column per layer."""
    scores = scores_of(rows, student)
    cells = {key: score_cell(score) for key, score in scores.items()}
    quantities = dict.fromkeys(quantity for quantity, _ in scores)
    lines = [(q, [cells.get((q, layer), Cell("")) for layer in settings.layers]) for q in quantities]
    percent = f"{100 * settings.confidence:g} %"
    caption = f"{student}: score, {percent} interval, and mean under permuted samples (the null)"
    return Table(caption, ["quantity", *settings.layers], lines)


def all_tables(
    rows: Sequence[Record], accuracy: Mapping[str, float | None], settings: Settings
) -> list[Table]:
    """Accuracies; for several students their RS side by side; and every score of each student."""
    return [
        accuracy_table(accuracy, settings),
        *([summary_table(rows, settings)] if len(settings.students) > 1 else []),
        *(scores_table(rows, settings, student) for student in settings.students),
    ]
