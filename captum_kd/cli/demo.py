"""The command ``captum-kd demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from captum_kd.cli.errors import explained_errors


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("captum-kd-demo"),
    show_default=True,
    help="Folder for the report, the figures and the numbers.",
)
def demo(out: Path) -> None:
    """Explain a distilled student on embedded images with a known truth (offline, under a minute)."""
    hint = f"Could not write to {out}; choose another folder with --out."
    with explained_errors(hint):
        out.mkdir(parents=True, exist_ok=True)  # now, not after half a minute of work
    # Here, because --help does not need them.
    import torch
    from tqdm import tqdm

    from captum_kd.demo.experiment import STEPS, steps
    from captum_kd.demo.outcome import summary, write_outcome

    start = time.perf_counter()
    # The operations are so small that on a busy machine a second thread slows them down severalfold.
    torch.set_num_threads(1)
    with tqdm(steps(), total=STEPS, unit="step", leave=False) as progress:
        for name, result in progress:
            progress.set_description(name)
            if result is not None:
                experiment = result
    with explained_errors(hint):
        report = write_outcome(experiment, out)
    click.echo(summary(experiment))
    click.echo(f"\n{time.perf_counter() - start:.0f} s. Open the report: {report.resolve().as_uri()}")
