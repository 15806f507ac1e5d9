"""Scores at small n, and circularity, on few samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
from captum_kd.benchmark.scores.small_samples import circularity, score_sizes
from captum_kd.cli.main import main


def test_the_biased_estimator_is_high_at_small_n_whatever_the_data() -> None:
    rows = score_sizes(checked_demo_pair(64, 64), sizes=[8, 64], subsets=6)
    null = {(r.estimator, r.samples): r.null for r in rows if (r.quantity, r.features) == ("FSS", "pooled")}
    assert null["biased", 8] > 0.5 > null["biased", 64]
    assert abs(null["unbiased", 64]) < 0.1
    wide = [r for r in rows if r.quantity == "RS distilled" and r.features == "pooled"]
    assert wide[0].half_width > wide[1].half_width


def test_maps_that_know_labels_score_on_false_ones() -> None:
    found = {row.maps: row.score for row in circularity(checked_demo_pair(32, 128), batches=4)}
    assert found["labels, the batch itself"] > found["recommended, no class evidence"] + 0.05
    assert found["labels, disjoint reference"] > found["random maps"] + 0.05
    with pytest.raises(ValueError, match="a reference of at least 32 others"):
        circularity(checked_demo_pair(16, 32), batches=2)


def test_the_command_writes_numbers_tables_and_figure(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["benchmark", "scores", "--out", str(tmp_path), "--subsets", "2"])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert {row["maps"] for row in record["circularity"]} >= {"random maps", "recommended, no class evidence"}
    assert "Scores of random subsets" in (tmp_path / "scores.md").read_text("utf-8")
    assert (tmp_path / "score_sizes.png").stat().st_size > 10_000
