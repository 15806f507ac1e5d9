"""One thread for all libraries, and which tests are slow. Single slow tests are marked where they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# dcor imports numba, which gives OpenMP, and so torch, a thread per core again, whatever OMP_NUM_THREADS is.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

TESTS = Path(__file__).parent
# They train networks, run commands from end to end, start processes or a browser, or run many networks.
SLOW = [
    TESTS / name
    for name in (
        "benchmark",
        "attr/test_deep_unicam.py",
        "cli",
        "comparison/test_cache.py",
        "comparison/test_compare.py",
        "datasets/test_demo_pair.py",
        "datasets/test_planted_cue.py",
        "demo",
        "distill/test_features.py",
        "distill/test_recipe.py",
        "distill/test_stages.py",
        "distill/test_training.py",
        "explain",
        "models/test_fingerprint.py",
        "report/test_comparison_page.py",
        "test_import.py",
        "tutorials",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(path) for path in SLOW):
            item.add_marker(pytest.mark.slow)
