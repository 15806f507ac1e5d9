"""FSS and RS as torchmetrics: what is refused, what forward returns, and what a collection must not merge."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from captum_kd import FeatureSimilarityScore, LabelEmbeddings, RelevanceScore
from captum_kd.functional import distance_correlation

GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(3, 16, 6, generator=GENERATOR)
OTHERS = torch.randn(3, 16, 5, generator=GENERATOR)
TARGET = torch.arange(16) % 4
LINE = torch.tensor([[0.0], [1.0], [5.0], [20.0]])
SIMILAR_IN_PAIRS = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 0.0], [9.1, 0.0]])

Stream = FeatureSimilarityScore | RelevanceScore
MAKE: dict[str, Callable[[], Stream]] = {
    "one-hot": RelevanceScore,
    "line": partial(RelevanceScore, LINE),
    "pairs": partial(RelevanceScore, LabelEmbeddings(SIMILAR_IN_PAIRS, tuple("abcd"), "by hand", "none")),
    "biased RS": partial(RelevanceScore, estimator="biased"),
    "FSS": FeatureSimilarityScore,
    "unbiased FSS": partial(FeatureSimilarityScore, estimator="unbiased"),
}


def batch(index: int, rows: int = 16) -> dict[str, Tensor]:
    return {
        "features": FEATURES[index][:rows],
        "base_features": OTHERS[index][:rows],
        "target": TARGET[:rows],
    }


def arguments(metric: Stream, index: int, rows: int = 16) -> tuple[Tensor, Tensor]:
    given = batch(index, rows)
    other = "base_features" if isinstance(metric, FeatureSimilarityScore) else "target"
    return given["features"], given[other]


@pytest.mark.parametrize(
    "names",
    [("one-hot", "line"), ("line", "pairs"), ("FSS", "unbiased FSS"), ("FSS", "one-hot"), tuple(MAKE)],
)
@pytest.mark.parametrize("first", ["update", "forward"])
def test_a_collection_never_merges_them(names: tuple[str, ...], first: str) -> None:
    """All states agree after a mini-batch that is too small, which is when a collection looks."""
    collection = MetricCollection({name: MAKE[name]() for name in names})
    alone = {name: MAKE[name]() for name in names}

    def add(index: int, rows: int = 16) -> None:
        given = batch(index, rows)
        (collection.update if first == "update" else collection)(**given)
        for metric in alone.values():
            metric.update(*arguments(metric, index, rows))

    def same() -> None:
        found = collection.compute()
        assert found == {name: metric.compute() for name, metric in alone.items()}
        assert len(set(map(float, found.values()))) == len(names)

    add(0, rows=3)
    add(1)
    assert len(collection.compute_groups) == len(names)
    same()
    collection = pickle.loads(pickle.dumps(collection))
    add(2)
    same()
    collection = collection.clone()
    collection.reset()
    for metric in alone.values():
        metric.reset()
    add(0, rows=2)
    add(2)
    add(1)
    same()


@pytest.mark.parametrize("name", MAKE)
def test_forward_gives_the_score_of_its_mini_batch_and_keeps_the_others(name: str) -> None:
    metric, alone = MAKE[name](), MAKE[name]()
    for index in range(2):
        single = MAKE[name]()
        single.update(*arguments(metric, index))
        alone.update(*arguments(metric, index))
        assert metric(*arguments(metric, index)) == single.compute()
    assert metric(*arguments(metric, 2, rows=3)).isnan()
    assert metric.left_out == 1
    assert metric.compute() == alone.compute()
    metric(*arguments(metric, 2))
    alone.update(*arguments(metric, 2))
    assert metric.compute() == alone.compute()
    assert metric.batch_scores().sizes.tolist() == [16, 16, 16]


def test_forward_of_one_class_is_nan_and_compute_of_nothing_is_an_error() -> None:
    metric = RelevanceScore()
    one_class = FEATURES[0], torch.zeros(16, dtype=torch.long)
    assert metric(*one_class).isnan()
    assert metric(*one_class).dtype == torch.float64
    with pytest.raises(ValueError, match=r"No mini-batch could be scored \(2 left out\)"):
        metric.compute()
    score = metric(FEATURES[0], TARGET)
    assert metric.compute() == score
    assert metric.left_out == 2
    # Processes that score a batch together take the other way through torchmetrics.
    together = RelevanceScore(dist_sync_on_step=True)
    assert together(*one_class).isnan()
    assert together(FEATURES[0], TARGET) == score
    assert together(*one_class).isnan()
    assert (together.compute(), together.left_out) == (score, 2)


@pytest.mark.parametrize("options", [{}, {"dist_sync_on_step": True}])
def test_what_is_refused_leaves_what_was_added(options: dict[str, Any]) -> None:
    metric = RelevanceScore(LINE, **options)
    metric(FEATURES[0], TARGET)
    metric(FEATURES[0][:2], TARGET[:2])
    before = metric.compute()
    with pytest.raises(ValueError, match="label_embeddings has 4 rows"):
        metric(FEATURES[1], TARGET + 1)
    with pytest.raises(ValueError, match=r"NaN|finite"):
        metric(FEATURES[1] * torch.nan, TARGET)
    assert (metric.compute(), metric.left_out) == (before, 1)
    metric(FEATURES[1], TARGET)
    assert metric.batch_scores().sizes.tolist() == [16, 16]


FSS, RS = FeatureSimilarityScore, RelevanceScore
GOOD = FEATURES[0]


@pytest.mark.parametrize(
    ("make", "given", "error", "message"),
    [
        (FSS, ("a", "b"), TypeError, "features must be a floating point tensor of features.*got str"),
        (FSS, (GOOD, "b"), TypeError, "base_features must be a floating point tensor .*got str"),
        (FSS, (GOOD.tolist(), GOOD.tolist()), TypeError, "features must be .*got list"),
        (FSS, (GOOD.numpy(), GOOD), TypeError, "features must be .*got ndarray"),
        (FSS, (None, None), TypeError, "features must be .*got NoneType"),
        (FSS, (GOOD, TARGET), TypeError, "base_features must be .*a tensor of torch.int64"),
        (FSS, (GOOD[0, 0], GOOD[0, 0]), ValueError, r"features must have shape \(n, ...\)"),
        (FSS, (GOOD[:2], GOOD[:3]), ValueError, "got 2 rows of features, 3 rows of base_features"),
        (FSS, (GOOD, GOOD[:3]), ValueError, "got 16 rows of features, 3 rows of base_features"),
        (RS, ("a", "b"), TypeError, "features must be a floating point tensor"),
        (RS, (GOOD, "b"), TypeError, "target must hold one class index per sample.*got str"),
        (RS, (GOOD, None), TypeError, "target must hold one class index per sample.*got NoneType"),
        (RS, (GOOD, TARGET.float()), TypeError, "integer class indices, got torch.float32"),
        (RS, (GOOD, TARGET[:3]), ValueError, r"16 samples, but target has shape \(3,\)"),
        (RS, (GOOD[:2], TARGET[:3]), ValueError, r"2 samples, but target has shape \(3,\)"),
        (RS, (GOOD, 3), ValueError, r"16 samples, but target has shape \(\)"),
        (RS, (GOOD, TARGET[:, None]), ValueError, r"16 samples, but target has shape \(16, 1\)"),
        (RS, (GOOD, TARGET - 1), ValueError, "negative"),
        (RS, (GOOD, TARGET, "c"), TypeError, "given must be a floating point tensor .*got str"),
        (RS, (GOOD, TARGET, GOOD[:3]), ValueError, "got 16 rows of features, 3 rows of given"),
    ],
)
def test_bad_mini_batches(make: Any, given: Any, error: type[Exception], message: str) -> None:
    metric = make()
    with pytest.raises(error, match=message):
        metric.update(*given)
    with pytest.raises(error, match=message):
        metric(*given)
    assert (len(metric.scores), metric.left_out) == (0, 0)


def test_a_list_of_classes_and_an_empty_mini_batch_are_fine() -> None:
    metric, alone = RelevanceScore(), RelevanceScore()
    metric.update(GOOD, TARGET.tolist())
    alone.update(GOOD, TARGET)
    assert metric.compute() == alone.compute()
    assert metric(GOOD[:0], TARGET[:0]).isnan()
    assert FeatureSimilarityScore()(GOOD[:0], GOOD[:0]).isnan()


def test_states_are_added_up_only_for_the_same_settings() -> None:
    if not hasattr(Metric, "merge_state"):
        pytest.skip("this version of torchmetrics has no merge_state")
    one, other, both = RelevanceScore(LINE), RelevanceScore(LINE.clone()), RelevanceScore(LINE)
    for metric, index in ((one, 0), (other, 1), (both, 0), (both, 1)):
        metric.update(FEATURES[index], TARGET)
    one.merge_state(other)
    assert sorted(one.batch_scores().batches.tolist()) == sorted(both.batch_scores().batches.tolist())
    for make in (RelevanceScore, partial(RelevanceScore, LINE + LINE**2)):
        with pytest.raises(ValueError, match="same estimator and label embeddings"):
            one.merge_state(make())
    with pytest.raises(ValueError, match="same estimator"):
        FeatureSimilarityScore().merge_state(FeatureSimilarityScore(estimator="unbiased"))


def test_copies_in_a_mini_batch_are_noticed_once() -> None:
    copied = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])
    for metric in (FeatureSimilarityScore(), RelevanceScore()):
        features, other = arguments(metric, 0)
        message = "2 of 12 samples have exactly the features of an earlier"
        with pytest.warns(UserWarning, match=message) as caught:
            metric.update(features[copied], other[copied])
        assert [warning.filename for warning in caught] == [__file__]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            metric.update(features[copied], other[copied])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The same features, but not the same classes: no copies of samples.
        RelevanceScore().update(FEATURES[0][copied], torch.arange(12) % 3)
        FeatureSimilarityScore().update(torch.ones(12, 4), FEATURES[0][copied])


def test_without_a_copy_the_score_is_that_of_the_function() -> None:
    metric = FeatureSimilarityScore()
    metric.update(FEATURES[0], OTHERS[0])
    assert metric.compute() == distance_correlation(FEATURES[0], OTHERS[0], estimator="biased")
