"""The command ``captum-kd``: the group of all commands."""

from __future__ import annotations

import os
import re
import sys

import click

from captum_kd._version import __version__
from captum_kd.cli.benchmark import benchmark
from captum_kd.cli.demo import demo
from captum_kd.cli.distill import distill
from captum_kd.cli.explain import explain
from captum_kd.cli.layers import layers

_FACTORY = re.compile(r"(?:--[\w-]+=)?[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class _Commands(click.Group):
    """The group; it lets Python find modules in the working folder only where an argument names a factory."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(map(_FACTORY.fullmatch, args)):
            # As `python -m` does; never otherwise, since the folder may be an archive that somebody sent.
            sys.path.append(os.getcwd())
        return super().parse_args(ctx, args)


@click.group(cls=_Commands)
@click.version_option(__version__)
def main() -> None:
    """Explain what knowledge distillation changed in a model."""


for _command in (benchmark, demo, distill, explain, layers):
    main.add_command(_command)
