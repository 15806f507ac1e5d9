"""Explain what knowledge distillation changed in a model: a Captum plugin."""

from captum_kd._version import __version__ as __version__
from captum_kd.attr import UniCAM, UniqueAttributions
from captum_kd.comparison import Comparison, compare
from captum_kd.labels import LabelEmbeddings
from captum_kd.metrics import (
    BatchScores,
    FeatureSimilarityScore,
    RelevanceScore,
    feature_similarity_score,
    relevance_score,
)
from captum_kd.models import find_layer, tokens_to_image

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
    "find_layer",
    "relevance_score",
    "tokens_to_image",
]
