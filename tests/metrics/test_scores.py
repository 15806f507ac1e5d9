"""FSS and RS: the functions against their equations, against dcor and against their torchmetrics twins."""

from __future__ import annotations

from functools import partial
from typing import Any

import dcor
import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor

from captum_kd import (
    BatchScores,
    FeatureSimilarityScore,
    RelevanceScore,
    UniCAM,
    feature_similarity_score,
    relevance_score,
)
from captum_kd.functional import (
    distance_correlation,
    multiply,
    road,
    semipartial_distance_correlation,
)
from captum_kd.functional.pooling import pool_activations
from captum_kd.models.activations import layer_activations
from tests.networks import classes, images, pair

BIASED, UNBIASED = dcor.distance_correlation_sqr, dcor.u_distance_correlation_sqr
ORACLES = {"biased": BIASED, "unbiased": UNBIASED}


def features(model: Any, x: Tensor) -> np.ndarray:
    (activations,), _ = layer_activations(model, [model.second_relu], x)
    return activations.flatten(1).double().numpy()


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_fss_is_the_mean_of_dcor_over_batches(estimator: str, batch_size: int | None) -> None:
    student, base = pair()
    x = images(24)
    score = feature_similarity_score(
        student, x, student.second_relu, base, batch_size=batch_size, estimator=estimator
    )
    expected = [
        ORACLES[estimator](features(student, part), features(base, part))
        for part in x.split(batch_size or 24)
    ]
    assert score.item() == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_rs_is_the_mean_of_dcor_with_label_embeddings(estimator: str) -> None:
    student, _ = pair()
    x, target = images(24), classes(24)
    embeddings = torch.randn(4, 7, generator=torch.Generator().manual_seed(1)).double()
    score = relevance_score(
        student,
        x,
        student.second_relu,
        target,
        label_embeddings=embeddings,
        batch_size=12,
        estimator=estimator,
    )
    rows = embeddings[target].numpy()
    expected = [
        ORACLES[estimator](features(student, x[part]), rows[part]) for part in (slice(0, 12), slice(12, 24))
    ]
    assert score.item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_rs_of_unique_features_is_semi_partial() -> None:
    student, base = pair()
    x, target = images(24), classes(24)
    rows = torch.eye(4)[target]
    distilled = relevance_score(student, x, student.second_relu, target, given=(base, base.second_relu))
    s, b = (torch.from_numpy(features(model, x)) for model in (student, base))
    assert distilled.item() == pytest.approx(semipartial_distance_correlation(s, rows, b).item(), abs=1e-6)
    residual = relevance_score(base, x, base.second_relu, target, given=(student, student.second_relu))
    assert residual.item() != pytest.approx(distilled.item(), abs=1e-3)


def test_default_estimators_are_those_of_the_docs() -> None:
    student, base = pair()
    fss = feature_similarity_score(student, images(), student.second_relu, base, return_batches=True)
    rs = relevance_score(student, images(), student.second_relu, classes(), return_batches=True)
    assert (fss.estimator, rs.estimator) == ("biased", "unbiased")


def test_pooled_features() -> None:
    student, base = pair()
    x = images()
    pooled = [
        pool_activations(layer_activations(m, [m.second_relu], x).activations[0], 1).flatten(1)
        for m in (student, base)
    ]
    score = feature_similarity_score(student, x, student.second_relu, base, pool=1)
    assert score.item() == pytest.approx(distance_correlation(*pooled, estimator="biased").item(), abs=1e-9)


def test_layers_by_name() -> None:
    student, base = pair()
    x, target, layer = images(), classes(), student.second_relu
    fss = feature_similarity_score(student, x, layer, base)
    assert torch.equal(feature_similarity_score(student, x, "second_relu", base), fss)
    assert torch.equal(feature_similarity_score(student, x, layer, base, "second_relu"), fss)
    other = feature_similarity_score(student, x, "second_relu", base, "first")
    assert torch.equal(other, feature_similarity_score(student, x, layer, base, base.first))
    rs = relevance_score(student, x, layer, target)
    assert torch.equal(relevance_score(student, x, "second_relu", target), rs)
    unique = relevance_score(student, x, layer, target, given=(base, base.first))
    assert torch.equal(relevance_score(student, x, layer, target, given=(base, "first")), unique)
    with pytest.raises(ValueError, match=r"^layer: Network has no layer 'frist'\. Did you mean 'first'"):
        feature_similarity_score(student, x, "frist", base)
    with pytest.raises(ValueError, match=r"^base_layer: Network has no layer 'frist'"):
        feature_similarity_score(student, x, layer, base, "frist")
    with pytest.raises(ValueError, match=r"^layer: Network has no layer 'frist'"):
        relevance_score(student, x, "frist", target)
    with pytest.raises(ValueError, match="'first' is the name of a layer, but the given model is a function"):
        relevance_score(student, x, layer, target, given=(lambda x: base(x), "first"))


def grad_cam(model: Any, x: Tensor) -> Tensor:
    return (
        LayerGradCam(model, model.second_relu).attribute(x, classes(len(x)), relu_attributions=True).detach()
    )


def unicam(features: str, x: Tensor) -> Tensor:
    student, base = pair()
    return UniCAM(student, student.second_relu, base).attribute(x, classes(len(x)), features=features)


@pytest.mark.parametrize("maps", ["grad_cam", "distilled", "residual"])
@pytest.mark.parametrize("perturb", [partial(road, share=0.2, noise=0.0), multiply])
def test_perturbed_inputs_are_what_the_models_see(maps: str, perturb: Any) -> None:
    student, base = pair()
    x = images(16)
    attributions = grad_cam(student, x) if maps == "grad_cam" else unicam(maps, x)
    kept = perturb(x, attributions)
    fss = feature_similarity_score(
        student, x, student.second_relu, base, attributions=attributions, perturb_func=perturb
    )
    rs = relevance_score(
        student, x, student.second_relu, classes(16), attributions=attributions, perturb_func=perturb
    )
    assert not torch.equal(kept, x)
    assert fss.item() == pytest.approx(BIASED(features(student, kept), features(base, kept)), abs=1e-6)
    rows = torch.eye(4)[classes(16)].double().numpy()
    assert rs.item() == pytest.approx(UNBIASED(features(student, kept), rows), abs=1e-6)


def test_each_model_may_have_maps_of_its_own() -> None:
    student, base = pair()
    x = images(16)
    maps, base_maps = grad_cam(student, x), grad_cam(base, x)
    score = feature_similarity_score(
        student,
        x,
        student.second_relu,
        base,
        attributions=maps,
        base_attributions=base_maps,
        perturb_func=multiply,
    )
    expected = BIASED(features(student, multiply(x, maps)), features(base, multiply(x, base_maps)))
    assert score.item() == pytest.approx(expected, abs=1e-6)


def test_road_is_the_default_perturbation() -> None:
    student, base = pair()
    x = images(8)
    maps = grad_cam(student, x)
    torch.manual_seed(0)
    default = feature_similarity_score(student, x, student.second_relu, base, attributions=maps)
    torch.manual_seed(0)
    explicit = feature_similarity_score(
        student, x, student.second_relu, base, attributions=maps, perturb_func=road
    )
    assert torch.equal(default, explicit)


def test_small_and_single_class_batches_are_left_out_counted_and_reported() -> None:
    student, base = pair()
    x = images(19)
    with pytest.warns(UserWarning, match="1 of 3 mini-batches were left out"):
        fss = feature_similarity_score(
            student, x, student.second_relu, base, batch_size=8, return_batches=True
        )
    assert isinstance(fss, BatchScores)
    assert (fss.left_out, fss.sizes.tolist(), len(fss.batches)) == (1, [8, 8], 2)
    assert fss.score == fss.batches.mean()

    target = torch.tensor([0] * 8 + [0, 1] * 4 + [0, 1, 2])
    with pytest.warns(UserWarning, match="2 of 3 mini-batches"):
        rs = relevance_score(student, x, student.second_relu, target, batch_size=8, return_batches=True)
    assert (rs.left_out, rs.sizes.tolist()) == (2, [8])
    only = relevance_score(student, x[8:16], student.second_relu, target[8:16])
    assert rs.score.item() == pytest.approx(only.item(), abs=1e-6)


def test_twins_agree_with_the_functions() -> None:
    student, base = pair()
    x, target = images(24), classes(24)
    fss, rs, unique = FeatureSimilarityScore(), RelevanceScore(), RelevanceScore(torch.eye(4))
    for rows in torch.arange(24).split(12):
        (s,), _ = layer_activations(student, [student.second_relu], x[rows])
        (b,), _ = layer_activations(base, [base.second_relu], x[rows])
        fss.update(s, b)
        rs.update(s, target[rows])
        unique.update(s, target[rows], given=b)
    options = {"batch_size": 12}
    layer = student.second_relu
    assert torch.equal(fss.compute(), feature_similarity_score(student, x, layer, base, **options))
    assert torch.equal(rs.compute(), relevance_score(student, x, layer, target, **options))
    given = (base, base.second_relu)
    assert torch.equal(unique.compute(), relevance_score(student, x, layer, target, given=given, **options))
    fss.reset()
    fss.update(torch.zeros(2, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"No mini-batch could be scored \(1 left out\)"):
        fss.compute()


def test_independent_features_score_about_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    rs = RelevanceScore()
    for _ in range(30):
        rs.update(torch.randn(32, 64, generator=generator), classes(32))
    scores = rs.batch_scores()
    assert abs(scores.score) < 3 * scores.batches.std() / 30**0.5


def test_states_of_two_processes_are_gathered(tmp_path: Any) -> None:
    # Forked processes do not import torch again; nothing here takes a gradient, which would hang in them.
    torch.multiprocessing.start_processes(
        _one_of_two, args=(str(tmp_path / "store"),), nprocs=2, start_method="fork"
    )


def _one_of_two(rank: int, store: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    data = torch.randn(3, 2, 16, 5, generator=torch.Generator().manual_seed(0))
    metric, alone = FeatureSimilarityScore(), FeatureSimilarityScore(sync_on_compute=False)
    mine = data[:2] if rank == 0 else data[2:]
    for s, b in mine:
        metric.update(s, b)
    metric.update(torch.zeros(2, 5), torch.zeros(2, 5))
    for s, b in data:
        alone.update(s, b)
    torch.testing.assert_close(metric.compute(), alone.compute())
    metric.sync()
    assert metric.left_out == 2
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "fair"}, r"estimator must be one of \('unbiased', 'biased'\), got 'fair'"),
        ({"batch_size": 3}, "batch_size must be at least 4 .* got 3"),
        ({"perturb_func": multiply}, "perturb_func needs attributions"),
        (
            {"attributions": torch.rand(5, 1, 8, 8)},
            "attributions must have one row per sample: 5 rows for 12",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    student, base = pair()
    with pytest.raises(ValueError, match=message):
        feature_similarity_score(student, images(), student.second_relu, base, **options)
    with pytest.raises(ValueError, match=message):
        relevance_score(student, images(), student.second_relu, classes(), **options)


def test_bad_targets_layers_and_combinations() -> None:
    student, base = pair()
    layer = student.second_relu
    with pytest.raises(ValueError, match="target is needed"):
        relevance_score(student, images(), layer, None)
    with pytest.raises(ValueError, match=r"12 samples, but target has shape \(5,\)"):
        relevance_score(student, images(), layer, classes(5))
    with pytest.raises(ValueError, match="3 rows but target contains class 3"):
        relevance_score(student, images(), layer, classes(), label_embeddings=torch.eye(3))
    with pytest.raises(ValueError, match="estimator='unbiased' only"):
        relevance_score(
            student, images(), layer, classes(), given=(base, base.second_relu), estimator="biased"
        )
    with pytest.raises(ValueError, match="this ReLU is not in the model"):
        relevance_score(base, images(), layer, classes())
    with pytest.raises(ValueError, match="No mini-batch could be scored"):
        relevance_score(student, images(), layer, torch.zeros(12, dtype=torch.long))
    with pytest.raises(ValueError, match="No mini-batch could be scored"):
        feature_similarity_score(student, images(3), layer, base)


@pytest.mark.parametrize("beyond", [1, 7])
def test_a_class_that_the_model_does_not_have_is_refused(beyond: int) -> None:
    student, base = pair()
    layer, target = student.second_relu, classes()
    with pytest.raises(ValueError, match=f"target must be from 0 to 3, got values from 0 to {3 + beyond}"):
        relevance_score(student, images(), layer, torch.where(target == 3, 3 + beyond, target))
    # In a later mini-batch, with embeddings for it, and beside another model.
    late = target.clone()
    late[-1] = 3 + beyond
    with pytest.raises(ValueError, match="target must be from 0 to 3"):
        relevance_score(student, images(), layer, late, label_embeddings=torch.eye(20), batch_size=6)
    with pytest.raises(ValueError, match="target must be from 0 to 3"):
        relevance_score(student, images(), layer, late, given=(base, base.second_relu))


@pytest.mark.parametrize("batch_size", [None, 6])
def test_inputs_that_come_again_are_left_out(batch_size: int | None) -> None:
    student, base = pair()
    x, target, layer = images(), classes(), student.second_relu
    maps = grad_cam(student, x)
    rows = [0, 1, 2, 3, 1, 4, 5, 6, 7, 8, 9, 0, 10, 11]
    options: dict[str, Any] = {"batch_size": batch_size, "perturb_func": multiply}
    for score in (
        lambda x, target, maps: feature_similarity_score(
            student, x, layer, base, attributions=maps, base_attributions=maps + 1, **options
        ),
        lambda x, target, maps: relevance_score(student, x, layer, target, attributions=maps, **options),
    ):
        with pytest.warns(UserWarning, match="2 of 14 inputs are identical to earlier ones") as caught:
            found = score(x[rows], target[rows], maps[rows])
        assert [warning.filename for warning in caught] == [__file__]
        assert found == score(x, target, maps)
