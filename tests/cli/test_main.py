"""The group of all commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from captum_kd import __version__
from captum_kd.cli.main import main


def test_help_names_the_commands() -> None:
    output = CliRunner().invoke(main, ["--help"]).output
    for command in ("benchmark", "demo", "distill", "explain", "layers"):
        assert f"\n  {command} " in output


def test_the_version_is_the_package_s() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.endswith(f"version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["layers", "some_module:build"], True),
        (["explain", "run", "--architecture=some.module:build"], True),
        (["explain", "run"], False),
        (["layers", "resnt18"], False),
        (["explain", "--images", "C:photos\\new"], False),
    ],
)
def test_modules_in_the_working_folder_are_found_only_for_a_factory_that_is_named(
    arguments: list[str], found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert CliRunner().invoke(main, arguments).exit_code != 0
    assert (str(tmp_path) in sys.path) == found
