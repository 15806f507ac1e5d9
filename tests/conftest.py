"""One thread for all libraries, and which tests are slow. Single slow tests are marked where they stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# dcor imports numba, which gives OpenMP, and so torch, a thread per core again, whatever OMP_NUM_THREADS is.
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

TESTS = Path(__file__).parent
# They train networks or run commands from end to end.
SLOW = [
    TESTS / name
    for name in (
        "benchmark",
        "cli/test_benchmark.py",
        "demo",
        "distill/test_recipe.py",
        "distill/test_training.py",
        "explain",
        "tutorials",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(path) for path in SLOW):
            item.add_marker(pytest.mark.slow)
