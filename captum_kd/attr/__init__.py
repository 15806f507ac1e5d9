"""Attribution methods."""

from captum_kd.attr.deep_unicam import DeepUniCAM
from captum_kd.attr.methods import METHODS, MapMethod
from captum_kd.attr.pair_attribution import UniqueAttributions
from captum_kd.attr.unicam import UniCAM

__all__ = ["METHODS", "DeepUniCAM", "MapMethod", "UniCAM", "UniqueAttributions"]
