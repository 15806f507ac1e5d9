"""Sanity checks find what is known: maps that ignore everything, maps that are noise, maps of the input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from scipy.stats import spearmanr
from torch import Tensor

from captum_kd.attr.methods import METHODS, UNIQUE_SIDES, MapMethod, Pair, TwoMaps
from captum_kd.benchmark.pairs.checked_pair import CheckedPair, checked_demo_pair
from captum_kd.benchmark.sanity.checks import (
    ALL_LAYERS,
    SANITY_METHODS,
    SanityRow,
    check_maps,
    correlations,
    randomised,
    summarise,
)
from captum_kd.benchmark.sanity.deletion import check_deletion, predictions, selectivity
from captum_kd.cli.main import main
from captum_kd.metrics.localization import RANDOM
from captum_kd.models.small import small_resnet


def one(rows: list[SanityRow], **wanted: str) -> SanityRow:
    (row,) = [r for r in rows if all(getattr(r, name) == value for name, value in wanted.items())]
    return row


@pytest.fixture(scope="module")
def checked() -> CheckedPair:
    return checked_demo_pair(12, 32)


def test_correlation_is_scipys_with_ties_and_unknown_for_flat_maps() -> None:
    a, b = torch.randn(2, 5, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    b = b.relu()
    found = correlations([a], [b])[0]
    for i in range(5):
        assert found[i].item() == pytest.approx(spearmanr(a[i].flatten(), b[i].flatten()).statistic)
    assert correlations([a], [torch.zeros_like(a)]).isnan().all()


def test_weights_become_fresh_from_the_top_down() -> None:
    model = small_resnet(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    changed: list[set[str]] = []
    for _, fresh in randomised(model, 0):
        state = fresh.state_dict()
        changed.append({name.split(".")[0] for name in before if not torch.equal(before[name], state[name])})
    assert changed[0] == {"fc"}
    assert changed[1] == {"fc", "layer4"}
    assert {"conv1", "layer1", "layer2", "layer3", "layer4", "fc"} <= changed[-1]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_map_of_the_input_passes_no_check_of_the_model(checked: CheckedPair) -> None:
    def edges(pair: Pair, images: Tensor, labels: Tensor) -> list[TwoMaps]:
        brightness = images.mean(1, keepdim=True)
        return [(brightness, brightness)] * 4

    rows = check_maps(checked, {"edges": MapMethod(UNIQUE_SIDES, edges)}, sizes=[8])
    assert one(rows, check="parameters", setting="conv1", layer="layer1").mean == pytest.approx(1)
    assert one(rows, check="reference", layer=ALL_LAYERS).mean == pytest.approx(1)
    assert abs(one(rows, check="inputs", layer=ALL_LAYERS).mean) < 0.5


def test_what_maps_depend_on(checked: CheckedPair) -> None:
    methods = {name: SANITY_METHODS[name] for name in ("UniCAM, published objective", "UniCAM, recommended")}
    rows = check_maps(checked, methods, sizes=[8, 16])
    published, recommended = methods
    # Features do not see the head above them, what a model uses for its class does; neither sees labels.
    assert 0.5 < one(rows, check="parameters", setting="fc", method=recommended, layer="layer4").mean < 1
    assert one(rows, check="parameters", setting="fc", method=published, layer="layer4").mean == 1
    assert one(rows, check="labels", method=recommended, layer=ALL_LAYERS).mean == 1
    assert one(rows, check="labels", method=published, layer=ALL_LAYERS).mean < 0.9
    assert one(rows, check="parameters", setting="conv1", method=recommended, layer=ALL_LAYERS).mean < 0.5
    for row in rows:
        assert row.samples + row.left_out == 12


def test_methods_of_single_images_are_not_asked_for_references(checked: CheckedPair) -> None:
    rows = check_maps(checked, {"difference": METHODS["Grad-CAM difference"]}, sizes=[8])
    assert {row.check for row in rows} == {"parameters", "labels", "inputs"}


def test_a_pool_that_is_too_small_is_named(checked: CheckedPair) -> None:
    with pytest.raises(ValueError, match="a pool of 64, got 32"):
        check_maps(checked, {}, sizes=[32])


def test_summary_leaves_out_what_is_not_known() -> None:
    values = torch.tensor([[1.0, torch.nan, 3.0], [5.0, torch.nan, 5.0]])
    first, second, mean = summarise("labels", "mine", "permuted", ["a", "b"], values)
    assert (first.mean, first.samples, first.left_out) == (2, 2, 1)
    assert second.spread == 0
    assert (mean.layer, mean.mean, mean.left_out) == (ALL_LAYERS, 3.5, 1)


def test_selectivity_of_perfect_and_swapped_maps() -> None:
    """Two models that each read one pixel: maps of that pixel are perfect, and swapped maps the opposite."""

    class Reads(torch.nn.Module):
        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

        def forward(self, images: Tensor) -> Tensor:
            value = images[:, 0, 4, self.column]
            return torch.stack([-value, value], 1)

    images = torch.zeros(2, 1, 9, 9)
    images[:, :, 4, 1], images[:, :, 4, 7] = 9.0, -9.0
    images[:, :, :, 3:6] = torch.tensor([-20.0, 0.0, 20.0])  # what is imputed has the other sign
    models = Reads(1), Reads(7)
    predicted = predictions(models[0], images), predictions(models[1], images)
    assert [p.tolist() for p in predicted] == [[1, 1], [0, 0]]
    ours, theirs = torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 9, 9)
    ours[:, :, 4, 1], theirs[:, :, 4, 7] = 1, 1
    for maps, expected in (((ours, theirs), -1), ((theirs, ours), 1)):
        found = selectivity(models, predicted, images, maps, "deletion", 1 / 81)
        assert (found * expected >= 0).all()
    alike = selectivity(models, predicted, images, (ours, ours), "insertion", 0.2)
    assert alike.tolist() == [0, 0]


def test_models_that_agree_are_named(checked: CheckedPair) -> None:
    with pytest.raises(ValueError, match="different classes for 0 of 12 images"):
        check_deletion(checked._replace(base=checked.student), {}, shares=[0.2])


def test_the_command_writes_numbers_tables_and_figure(tmp_path: Path) -> None:
    arguments = ["benchmark", "sanity", "--out", str(tmp_path), "--images", "16", "--pool", "16"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "sanity.json").read_text("utf-8"))
    rows = [SanityRow(**row) for row in record["rows"]]
    assert {row.method for row in rows} == {RANDOM, *SANITY_METHODS}
    checks = {"parameters", "training", "labels", "inputs", "reference", "batch", "insertion", "deletion"}
    assert {row.check for row in rows} == checks
    page = (tmp_path / "sanity.md").read_text("utf-8")
    value = one(rows, check="inputs", method="UniCAM, recommended", layer=ALL_LAYERS).mean
    assert f"{round(value, 2) + 0.0:.2f} (" in page
    assert (tmp_path / "sanity.png").stat().st_size > 10_000
