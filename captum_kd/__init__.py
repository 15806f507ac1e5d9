"""Explain what knowledge distillation changed in a model: a Captum plugin."""

from captum_kd.attr import UniCAM, UniqueAttributions
from captum_kd.compare import compare
from captum_kd.comparison import Comparison
from captum_kd.labels import LabelEmbeddings
from captum_kd.metrics import (
    BatchScores,
    FeatureSimilarityScore,
    RelevanceScore,
    feature_similarity_score,
    relevance_score,
)

__version__ = "0.1.0"

__all__ = [
    "BatchScores",
    "Comparison",
    "FeatureSimilarityScore",
    "LabelEmbeddings",
    "RelevanceScore",
    "UniCAM",
    "UniqueAttributions",
    "compare",
    "feature_similarity_score",
    "relevance_score",
]
