"""The command ``captum-kd layers``."""

from __future__ import annotations

import click

from captum_kd.cli.errors import explained_errors


@click.command()
@click.argument("architecture", metavar="ARCH")
@click.option(
    "--image-size",
    type=click.IntRange(8),
    default=224,
    show_default=True,
    help="Height and width of the image in pixels.",
)
def layers(architecture: str, image_size: int) -> None:
    """List the layers of ARCH by name, with the shape of their output for one image: channels x positions.

    ARCH is a torchvision or timm name, or package.module:factory, whose code is imported and run.
    """
    with explained_errors():
        from captum_kd.models.architectures import build_classifier, layer_shapes

        shapes = layer_shapes(build_classifier(architecture, 2), image_size)
    width = max(map(len, shapes), default=0)
    for name, shape in shapes.items():
        click.echo(f"{name:{width}s}  {' x '.join(map(str, shape))}")
