"""Pure tensor functions: distances, correlations, objectives, maps, imputation."""

from captum_kd.functional.centering import (
    double_center,
    inner_product,
    u_center,
    unique_component,
)
from captum_kd.functional.correlation import (
    distance_correlation,
    distance_covariance,
    distance_variance,
    partial_distance_correlation,
    semipartial_distance_correlation,
)
from captum_kd.functional.distance import pairwise_distances, pull_back
from captum_kd.functional.imputation import noisy_linear_imputation
from captum_kd.functional.interval import confidence_interval
from captum_kd.functional.objectives import relevance, row_max, uniqueness
from captum_kd.functional.permutation import permutation_test
from captum_kd.functional.perturbation import keep_mask, multiply, road

__all__ = [
    "confidence_interval",
    "distance_correlation",
    "distance_covariance",
    "distance_variance",
    "double_center",
    "inner_product",
    "keep_mask",
    "multiply",
    "noisy_linear_imputation",
    "pairwise_distances",
    "partial_distance_correlation",
    "permutation_test",
    "pull_back",
    "relevance",
    "road",
    "row_max",
    "semipartial_distance_correlation",
    "u_center",
    "unique_component",
    "uniqueness",
]
