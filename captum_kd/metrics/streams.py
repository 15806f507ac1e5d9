"""FSS and RS of streams of features, as torchmetrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from captum_kd.functional.correlation import Estimator, check_estimator
from captum_kd.labels import LabelEmbeddings
from captum_kd.metrics.batches import BatchScores, check_features, mean_score, sample_classes
from captum_kd.metrics.copies import warn_of_repeated_rows
from captum_kd.metrics.relevance import batch_relevance
from captum_kd.metrics.similarity import batch_similarity


class MeanOverBatches(Metric):
    """Mean of a score over mini-batches; the scores of several processes are gathered.

    A :class:`torchmetrics.MetricCollection` never computes two of these as one: metrics of other settings may
    come to the same states, and would then report each other's values.

    Args:
        estimator: "biased" or "unbiased".
        **options: Passed to :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    sizes: list[Tensor]
    left_out: Tensor
    unlike_any: Tensor

    def __init__(self, *, estimator: Estimator, **options: Any) -> None:
        super().__init__(**options)
        check_estimator(estimator)
        self.estimator = estimator
        # A MetricCollection merges metrics whose states are equal. NaN equals nothing, and sums to NaN. It is
        # the first, because torchmetrics 1.3 does not look at states after an empty list.
        self.add_state("unlike_any", default=torch.tensor(math.nan), dist_reduce_fx="sum")
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("sizes", default=[], dist_reduce_fx="cat")
        self.add_state("left_out", default=torch.tensor(0), dist_reduce_fx="sum")
        self._of_one_batch = self._warned_of_copies = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a mini-batch and return its score.

        Args:
            *args: As ``update`` takes them.
            **kwargs: As ``update`` takes them.

        Returns:
            The score of this mini-batch alone, NaN if it is left out.

        Raises:
            TypeError: As ``update`` does. What was added before is kept.
            ValueError: As ``update`` does. What was added before is kept.
        """
        before = {name: list(v) if isinstance(v, list) else v for name, v in vars(self).items()}
        self._of_one_batch = True
        try:
            return super().forward(*args, **kwargs)
        except BaseException:
            # torchmetrics sets the states aside while it scores one mini-batch, and would lose them.
            vars(self).update(before)
            raise
        finally:
            self._of_one_batch = False

    def _warn_of_copies(self, features: Tensor, *others: Tensor) -> None:
        if not self._warned_of_copies:
            self._warned_of_copies = warn_of_repeated_rows(features, *others)

    def _add(self, score: Tensor | None, size: int) -> None:
        if score is None:
            # Not in place, so that the state from before an error is still what it was.
            self.left_out = self.left_out + 1
            return
        self.scores.append(score.reshape(1))
        self.sizes.append(torch.tensor([size], device=score.device))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add what another metric has seen, or its states.

        Args:
            incoming_state: A metric of the same settings, or its ``metric_state``.

        Raises:
            ValueError: The metric has other settings, so that its scores are of another kind.
        """
        if isinstance(incoming_state, MeanOverBatches) and not self._has_settings_of(incoming_state):
            raise ValueError(
                "merge_state needs a metric with the same estimator and label embeddings: the mean of "
                "scores of two kinds is neither's."
            )
        super().merge_state(incoming_state)

    def _has_settings_of(self, other: MeanOverBatches) -> bool:
        return type(self) is type(other) and self.estimator == other.estimator

    def compute(self) -> Tensor:
        """Return the mean over the mini-batches that could be scored.

        Raises:
            ValueError: There is none.
        """
        if self._of_one_batch and not len(self.scores):
            return torch.tensor(math.nan, dtype=torch.float64, device=self.left_out.device)
        return self.batch_scores().score

    def batch_scores(self) -> BatchScores:
        """Return the mean together with the score and size of each mini-batch."""
        scores, sizes = (
            dim_zero_cat(state) if len(state) else torch.empty(0) for state in (self.scores, self.sizes)
        )
        return mean_score(scores, sizes, int(self.left_out), self.estimator)


class FeatureSimilarityScore(MeanOverBatches):
    r"""FSS (Eq. 8) of a stream: the mean over mini-batches of :math:`dCor(\hat x_s, \hat x_b)`.

    Each ``update`` is a mini-batch. Mini-batches of fewer than 4 samples are left out and counted in
    ``left_out``.

    Args:
        estimator: "biased" (the paper's; close to 1 for small mini-batches whatever the data) or "unbiased".
        **options: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: An unknown estimator; on ``compute``, no mini-batch that could be scored.

    Example:
        >>> import torch
        >>> metric = FeatureSimilarityScore()
        >>> student = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        >>> metric.update(student, 3 * student + 1)
        >>> round(metric.compute().item(), 6)
        1.0
    """

    higher_is_better = None

    def __init__(self, *, estimator: Estimator = "biased", **options: Any) -> None:
        super().__init__(estimator=estimator, **options)

    def update(self, features: Tensor, base_features: Tensor) -> None:
        """Add a mini-batch.

        Args:
            features: The student's, ``(n, ...)``.
            base_features: The base model's on the same samples, ``(n, ...)``.

        Raises:
            TypeError: An argument is not a tensor.
            ValueError: The numbers of samples differ.
        """
        check_features(features=features, base_features=base_features)
        self._warn_of_copies(features, base_features)
        self._add(batch_similarity(features, base_features, self.estimator), len(features))


class RelevanceScore(MeanOverBatches):
    r"""RS (Eq. 9) of a stream: the mean over mini-batches of :math:`dCor(\hat x, g)`.

    ``g`` are the embeddings of the ground-truth labels. Each ``update`` is a mini-batch; those of fewer
    than 4 samples or of a single class are left out and counted in ``left_out``.

    Args:
        label_embeddings: :class:`~captum_kd.LabelEmbeddings` or a tensor ``(num_classes, d)``; None: one-hot.
        estimator: "unbiased" (about 0 for features that know nothing of the labels) or "biased".
        **options: Of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: An unknown estimator; "biased" together with ``given``; on ``compute``, no mini-batch that
            could be scored.

    Example:
        >>> import torch
        >>> metric = RelevanceScore()
        >>> target = torch.arange(32) % 4
        >>> metric.update(torch.nn.functional.one_hot(target).float(), target)
        >>> round(metric.compute().item(), 6)
        1.0
    """

    higher_is_better = True

    def __init__(
        self,
        label_embeddings: LabelEmbeddings | Tensor | None = None,
        *,
        estimator: Estimator = "unbiased",
        **options: Any,
    ) -> None:
        super().__init__(estimator=estimator, **options)
        self.label_embeddings = label_embeddings

    def _has_settings_of(self, other: MeanOverBatches) -> bool:
        return super()._has_settings_of(other) and _same_embeddings(
            self.label_embeddings, getattr(other, "label_embeddings", None)
        )

    def update(self, features: Tensor, target: Tensor | Sequence[int], given: Tensor | None = None) -> None:
        """Add a mini-batch.

        Args:
            features: Features ``(n, ...)``.
            target: Class indices ``(n,)``.
            given: Another model's features on the same samples; the score is then that of what ``features``
                have beyond them (distilled or residual features).

        Raises:
            TypeError: Features are not a tensor, or the target does not hold integers.
            ValueError: The numbers of samples differ, a target is out of range, or "biased" with ``given``.
        """
        check_features(features=features, **({} if given is None else {"given": given}))
        target = sample_classes(target, len(features))
        self._warn_of_copies(features, target, *(() if given is None else (given,)))
        score = batch_relevance(features, target, self.label_embeddings, given, self.estimator)
        self._add(score, len(features))


def _same_embeddings(first: LabelEmbeddings | Tensor | None, second: LabelEmbeddings | Tensor | None) -> bool:
    one, two = (
        value.embeddings if isinstance(value, LabelEmbeddings) else value for value in (first, second)
    )
    if one is None or two is None:
        return one is two
    return torch.equal(one, two.to(one.device, one.dtype))
