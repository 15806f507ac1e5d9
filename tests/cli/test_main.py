"""The group of all commands."""

from __future__ import annotations

from click.testing import CliRunner

from captum_kd import __version__
from captum_kd.cli.main import main


def test_help_names_the_commands() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for command in ("benchmark", "demo", "distill", "explain", "layers"):
        assert f"\n  {command} " in output


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.endswith(f"version {__version__}\n")
