"""The command, small, from end to end; and what it keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from captum_kd.benchmark.localization.methods import LOCALIZATION_METHODS
from captum_kd.benchmark.localization.parts import Part, part_from_record, part_record, read_part, write_part
from captum_kd.benchmark.pairs.geometries import GEOMETRIES
from captum_kd.benchmark.pairs.trained_pairs import PAIRS
from captum_kd.benchmark.pairs.training import MODELS
from captum_kd.cli.benchmark import GEOMETRY_NAMES
from captum_kd.cli.main import main


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("benchmark")
    return folder, CliRunner().invoke(main, ["benchmark", "localization", "--out", str(folder)])


def test_names_of_geometries_are_those_that_exist() -> None:
    assert tuple(GEOMETRIES) == GEOMETRY_NAMES  # the command names them without importing torch


def test_small_run(outcome: tuple[Path, Result]) -> None:
    folder, result = outcome
    assert result.exit_code == 0, result.output
    assert "| UniCAM, uniqueness |" in result.output
    page = (folder / "results.md").read_text("utf-8")
    assert "Separation by ranking AUC" in page
    assert "Is the truth what it is meant to be?" in page
    assert "(separation.png)" in page
    assert (folder / "separation.png").stat().st_size > 10_000
    assert "reliance difference" not in page  # one pair has no correlation
    assert not (folder / "reliance.png").exists()


def test_numbers_are_those_of_the_page(outcome: tuple[Path, Result]) -> None:
    record = json.loads((outcome[0] / "results.json").read_text("utf-8"))
    assert set(record) == {"command", "versions", "rule", "parts"}
    part = part_from_record(record["parts"][0])
    assert {row.method for row in part.rows} > set(LOCALIZATION_METHODS)
    values = [r.separation for r in part.rows if (r.method, r.measure) == ("Grad-CAM difference", "auc")]
    line = f"| Grad-CAM difference | {sum(values) / 4:.2f} |"
    assert line in (outcome[0] / "results.md").read_text("utf-8")
    # What the demo says of these models, too: the student follows the item, the base model the cue as well.
    assert part.holds == {"response": True}


def test_maps_of_the_demo_pair_are_better_than_noise_but_not_perfect(outcome: tuple[Path, Result]) -> None:
    part = part_from_record(json.loads((outcome[0] / "results.json").read_text("utf-8"))["parts"][0])

    def mean(method: str) -> float:
        values = [r.separation for r in part.rows if (r.method, r.measure) == (method, "auc")]
        return sum(values) / len(values)

    assert abs(mean("random maps")) < 0.03
    assert 0.1 < mean("Grad-CAM difference") < mean("perfect masks")


def test_a_part_survives_its_file(outcome: tuple[Path, Result], tmp_path: Path) -> None:
    part = with_all_pairs(outcome[0])
    assert part_from_record(part_record(part)) == part
    write_part(tmp_path, part)
    assert read_part(tmp_path, "free", 0) == part
    fewer = part._replace(rows=[row for row in part.rows if row.method != "Grad-CAM"])
    write_part(tmp_path, fewer)
    assert read_part(tmp_path, "free", 0) is None  # made with other methods
    write_part(tmp_path, part._replace(pairs={"response": PAIRS["response"]}))
    assert read_part(tmp_path, "free", 0) is None  # made with other pairs
    assert read_part(tmp_path, "grid", 0) is None


def with_all_pairs(folder: Path) -> Part:
    """The part of a small run as if all pairs had been measured: each has the rows of its one pair.

    All models but the student follow what its base model does.
    """
    (record,) = json.loads((folder / "results.json").read_text("utf-8"))["parts"]
    part = part_from_record(record)
    rows = [replace(row, pair=name) for name in PAIRS for row in part.rows]
    known = {truth.model: truth for truth in part.truths}
    truths = [known.get(name, known["base_0"])._replace(model=name) for name in MODELS]
    return part._replace(truths=truths, pairs=PAIRS, holds=dict.fromkeys(PAIRS, True), rows=rows)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_resumed_run_keeps_finished_parts(
    outcome: tuple[Path, Result], tmp_path: Path, workers: str
) -> None:
    part = with_all_pairs(outcome[0])
    write_part(tmp_path, part)
    which = ["--size", "full", "--geometry", "free", "--seed", "0", "--workers", workers, "--resume"]
    result = CliRunner().invoke(main, ["benchmark", "localization", *which, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    after = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert [part_from_record(record) for record in after["parts"]] == [part]
    assert not (tmp_path / "models").exists()  # nothing was trained
    assert "(reliance.png)" in (tmp_path / "results.md").read_text("utf-8")
    assert (tmp_path / "reliance.png").stat().st_size > 10_000


def test_an_unknown_geometry_is_named() -> None:
    result = CliRunner().invoke(main, ["benchmark", "localization", "--geometry", "ring"])
    assert result.exit_code == 2
    assert "'ring' is not one of 'free', 'grid'" in result.output
