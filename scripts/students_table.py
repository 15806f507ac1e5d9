"""Print the models of distillation runs as Markdown tables: mean and standard deviation over folds.

python scripts/students_table.py RUN [RUN ...]
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click

from captum_kd.distill.run_folder import read_run
from captum_kd.report.tables import Cell, Table


@click.command()
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
def main(runs: tuple[Path, ...]) -> None:
    """Print one table for each of the folders RUNS."""
    for run in runs:
        record = read_run(run)
        stages, data = record["stages"], record["data"]
        measures = list(stages[0]["test"])
        rows = []
        for name in dict.fromkeys(stage["name"] for stage in stages):
            found = [stage for stage in stages if stage["name"] == name]
            cells = [_cell([stage["test"][measure] for stage in found]) for measure in measures]
            rows.append((name, [Cell(found[0]["architecture"]), *cells]))
        folds, trained, tested = record["arguments"]["folds"], data["training_images"], data["test_images"]
        caption = f"{data['name']}: {trained} images in {folds} folds, tested on {tested}"
        heads = ["model", "architecture", *(measure.replace("_", " ") for measure in measures)]
        click.echo(Table(caption, heads, rows).to_markdown() + "\n")


def _cell(values: list[float]) -> Cell:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return Cell(f"{statistics.mean(values):.3f}{spread}")


if __name__ == "__main__":
    main()
