"""The figures of a comparison, as functions of it; :class:`~captum_kd.Comparison` says what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.attr.methods import MODEL_SIDES, TwoMaps
from captum_kd.comparison.maps import Maps
from captum_kd.comparison.names import known_name, one_name
from captum_kd.comparison.scores import MAIN_QUANTITIES, Record, find_score
from captum_kd.comparison.settings import Settings
from captum_kd.metrics import Score
from captum_kd.visualization import maps_figure as plot_methods
from captum_kd.visualization import plot_kept, plot_layers, plot_models
from captum_kd.visualization import scores_figure as plot_scores
from captum_kd.visualization.grid import AxesGrid


class ShownMaps(Protocol):
    """What figures of maps take of a comparison."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def maps(self) -> Maps: ...
    @property
    def sides(self) -> dict[str, tuple[str, str]]: ...
    @property
    def settings(self) -> Settings: ...


def maps_figure(
    comparison: ShownMaps, layer: str | None = None, student: str | None = None
) -> tuple[Figure, AxesGrid]:
    """See :meth:`captum_kd.Comparison.plot_maps`."""
    student = one_name(student, tuple(comparison.maps), "student")
    layer = _layer(comparison, layer)
    return plot_methods(
        comparison.images,
        comparison.maps[student][layer],
        comparison.sides,
        _row_titles(comparison, range(len(comparison.images))),
        f"{student}, {layer}",
    )


def models_figure(
    comparison: ShownMaps,
    method: str,
    layer: str | None,
    *,
    students: Sequence[str] | None,
    images: Sequence[int] | None,
    shared_scale: bool,
    opacity: float | None,
) -> tuple[Figure, AxesGrid]:
    """See :meth:`captum_kd.Comparison.plot_models`."""
    rows = _rows(comparison, images)
    chosen = _chosen(comparison, method, None, students, rows)
    if comparison.sides[method] != MODEL_SIDES:
        fitting = [name for name, sides in comparison.sides.items() if sides == MODEL_SIDES]
        cure = (
            f"Methods that explain a single model: {', '.join(map(repr, fitting))}."
            if fitting
            else "Pass one to compare, for instance compare(methods=['Grad-CAM', ...])."
        )
        raise ValueError(
            f"{method!r} gives {' and '.join(comparison.sides[method])} maps of a pair of models, not maps "
            f"of one model. {cure}"
        )
    layer = _layer(comparison, layer)
    # The base model's maps do not depend on the student.
    columns = {"base": next(iter(chosen.values()))[layer][1]}
    columns.update({student: pairs[layer][0] for student, pairs in chosen.items()})
    return plot_models(
        comparison.images[rows],
        columns,
        shared_scale=shared_scale,
        opacity=opacity,
        row_titles=_row_titles(comparison, rows),
        title=f"{method}, {layer}",
    )


def layers_figure(
    comparison: ShownMaps,
    method: str,
    layers: Sequence[str] | None,
    *,
    students: Sequence[str] | None,
    images: Sequence[int] | None,
    shared_scale: bool,
) -> tuple[Figure, AxesGrid]:
    """See :meth:`captum_kd.Comparison.plot_layers`."""
    rows = _rows(comparison, images)
    chosen = _chosen(comparison, method, layers, students, rows)
    return plot_layers(
        comparison.images[rows],
        chosen,
        sides=comparison.sides[method],
        shared_scale=shared_scale,
        row_titles=_row_titles(comparison, rows),
        title=method,
    )


def kept_figure(
    comparison: ShownMaps,
    method: str,
    layers: str | Sequence[str] | None,
    *,
    share: float,
    students: Sequence[str] | None,
    images: Sequence[int] | None,
) -> tuple[Figure, AxesGrid]:
    """See :meth:`captum_kd.Comparison.plot_kept`."""
    rows = _rows(comparison, images)
    chosen = _chosen(comparison, method, layers, students, rows)
    return plot_kept(
        comparison.images[rows],
        chosen,
        share=share,
        sides=comparison.sides[method],
        seed=comparison.settings.seed,
        row_titles=_row_titles(comparison, rows),
        title=method,
    )


def scores_figure(
    rows: Sequence[Record],
    settings: Settings,
    *,
    quantities: Sequence[str] | None = None,
    students: Sequence[str] | None = None,
) -> tuple[Figure, Axes]:
    """See :meth:`captum_kd.Comparison.plot_scores`."""
    chosen = settings.students if students is None else tuple(students)
    if quantities is None:
        quantities = MAIN_QUANTITIES if len(chosen) == 1 else ("RS distilled",)
    series: dict[str, list[Score]] = {}
    for student in chosen:
        known_name(student, settings.students, "student")
        for quantity in quantities:
            name = quantity if len(chosen) == 1 else f"{student}: {quantity}"
            series[name] = [find_score(rows, settings, quantity, layer, student) for layer in settings.layers]
    title = chosen[0] if len(chosen) == 1 and len(settings.students) > 1 else None
    ylabel = quantities[0] if len(quantities) == 1 else "score"
    return plot_scores(series, settings.layers, ylabel=ylabel, title=title)


def _layers_with_maps(comparison: ShownMaps) -> tuple[str, ...]:
    """The layers that have maps, which are the same for all students."""
    layers = tuple(next(iter(comparison.maps.values()), {}))
    if not layers or not comparison.sides or not len(comparison.images):
        raise ValueError(
            "There are no maps to plot: compare(shown=..., methods=...) makes them, of layers that give "
            "(n, c, h, w)."
        )
    return layers


def _layer(comparison: ShownMaps, layer: str | None) -> str:
    """A layer that has maps, by default the last but one."""
    names = _layers_with_maps(comparison)
    return names[-2:][0] if layer is None else known_name(layer, names, "layer")


def _chosen(
    comparison: ShownMaps,
    method: str,
    layers: str | Sequence[str] | None,
    students: Sequence[str] | None,
    rows: list[int],
) -> dict[str, dict[str, TwoMaps]]:
    """One method's maps of some images, by student and layer."""
    names = _layers_with_maps(comparison)
    if method not in comparison.sides:
        raise ValueError(
            f"method must be one of {', '.join(map(repr, comparison.sides))}, got {method!r}; for others "
            "pass compare(methods=[...])."
        )
    wanted = (layers,) if isinstance(layers, str) else names if layers is None else tuple(layers)
    chosen: dict[str, dict[str, TwoMaps]] = {}
    for student in comparison.maps if students is None else students:
        maps = comparison.maps[known_name(student, tuple(comparison.maps), "student")]
        chosen[student] = {}
        for layer in wanted:
            ours, theirs = maps[known_name(layer, names, "layer")][method]
            chosen[student][layer] = (ours[rows], theirs[rows])
    return chosen


def _rows(comparison: ShownMaps, images: Sequence[int] | None) -> list[int]:
    _layers_with_maps(comparison)
    count = len(comparison.images)
    rows = list(range(count)) if images is None else list(images)
    for row in rows:
        if not 0 <= row < count:
            raise ValueError(f"images must be numbers from 0 to {count - 1}, got {row}.")
    return rows


def _row_titles(comparison: ShownMaps, rows: Sequence[int]) -> list[str]:
    labels: list[int] = comparison.labels[list(rows)].tolist()
    return [comparison.settings.class_name(label)[:18] for label in labels]
