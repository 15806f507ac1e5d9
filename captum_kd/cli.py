"""The command ``captum-kd``."""

from __future__ import annotations

import time
from pathlib import Path

import click

import captum_kd
from captum_kd.distill.command import distill


@click.group()
@click.version_option(captum_kd.__version__)
def main() -> None:
    """Explain what knowledge distillation changed in a model."""


@main.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("captum-kd-demo"),
    show_default=True,
    help="Folder for the report, the figures and the numbers.",
)
def demo(out: Path) -> None:
    """Explain a distilled student on embedded images whose truth is known (offline, under a minute)."""
    # Here, because they take seconds to import and --help should not wait.
    import torch
    from tqdm import tqdm

    from captum_kd.demo.experiment import STEPS, steps
    from captum_kd.demo.outcome import summary, write_outcome

    start = time.perf_counter()
    # Its operations are so small that on a busy machine a second thread slows them down severalfold.
    torch.set_num_threads(1)
    with tqdm(steps(), total=STEPS, unit="step", leave=False) as progress:
        for name, result in progress:
            progress.set_description(name)
            experiment = result
    try:
        report = write_outcome(experiment, out)
    except OSError as error:
        raise click.ClickException(
            f"Could not write to {out}: {error}. Choose another folder with --out."
        ) from error
    click.echo(summary(experiment))
    click.echo(f"\n{time.perf_counter() - start:.0f} s. Open the report: {report.resolve().as_uri()}")


main.add_command(distill)
