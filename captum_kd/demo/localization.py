"""The measures of localisation, where the demo had them before the benchmark used them too."""

from __future__ import annotations

from captum_kd.localization import auc_from_ranks, energy_share, pixel_ranks, ranking_auc, separation

__all__ = ["auc_from_ranks", "energy_share", "pixel_ranks", "ranking_auc", "separation"]
