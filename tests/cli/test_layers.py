"""The command captum-kd layers."""

from __future__ import annotations

import re

from click.testing import CliRunner

from captum_kd.cli.main import main


def test_layers_are_listed_with_their_shapes() -> None:
    result = CliRunner().invoke(main, ["layers", "small_resnet4", "--image-size", "32"])
    assert result.exit_code == 0
    assert re.search(r"^layer2 +8 x 8 x 8$", result.output, re.M)


def test_an_unknown_architecture_is_an_error_with_near_names() -> None:
    missing = CliRunner().invoke(main, ["layers", "resnt18"])
    assert missing.exit_code == 1
    assert "Near matches" in missing.output
