"""What ``import captum_kd`` does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = ("lightning", "sklearn", "timm", "torchmetrics", "transformers")


def imported_after(code: str) -> set[str]:
    """Which of the slow packages a fresh interpreter has imported after running code."""
    code += f"\nimport sys\nprint(*(name for name in {SLOW} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_slow_packages_are_imported_when_they_are_needed() -> None:
    assert not imported_after("import captum_kd, captum_kd.distill, captum_kd.cli.main")
    assert imported_after("from captum_kd import FeatureSimilarityScore") >= {"torchmetrics"}


def test_classes_that_are_loaded_on_first_use_are_ordinary_names() -> None:
    import captum_kd
    from captum_kd.metrics.streams import FeatureSimilarityScore, RelevanceScore

    for package in (captum_kd, captum_kd.metrics):
        assert package.FeatureSimilarityScore is FeatureSimilarityScore
        assert package.RelevanceScore is RelevanceScore
        with pytest.raises(AttributeError, match="has no attribute 'Relevance'"):
            _ = package.Relevance
