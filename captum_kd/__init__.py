"""Explain what knowledge distillation changed in a model: a Captum plugin."""

from captum_kd.attr import UniCAM, UniqueAttributions
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
    "FeatureSimilarityScore",
    "LabelEmbeddings",
    "RelevanceScore",
    "UniCAM",
    "UniqueAttributions",
    "feature_similarity_score",
    "relevance_score",
]
