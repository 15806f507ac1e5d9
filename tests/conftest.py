"""Which tests are slow. Single slow tests elsewhere are marked where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

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
