"""The command captum-kd demo; tests/demo runs it to its end."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from captum_kd.cli.main import main


def test_a_folder_that_cannot_be_made_is_an_error_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "out")])
    assert blocked.exit_code == 1
    assert "choose another folder with --out" in blocked.output
