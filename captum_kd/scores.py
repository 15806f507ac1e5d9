"""FSS and RS of a pair at one layer, with everything needed to believe them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_kd.capture import capture
from captum_kd.functional.cam import pool_activations
from captum_kd.labels import embedding_rows
from captum_kd.methods import Case
from captum_kd.metrics import Score, score_with_statistics

BATCH_SIZE = 64


class ScoreRow(NamedTuple):
    """An FSS or RS at one layer."""

    quantity: str
    layer: str
    score: Score


def score_layer(case: Case, layer: str, classes: Mapping[str, Tensor]) -> list[ScoreRow]:
    """FSS, and RS of overall, distilled and residual features.

    Features are globally pooled, labels one-hot; FSS is biased as in the paper, RS bias-corrected.

    Args:
        case: The pair and the images ``(n, 3, h, w)``.
        layer: A layer's name.
        classes: Name of the classes that relevance is asked for, to the class of each image, int64 ``(n,)``.

    Returns:
        A row for FSS, and four for each kind of classes.
    """
    student, base = (pooled_features(m, layer, case.images) for m in (case.student, case.base))
    score = partial(score_with_statistics, generator=torch.Generator().manual_seed(0))
    rows = [ScoreRow("FSS", layer, score(student, base, estimator="biased"))]
    for word, indices in classes.items():
        labels = embedding_rows(None, indices)
        rows += [
            ScoreRow(f"RS({word}) student", layer, score(student, labels)),
            ScoreRow(f"RS({word}) base", layer, score(base, labels)),
            ScoreRow(f"RS({word}) distilled", layer, score(student, labels, given=base)),
            ScoreRow(f"RS({word}) residual", layer, score(base, labels, given=student)),
        ]
    return rows


def pooled_features(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Globally pooled activations of a layer, ``(n, c)``."""
    module = model.get_submodule(layer)
    parts = [capture(model, [module], batch).activations[0] for batch in images.split(BATCH_SIZE)]
    return torch.cat([pool_activations(part, 1).flatten(1) for part in parts])
