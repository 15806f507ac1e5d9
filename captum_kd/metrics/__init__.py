"""FSS and RS, as functions of models and as torchmetrics classes of features."""

from captum_kd.metrics.batches import BatchScores
from captum_kd.metrics.relevance import RelevanceScore, relevance_score
from captum_kd.metrics.score import Score, score_with_statistics
from captum_kd.metrics.similarity import FeatureSimilarityScore, feature_similarity_score

__all__ = [
    "BatchScores",
    "FeatureSimilarityScore",
    "RelevanceScore",
    "Score",
    "feature_similarity_score",
    "relevance_score",
    "score_with_statistics",
]
