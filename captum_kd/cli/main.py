"""The command ``captum-kd``: the group of all commands."""

from __future__ import annotations

import os
import sys

import click

from captum_kd._version import __version__
from captum_kd.cli.benchmark import benchmark
from captum_kd.cli.demo import demo
from captum_kd.cli.distill import distill
from captum_kd.cli.explain import explain
from captum_kd.cli.layers import layers


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Explain what knowledge distillation changed in a model."""
    # As `python -m` does, so that package.module:factory is found in the working folder.
    sys.path.append(os.getcwd())


for _command in (benchmark, demo, distill, explain, layers):
    main.add_command(_command)
