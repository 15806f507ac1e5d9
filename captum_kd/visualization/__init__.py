"""Figures. Each function returns ``(figure, axes)`` and neither shows nor saves anything.

Scales are shared across models, so that strengths can be compared. Colours can be told apart in grey print
and with colour blindness.

====================  =============================================================  ===================
``plot_curves``       learning curves over folds                                     the paper's Fig. 2
``plot_models``       one method's maps of several models at one layer               Fig. 3
``scores_figure``     FSS and RS per layer, with intervals and nulls                 Fig. 4
``plot_layers``       two sides, for instance distilled and residual, of each layer  Fig. 5, 7, 8, A.1
``plot_kept``         what the two sides keep of an image                            Fig. 1, C.1
``maps_figure``       several methods beside each other at one layer
``plot_maps``         any maps beside their images
``plot_intervals``    any values with intervals
====================  =============================================================  ===================
"""

from captum_kd.visualization.curves import plot_curves
from captum_kd.visualization.kept import plot_kept
from captum_kd.visualization.layers import plot_layers
from captum_kd.visualization.maps import Outline, maps_figure, plot_maps, plot_models
from captum_kd.visualization.scores import plot_intervals, scores_figure
from captum_kd.visualization.style import (
    POSITIVE_COLOURS,
    SERIES_COLOURS,
    SERIES_MARKERS,
    SIGNED_COLOURS,
    displayable,
    series_style,
)

__all__ = [
    "POSITIVE_COLOURS",
    "SERIES_COLOURS",
    "SERIES_MARKERS",
    "SIGNED_COLOURS",
    "Outline",
    "displayable",
    "maps_figure",
    "plot_curves",
    "plot_intervals",
    "plot_kept",
    "plot_layers",
    "plot_maps",
    "plot_models",
    "scores_figure",
    "series_style",
]
