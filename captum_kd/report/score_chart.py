"""Scores with intervals and nulls as panels, laid out in percent so that pages draw them at any width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from matplotlib.ticker import MaxNLocator

from captum_kd.metrics import Score

Scores: TypeAlias = Mapping[tuple[str, str], Score]
PANELS = (
    ("FSS", "How similar the features of the two models are", ("FSS",)),
    ("RS of all features", "How far features follow the labels", ("RS student", "RS base")),
    ("RS of unique features", "What one model has beyond the other", ("RS distilled", "RS residual")),
)


class Mark(NamedTuple):
    """A score on the track of a panel: its text, and its positions in percent of the track's width."""

    text: str
    at: float
    low: float
    width: float
    null: float


class Panel(NamedTuple):
    """Scores of one kind: a row per layer, a mark per series."""

    title: str
    subtitle: str
    series: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[tuple[str, tuple[Mark, ...]], ...]


def score_panels(scores: Mapping[str, Scores], layers: Sequence[str]) -> dict[str, list[Panel]]:
    """Lay out panels of FSS and RS for each student; all RS share one axis, so that they can be compared.

    Args:
        scores: For each student the score of each ``(quantity, layer)``, including those of :data:`PANELS`.
        layers: The names of the layers, first to last.

    Returns:
        The panels of each student.

    Example:
        >>> one = Score(0.5, 0.25, 0.75, 0.0, 0.1, 0.005, 99, "unbiased")
        >>> all_ = {(quantity, "layer4"): one for panel in PANELS for quantity in panel[2]}
        >>> score_panels({"mine": all_}, ["layer4"])["mine"][0].rows
        (('layer4', (Mark(text='0.500', at=50.0, low=25.0, width=50.0, null=10.0),)),)
    """
    return {
        student: [
            Panel(
                title,
                subtitle,
                quantities,
                tuple((_share(tick, *axis), _text(tick, "g")) for tick in _ticks(*axis)),
                tuple(
                    (layer, tuple(_mark(own[quantity, layer], *axis) for quantity in quantities))
                    for layer in layers
                ),
            )
            for title, subtitle, quantities in PANELS
            for axis in [(0.0, 1.0) if quantities == ("FSS",) else _axis(scores.values())]
        ]
        for student, own in scores.items()
    }


def _axis(scores: Iterable[Scores]) -> tuple[float, float]:
    """Round limits that contain zero and every RS with its interval and null."""
    shown = [name for _, _, names in PANELS for name in names if name != "FSS"]
    every = [s for own in scores for (name, _), s in own.items() if name in shown]
    least = min(0.0, *(min(s.low, s.value, s.null_high) for s in every))
    most = max(0.0, *(max(s.high, s.value, s.null_high) for s in every))
    ticks = MaxNLocator(5).tick_values(least, most)
    return float(ticks[0]), float(ticks[-1])


def _ticks(low: float, high: float) -> list[float]:
    return [float(tick) for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]


def _mark(score: Score, low: float, high: float) -> Mark:
    at, start, end, null = (
        _share(x, low, high) for x in (score.value, score.low, score.high, score.null_high)
    )
    return Mark(_text(round(score.value, 3), ".3f"), at, start, round(end - start, 2), null)


def _text(value: float, style: str) -> str:
    # Adding zero turns "-0.000" into "0.000".
    return format(value + 0.0, style).replace("-", "\N{MINUS SIGN}")


def _share(value: float, low: float, high: float) -> float:
    return round(min(max(100 * (value - low) / (high - low), 0.0), 100.0), 2)
