"""The demo from end to end, on its real images and models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from captum_kd.attr.methods import METHODS
from captum_kd.cli.main import main
from captum_kd.demo.experiment import (
    COMPARED,
    LAYERS,
    PUBLISHED,
    SCORED_COUNT,
    STEPS,
    Experiment,
    separate,
    steps,
)
from captum_kd.demo.outcome import summary, write_outcome


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    named = list(steps())
    assert len(named) == STEPS
    return named[-1][1]


def separations(experiment: Experiment, method: str, measure: str = "auc") -> dict[str, float]:
    found = {layer: experiment.separations[method, layer, measure] for layer in LAYERS}
    assert all(r.low <= r.separation <= r.high and r.samples == SCORED_COUNT for r in found.values())
    return {layer: r.separation for layer, r in found.items()}


def test_the_truth_holds(experiment: Experiment) -> None:
    """The student follows the item, the base model the cue: the premise of everything else."""
    found = {p.model: p for p in experiment.predictions}
    assert found["student"].accuracy > found["base"].accuracy + 0.15
    assert found["student"].cue_agreement < 0.17 < 0.3 < found["base"].cue_agreement


def test_random_maps_separate_nothing_and_perfect_masks_everything(experiment: Experiment) -> None:
    assert all(abs(v) < 0.05 for v in separations(experiment, "random maps").values())
    assert all(v == pytest.approx(1) for v in separations(experiment, "perfect masks", "energy").values())
    assert all(v > 0.5 for v in separations(experiment, "perfect masks").values())


def test_recommended_maps_separate_everywhere_and_the_published_objective_hardly_does(
    experiment: Experiment,
) -> None:
    theirs = separations(experiment, "UniCAM, published objective")
    assert max(theirs.values()) < 0.2
    ours, signed, uniqueness, gradients = (
        separations(experiment, name)
        for name in (
            "UniCAM, recommended",
            "UniCAM, recommended, signed",
            "UniCAM, uniqueness",
            "gradient x activation difference",
        )
    )
    for layer in LAYERS:
        assert signed[layer] > ours[layer] > gradients[layer]
    assert sum(signed.values()) > sum(ours.values()) > sum(uniqueness.values()) > sum(gradients.values())


def test_parts_make_up_the_separation(experiment: Experiment) -> None:
    for row in experiment.separations.values():
        item_d, item_r, cue_d, cue_r = row.parts.values()
        assert row.separation == pytest.approx((item_d - item_r + cue_r - cue_d) / 2, abs=1e-6)


def test_scores_tell_item_from_cue(experiment: Experiment) -> None:
    late = {row.quantity: row.score for row in experiment.scores if row.layer == "layer4"}
    assert late["RS(item) distilled"].low > late["RS(item) residual"].high
    assert late["RS(cue) residual"].low > late["RS(cue) distilled"].high
    for row in experiment.scores + experiment.kept:
        assert row.score.low <= row.score.value <= row.score.high
        if row.quantity.startswith("RS"):
            assert abs(row.score.null) < 0.02


def test_maps_by_swapped_models_have_it_the_wrong_way_round(experiment: Experiment) -> None:
    pair = experiment.pair
    swapped = replace(pair, student=pair.base, base=pair.student)
    labels = experiment.planted.labels[:32]
    maps = METHODS["UniCAM, recommended"].maps(swapped, experiment.inputs[:32], labels)
    truth = type(experiment.planted)(*(value[:32] for value in experiment.planted))
    assert separate({"swapped": maps}, truth)["swapped", "layer4", "auc"].separation < -0.2


@pytest.fixture(scope="module")
def folder(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "new" / "folder"
    assert write_outcome(experiment, path) == path / "report.html"
    return path


def test_the_page_is_self_contained_and_holds_every_number(experiment: Experiment, folder: Path) -> None:
    page = (folder / "report.html").read_text("utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.count("data:image/png;base64,") == 2
    for row in experiment.separations.values():
        assert f"{row.separation:.3f}" in page
    for score_row in experiment.scores + experiment.kept:
        assert f"{score_row.score.value:.3f}" in page
    assert "{{" not in page
    assert "nan" not in re.sub(r"data:image/png;base64,[^\"]*", "", page)


def test_the_records_are_complete(experiment: Experiment, folder: Path) -> None:
    records = json.loads((folder / "results.json").read_text("utf-8"))
    assert len(records["localization"]) == (len(COMPARED) + 2) * len(LAYERS) * 2
    assert {"estimator", "samples", "low", "high", "null", "p_value"} <= set(records["scores"][0])
    assert (folder / "maps.png").stat().st_size > 10_000
    assert "| UniCAM, published objective |" in (folder / "tables.md").read_text("utf-8")


def test_the_summary_fits_one_screen(experiment: Experiment) -> None:
    lines = summary(experiment).splitlines()
    assert len(lines) <= 26
    assert max(map(len, lines)) <= 80


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_the_command(experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("captum_kd.demo.experiment.steps", lambda: iter([("done", experiment)]))
    result = run("demo", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "report.html").as_uri() in result.output


def test_maps_do_not_depend_on_their_batch(experiment: Experiment) -> None:
    labels = experiment.planted.labels[:5]
    for method in set(COMPARED) - {PUBLISHED}:  # which takes distances within a batch
        again = METHODS[method].maps(experiment.pair, experiment.inputs[:5], labels)
        for kept, maps in zip(experiment.maps[method], again, strict=True):
            for before, now in zip(kept, maps, strict=True):
                torch.testing.assert_close(now, before[:5], rtol=1e-3, atol=1e-4 * float(before.amax()))
