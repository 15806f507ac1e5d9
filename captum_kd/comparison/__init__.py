"""One call that compares students with their base model, and what it found."""

from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from captum_kd.comparison.settings import Settings

__all__ = ["Comparison", "Settings", "compare"]
