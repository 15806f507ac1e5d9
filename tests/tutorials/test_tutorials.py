"""Every tutorial runs from top to bottom, and says what is committed with it."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIALS = sorted((Path(__file__).parents[2] / "tutorials").glob("*.ipynb"))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# Libraries and processors round differently; a printed number may end in another digit.
TOLERANCE = {"abs": 0.02, "rel": 0.02}
MOST_BYTES = 900_000

each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


def printed(cell: Any) -> str:
    return "".join(
        o["text"] for o in cell["outputs"] if o["output_type"] == "stream" and o["name"] == "stdout"
    )


def shown(cell: Any) -> list[set[str]]:
    """The formats of everything that a cell shows beside what it prints."""
    return [set(o["data"]) for o in cell["outputs"] if o["output_type"] in ("execute_result", "display_data")]


def texts(cell: Any) -> list[str]:
    """What is printed and shown as text; of a figure the text says no more than its size."""
    data = [o["data"] for o in cell["outputs"] if "data" in o]
    return [printed(cell), *(d.get("text/plain", "") for d in data if "image/png" not in d)]


def skeleton(text: str) -> str:
    """A text without its numbers and without the spaces that depend on their width."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", text)).strip()


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_five() -> None:
    assert [path.name[:2] for path in TUTORIALS] == ["1_", "2_", "3_", "4_", "5_"]


@each
def test_a_run_says_what_is_committed(path: Path) -> None:
    committed = nbformat.read(path, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    for before, now in zip(code_cells(committed), code_cells(notebook), strict=True):
        assert shown(now) == shown(before), before["source"]
        for old, new in zip(texts(before), texts(now), strict=True):
            assert skeleton(new) == skeleton(old)
            assert numbers(new) == pytest.approx(numbers(old), **TOLERANCE)
        warned = [o["text"] for o in now["outputs"] if o.get("name") == "stderr"]
        assert not any("UserWarning" in text or "DeprecationWarning" in text for text in warned), warned


@each
def test_committed_outputs_are_clean(path: Path) -> None:
    cells = code_cells(nbformat.read(path, as_version=4))
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
    for cell in cells:
        for text in texts(cell):
            assert not re.search(r"(?<![\w.])/[\w.-]+/|[A-Za-z]:\\|site-packages", text), text
    assert path.stat().st_size < MOST_BYTES


@each
def test_headings_are_in_order(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    source = "\n".join(cell["source"] for cell in notebook.cells if cell.cell_type == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#+) ", source, flags=re.M)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(following <= level + 1 for level, following in pairwise(levels))
    assert not re.search(r"</?[a-z]+[ >]", source), "raw HTML"
