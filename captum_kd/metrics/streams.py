"""FSS and RS of streams of features, as torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from captum_kd.functional.correlation import Estimator, check_estimator
from captum_kd.labels import LabelEmbeddings
from captum_kd.metrics.batches import BatchScores, mean_score
from captum_kd.metrics.relevance import batch_relevance
from captum_kd.metrics.similarity import batch_similarity


class MeanOverBatches(Metric):
    """Mean of a score over mini-batches; the scores of several processes are gathered.

    Args:
        estimator: "biased" or "unbiased".
        **options: Passed to :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    sizes: list[Tensor]
    left_out: Tensor

    def __init__(self, *, estimator: Estimator, **options: Any) -> None:
        super().__init__(**options)
        check_estimator(estimator)
        self.estimator = estimator
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("sizes", default=[], dist_reduce_fx="cat")
        self.add_state("left_out", default=torch.tensor(0), dist_reduce_fx="sum")

    def _add(self, score: Tensor | None, size: int) -> None:
        if score is None:
            self.left_out += 1
            return
        self.scores.append(score.reshape(1))
        self.sizes.append(torch.tensor([size], device=score.device))

    def compute(self) -> Tensor:
        """Return the mean over the mini-batches that could be scored."""
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
        """
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

    def update(self, features: Tensor, target: Tensor, given: Tensor | None = None) -> None:
        """Add a mini-batch.

        Args:
            features: Features ``(n, ...)``.
            target: Class indices ``(n,)``.
            given: Another model's features on the same samples; the score is then that of what ``features``
                have beyond them (distilled or residual features).
        """
        score = batch_relevance(features, target, self.label_embeddings, given, self.estimator)
        self._add(score, len(features))
