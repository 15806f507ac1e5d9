"""The figures of a comparison that show its maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from captum_kd.comparison.file import Maps
from captum_kd.visualization import maps_figure, plot_kept, plot_layers, plot_models

_ONE_MODEL_SIDES = ("student", "base")


class MapFigures:
    """The figures that :class:`~captum_kd.comparison.Comparison` makes of its images and maps."""

    images: Tensor
    labels: Tensor
    maps: Maps
    sides: dict[str, tuple[str, str]]
    settings: dict[str, Any]

    def plot_maps(self, layer: str | None = None, student: str | None = None) -> tuple[Figure, Any]:
        """The shown images with the maps of every method at one layer, its two sides on one scale.

        Args:
            layer: Which. None: the last but one that has maps.
            student: Which; may be left out where there is only one.

        Returns:
            The figure and its axes, an array ``(images, 1 + 2 * methods)``.

        Raises:
            ValueError: No such student or layer, or no maps were made.
        """
        student = one_name(student, tuple(self.maps), "student")
        names = self._map_layers()
        layer = names[-2:][0] if layer is None else known_name(layer, names, "layer")
        maps = self.maps[student][layer]
        return maps_figure(self.images, maps, self.sides, self._row_titles(), f"{student}, {layer}")

    def plot_models(
        self,
        method: str = "Grad-CAM",
        layer: str | None = None,
        *,
        students: Sequence[str] | None = None,
        images: Sequence[int] | None = None,
        shared_scale: bool = True,
        opacity: float | None = None,
    ) -> tuple[Figure, Any]:
        """One method's maps of the base model and the students, as in the paper's Figure 3.

        Args:
            method: One that explains one model, such as "Grad-CAM", of those that ``compare`` was given.
            layer: Which. None: the last but one that has maps.
            students: Which. None: all.
            images: Numbers of the shown images. None: all.
            shared_scale: One scale for all models within a row; False: each panel has its own.
            opacity: Draw maps over the images, see :func:`captum_kd.visualization.plot_maps`.

        Returns:
            The figure and its axes, an array ``(images, 2 + students)``.

        Raises:
            ValueError: An unknown name, a method that explains a pair of models, or no maps were made.
        """
        chosen = self._chosen(method, None, students)
        if self.sides[method] != _ONE_MODEL_SIDES:
            fitting = [name for name, sides in self.sides.items() if sides == _ONE_MODEL_SIDES]
            cure = (
                f"Of one model are: {', '.join(map(repr, fitting))}."
                if fitting
                else "Pass one to compare, for instance compare(methods=['Grad-CAM', ...])."
            )
            raise ValueError(
                f"{method!r} gives {' and '.join(self.sides[method])} maps of a pair of models, not maps of "
                f"one model. {cure}"
            )
        names = self._map_layers()
        layer = names[-2:][0] if layer is None else known_name(layer, names, "layer")
        rows = self._rows(images)
        # The base model's maps do not depend on the student.
        columns = {"base": next(iter(chosen.values()))[layer][1][rows]}
        columns.update({student: pairs[layer][0][rows] for student, pairs in chosen.items()})
        return plot_models(
            self.images[rows],
            columns,
            shared_scale=shared_scale,
            opacity=opacity,
            row_titles=self._row_titles(rows),
            title=f"{method}, {layer}",
        )

    def plot_layers(
        self,
        method: str,
        layers: Sequence[str] | None = None,
        *,
        students: Sequence[str] | None = None,
        images: Sequence[int] | None = None,
        shared_scale: bool = True,
    ) -> tuple[Figure, Any]:
        """Both sides of a method at every layer, as in the paper's Figure 5.

        Args:
            method: One of those that ``compare`` was given.
            layers: Which. None: all that have maps.
            students: Which, below each other. None: all.
            images: Numbers of the shown images. None: all.
            shared_scale: One scale for the maps of an image at a layer; False: each panel has its own.

        Returns:
            The figure and its axes, an array ``(images * 2 * students, 1 + layers)``.

        Raises:
            ValueError: An unknown name, or no maps were made.
        """
        rows = self._rows(images)
        return plot_layers(
            self.images[rows],
            self._chosen(method, layers, students, rows),
            sides=self.sides[method],
            shared_scale=shared_scale,
            row_titles=self._row_titles(rows),
            title=method,
        )

    def plot_kept(
        self,
        method: str,
        layers: str | Sequence[str] | None = None,
        *,
        share: float = 0.2,
        students: Sequence[str] | None = None,
        images: Sequence[int] | None = None,
    ) -> tuple[Figure, Any]:
        """The images reduced to what maps rank highest, as in the paper's Figures 1 and C.1.

        Args:
            method: One of those that ``compare`` was given.
            layers: Which. None: all that have maps.
            share: The share of pixels that is kept; the others are imputed (ROAD).
            students: Which, below each other. None: all.
            images: Numbers of the shown images. None: all.

        Returns:
            The figure and its axes, an array ``(images * 2 * students, 1 + layers)``.

        Raises:
            ValueError: An unknown name, a share that is not from 0 to 1, or no maps were made.
        """
        rows = self._rows(images)
        return plot_kept(
            self.images[rows],
            self._chosen(method, layers, students, rows),
            share=share,
            sides=self.sides[method],
            seed=self.settings.get("seed", 0),
            row_titles=self._row_titles(rows),
            title=method,
        )

    def _map_layers(self) -> tuple[str, ...]:
        """The layers that have maps, which are the same for all students."""
        layers = tuple(next(iter(self.maps.values()), {}))
        if not layers or not self.sides or not len(self.images):
            raise ValueError(
                "There are no maps to plot: compare(shown=..., methods=...) makes them, of layers that give "
                "(n, c, h, w)."
            )
        return layers

    def _chosen(
        self,
        method: str,
        layers: str | Sequence[str] | None,
        students: Sequence[str] | None,
        rows: Sequence[int] | None = None,
    ) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """One method's maps of some images, by student and layer."""
        names = self._map_layers()
        if method not in self.sides:
            raise ValueError(
                f"method must be one of {', '.join(map(repr, self.sides))}, got {method!r}; for others pass "
                "compare(methods=[...])."
            )
        wanted = (layers,) if isinstance(layers, str) else names if layers is None else tuple(layers)
        models = tuple(self.maps) if students is None else tuple(students)
        chosen: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        for student in models:
            of_student = self.maps[known_name(student, tuple(self.maps), "student")]
            chosen[student] = {}
            for layer in wanted:
                ours, theirs = of_student[known_name(layer, names, "layer")][method]
                picked = slice(None) if rows is None else list(rows)
                chosen[student][layer] = (ours[picked], theirs[picked])
        return chosen

    def _rows(self, images: Sequence[int] | None) -> list[int]:
        self._map_layers()
        rows = list(range(len(self.images))) if images is None else list(images)
        for row in rows:
            if not 0 <= row < len(self.images):
                raise ValueError(f"images must be numbers from 0 to {len(self.images) - 1}, got {row}.")
        return rows

    def _row_titles(self, rows: Sequence[int] | None = None) -> list[str]:
        classes = self.settings.get("class_names") or []
        labels = self.labels if rows is None else self.labels[list(rows)]
        return [classes[i][:18] if i < len(classes) else f"class {i}" for i in labels.tolist()]


def known_name(name: str, names: tuple[str, ...], option: str) -> str:
    """The name, if it is one of ``names``.

    Raises:
        ValueError: It is not.
    """
    if name not in names:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, names))}, got {name!r}.")
    return name


def one_name(name: str | None, names: tuple[str, ...], option: str) -> str:
    """The name, which may be left out where there is only one.

    Raises:
        ValueError: It is left out where there are several, or unknown.
    """
    if name is None:
        if len(names) > 1:
            raise ValueError(f"{option} is needed, one of {', '.join(map(repr, names))}.")
        return names[0]
    return known_name(name, names, option)
