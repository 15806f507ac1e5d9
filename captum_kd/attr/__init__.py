"""Attribution methods."""

from captum_kd.attr.unicam import UniCAM, UniqueAttributions

__all__ = ["UniCAM", "UniqueAttributions"]
