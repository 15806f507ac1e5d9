"""FSS and RS, as functions of models and as torchmetrics classes of features."""

from typing import Any

from captum_kd.metrics.batches import BatchScores
from captum_kd.metrics.relevance import relevance_score
from captum_kd.metrics.score import Score, score_with_statistics
from captum_kd.metrics.similarity import feature_similarity_score

__all__ = [
    "BatchScores",
    "FeatureSimilarityScore",
    "RelevanceScore",
    "Score",
    "feature_similarity_score",
    "relevance_score",
    "score_with_statistics",
]


def __getattr__(name: str) -> Any:
    # torchmetrics imports transformers, which takes seconds, so its classes are loaded on first use.
    if name in ("FeatureSimilarityScore", "RelevanceScore"):
        from captum_kd.metrics import streams

        return getattr(streams, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
