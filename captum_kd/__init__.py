"""Explain what knowledge distillation changed in a model: a Captum plugin."""

from typing import Any

from captum_kd._version import __version__ as __version__
from captum_kd.attr import METHODS, DeepUniCAM, MapMethod, UniCAM, UniqueAttributions
from captum_kd.comparison import Comparison, compare
from captum_kd.labels import LabelEmbeddings
from captum_kd.metrics import (
    BatchScores,
    feature_similarity_score,
    relevance_score,
)
from captum_kd.models import find_layer, tokens_to_image

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
    "find_layer",
    "relevance_score",
    "tokens_to_image",
]


def __getattr__(name: str) -> Any:
    if name in ("FeatureSimilarityScore", "RelevanceScore"):  # on first use, see captum_kd.metrics
        from captum_kd import metrics

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
