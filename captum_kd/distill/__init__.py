"""Training students from a teacher: losses as plain modules, and the recipe of ``captum-kd distill``.

The losses need PyTorch alone; the recipe needs the extra ``distill`` (Lightning, scikit-learn, timm).
"""

from captum_kd.distill.features import last_batch_norm, run_with_features
from captum_kd.distill.losses import AttentionLoss, ResponseLoss, attention_map
from captum_kd.distill.overhaul import OverhaulLoss, margin_relu, partial_l2, relu_margins

__all__ = [
    "AttentionLoss",
    "OverhaulLoss",
    "ResponseLoss",
    "attention_map",
    "last_batch_norm",
    "margin_relu",
    "partial_l2",
    "relu_margins",
    "run_with_features",
]
