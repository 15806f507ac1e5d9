"""Explain what knowledge distillation changed in a model: a Captum plugin."""

from captum_kd._version import __version__ as __version__
from captum_kd.attr import METHODS, DeepUniCAM, MapMethod, UniCAM, UniqueAttributions
from captum_kd.comparison import Comparison, compare
from captum_kd.labels import LabelEmbeddings
from captum_kd.metrics import (
    BatchScores,
    FeatureSimilarityScore,
    RelevanceScore,
    feature_similarity_score,
    relevance_score,
)

__all__ = [
    "METHODS",
    "BatchScores",
    "Comparison",
    "DeepUniCAM",
    "FeatureSimilarityScore",
    "LabelEmbeddings",
    "MapMethod",
    "RelevanceScore",
    "UniCAM",
    "UniqueAttributions",
    "compare",
    "feature_similarity_score",
    "relevance_score",
]
