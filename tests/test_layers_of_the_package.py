"""The layers of the package: imports run down one list, in no circle, and the root stays small.

CONTRIBUTING.md has the list and its reasons. Imports inside functions count, those in docstrings do not.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import captum_kd

ROOT = Path(captum_kd.__file__).parent
ROOMS = """functional labels/atomic/records/_version/_warn models attr metrics datasets visualization report
comparison distill explain demo benchmark cli"""
LAYER = {room: layer for layer, rooms in enumerate(ROOMS.split()) for room in rooms.split("/")}
LAYER[""] = LAYER["distill"]  # captum_kd/__init__.py may offer names of every room but the four applications

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports; ruff forbids relative imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in MODULES else node.module for name in paths}
    return names & MODULES.keys()


def layer(module: str) -> int:
    return LAYER[(module + ".").split(".")[1]]


def test_imports_run_down_the_list() -> None:
    edges = [(module, name) for module, path in MODULES.items() for name in imported(path)]
    assert len(edges) > len(MODULES)
    assert not [edge for edge in edges if layer(edge[1]) > layer(edge[0]) or edge[1] == "captum_kd"]


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: imported(path) for module, path in MODULES.items()}).prepare()


def test_the_root_is_small() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 6


def test_no_import_is_hidden_from_the_interpreter() -> None:
    assert not [name for name, path in MODULES.items() if "TYPE_CHECKING" in path.read_text("utf-8")]
