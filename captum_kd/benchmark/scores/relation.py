"""Does RS predict how good a model is, or what it relies on? Over all trained models of the benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from captum_kd.benchmark.scores.measure import ModelRow, PairRow, finished, measure_models
from captum_kd.datasets.in_memory import read_fashion_mnist


class Coefficient(NamedTuple):
    """A rank correlation over models, with its bootstrap interval.

    Attributes:
        question: What is correlated with what.
        layer: The layer of the score.
        within: The mean of Spearman's correlations within each geometry and seed.
        low: The lower end of the percentile interval over models, redrawn within each geometry and seed.
        high: The upper end.
        pooled: Spearman's correlation over all points.
        points: The number of models or pairs.
        groups: The number of groups, each a geometry and seed.
    """

    question: str
    layer: str
    within: float
    low: float
    high: float
    pooled: float
    points: int
    groups: int


class Relation(NamedTuple):
    """What was found over many models.

    Attributes:
        models: A row for each model.
        pairs: A row for each ordered pair of models.
        coefficients: The rank correlations.
    """

    models: list[ModelRow]
    pairs: list[PairRow]
    coefficients: list[Coefficient]


def relate_finished(models: Path, root: Path, report: Callable[[str], None] = print) -> Relation:
    """Measure all finished models of the localization benchmark, and correlate what was measured.

    Args:
        models: The folder of all trained models.
        root: The folder that holds Fashion-MNIST, or that it is downloaded to.
        report: Called with the name of each geometry and seed.

    Raises:
        ValueError: There is no geometry and seed whose models are all trained.
    """
    folders = finished(models)
    if not folders:
        raise ValueError(
            f"{models} has no geometry and seed whose models are all trained; "
            "captum-kd benchmark localization --size full trains them."
        )
    test = read_fashion_mnist(root)[1]
    rows, pairs = [], []
    for geometry, seed, folder in folders:
        report(f"{geometry}, seed {seed}")
        more_rows, more_pairs = measure_models(geometry, seed, folder, test.data, test.targets)
        rows += more_rows
        pairs += more_pairs
    return Relation(rows, pairs, coefficients(rows, pairs))


def coefficients(rows: Sequence[ModelRow], pairs: Sequence[PairRow], draws: int = 499) -> list[Coefficient]:
    """Correlate scores with what models do.

    Args:
        rows: The rows of all models.
        pairs: The rows of their pairs.
        draws: The number of bootstrap samples of models.

    Returns:
        A coefficient for each question and layer.
    """
    layers = list(rows[0].relevance)
    found = []
    by_model: dict[str, Callable[[ModelRow, str], tuple[float, float]]] = {
        "RS, accuracy": lambda r, layer: (r.relevance[layer], r.accuracy),
        "RS, predicts the cue": lambda r, layer: (r.relevance[layer], r.cue_agreement),
        "RS of cues, predicts the cue": lambda r, layer: (r.cue_relevance[layer], r.cue_agreement),
        "RS on biased images, accuracy": lambda r, layer: (r.biased_relevance[layer], r.accuracy),
        "RS on biased images, predicts the cue": lambda r, layer: (
            r.biased_relevance[layer],
            r.cue_agreement,
        ),
        "RS on biased images, accuracy on them": lambda r, layer: (
            r.biased_relevance[layer],
            r.biased_accuracy,
        ),
    }
    for question, values in by_model.items():
        for layer in layers:
            points = [((r.geometry, r.seed), (r.model,), values(r, layer)) for r in rows]
            found.append(_coefficient(question, layer, points, draws))
    by_pair: dict[str, Callable[[PairRow, str], float]] = {
        "RS distilled": lambda p, layer: p.relevance[layer],
        "RS distilled on biased images": lambda p, layer: p.biased_relevance[layer],
    }
    distilled = [pair for pair in pairs if pair.is_distillation()]
    for question, value in by_pair.items():
        for name, some in (("students", distilled), ("all pairs", pairs)):
            for layer in layers:
                pairs_points = [
                    (
                        (p.geometry, p.seed),
                        (p.student,) if name == "students" else (p.student, p.base),
                        (value(p, layer), p.gain),
                    )
                    for p in some
                ]
                found.append(_coefficient(f"{question}, gain ({name})", layer, pairs_points, draws))
    return found


def _coefficient(
    question: str,
    layer: str,
    points: Sequence[tuple[tuple[str, int], tuple[str, ...], tuple[float, float]]],
    draws: int,
) -> Coefficient:
    """The coefficient of points, each with its group and the models it belongs to."""
    groups: dict[tuple[str, int], list[tuple[tuple[str, ...], tuple[float, float]]]] = {}
    for group, models, point in points:
        groups.setdefault(group, []).append((models, point))
    generator = torch.Generator().manual_seed(0)
    within, drawn = [], []
    for members in groups.values():
        values = torch.tensor([point for _, point in members], dtype=torch.float64).T
        within.append(_spearman(values))
        names = sorted({name for models, _ in members for name in models})
        takes_part = torch.tensor([[names.index(name) for name in models] for models, _ in members])
        of_group = []
        for _ in range(draws):
            times = torch.randint(len(names), (len(names),), generator=generator).bincount(
                minlength=len(names)
            )
            # A pair comes as often as both of its models.
            of_group.append(_spearman(values.repeat_interleave(times[takes_part].prod(1), dim=1)))
        drawn.append(of_group)
    every = torch.tensor([point for _, _, point in points], dtype=torch.float64).T
    means = torch.tensor(drawn, dtype=torch.float64).nanmean(0)
    low, high = means.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean = torch.tensor(within, dtype=torch.float64).nanmean().item()
    return Coefficient(question, layer, mean, low, high, _spearman(every), len(points), len(groups))


def _spearman(values: Tensor) -> float:
    if values.shape[1] < 2:
        return math.nan
    # As scipy.stats.spearmanr, which takes three times as long for its p-value.
    with np.errstate(invalid="ignore"):  # the correlation of a draw that repeats a single point is NaN
        return float(np.corrcoef(rankdata(values.numpy(), axis=1))[0, 1])
