"""The command ``captum-kd``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from captum_kd._version import __version__
from captum_kd.cli.benchmark import benchmark
from captum_kd.cli.distill import distill
from captum_kd.cli.errors import explained_errors
from captum_kd.cli.explain import explain


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Explain what knowledge distillation changed in a model."""
    # As `python -m` does, so that package.module:factory is found in the folder where one works.
    sys.path.append(os.getcwd())


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
    with explained_errors(f"Could not write to {out}; choose another folder with --out."):
        out.mkdir(parents=True, exist_ok=True)  # now, not after half a minute of work
    # Here, because --help does not need them.
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
            if result is not None:
                experiment = result
    with explained_errors(f"Could not write to {out}; choose another folder with --out."):
        report = write_outcome(experiment, out)
    click.echo(summary(experiment))
    click.echo(f"\n{time.perf_counter() - start:.0f} s. Open the report: {report.resolve().as_uri()}")


@main.command()
@click.argument("architecture", metavar="ARCH")
@click.option("--image-size", type=click.IntRange(8), default=224, show_default=True, help="In pixels.")
def layers(architecture: str, image_size: int) -> None:
    """List the layers of ARCH by name, with the shape that one image gives: channels x positions."""
    with explained_errors():
        from captum_kd.models.architectures import build_classifier, layer_shapes

        shapes = layer_shapes(build_classifier(architecture, 2), image_size)
    width = max(map(len, shapes), default=0)
    for name, shape in shapes.items():
        click.echo(f"{name:{width}s}  {' x '.join(map(str, shape))}")


main.add_command(benchmark)
main.add_command(distill)
main.add_command(explain)
