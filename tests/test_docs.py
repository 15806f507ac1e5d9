"""The documentation says nothing that is not there: names, files, commands, messages and numbers."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from captum_kd.cli.main import main
from captum_kd.metrics import Score
from captum_kd.report.tables import score_cell

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GENERATED = {"_build", "tutorials"}
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if not GENERATED & set(p.parts))]
MODULES = ["", ".attr", ".distill", ".functional", ".metrics", ".models", ".visualization"]


def resolve(dotted: str) -> Any:
    """The object of a dotted name."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def documented() -> list[Any]:
    """Every object that an API page has, by name or as a member of a module."""
    objects = []
    for page in (DOCS / "api").glob("*.md"):
        text = page.read_text("utf-8")
        objects += [resolve(name) for name in re.findall(r"auto(?:class|function|data):: ([\w.]+)", text)]
        for name in re.findall(r"automodule:: ([\w.]+)\n +:members:", text):
            module = importlib.import_module(name)
            members = {member: getattr(module, member) for member in public_names(module)}
            # Constants have no docstring for autodoc to take, so the page has to say what they are.
            objects += [v for n, v in members.items() if callable(v) or f"`{n}`" in text]
    return objects


def public_names(module: Any) -> list[str]:
    own = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]
    return list(getattr(module, "__all__", [n for n in own if not n.startswith("_")]))


@pytest.mark.parametrize("suffix", MODULES)
def test_public_names_are_documented(suffix: str) -> None:
    module = importlib.import_module(f"captum_kd{suffix}")
    found = documented()
    missing = [n for n in public_names(module) if not any(getattr(module, n) is one for one in found)]
    assert public_names(module)
    assert not missing, f"docs/api lacks {missing} of {module.__name__}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", text) + re.findall(r"^```\{include\} (\S+)", text, re.M)
    for target in targets:
        if not re.match(r"https?:", target):
            path = page.parent / target
            tutorial = ROOT / "tutorials" / f"{path.name}.ipynb"
            assert path.exists() or tutorial.exists(), f"{page.name} links {target}"
    for script in re.findall(r"\b(?:benchmarks|scripts)/\w+\.py", text):
        assert (ROOT / script).exists(), f"{page.name} names {script}"


def shell_commands(text: str) -> Iterator[list[str]]:
    """The captum-kd commands of a page, in blocks of code and in lines."""
    for block in re.findall(r"^```.*?^```", text, re.M | re.S):
        for command in re.findall(r"^(?:\$ )?captum-kd (.+)$", re.sub(r"\\\n\s*", " ", block), re.M):
            yield shlex.split(command, comments=True)
    for command in re.findall(r"`captum-kd ([^`]+)`", text.replace("\n", " ")):
        yield shlex.split(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_options_that_are_written(page: Path) -> None:
    for name, *arguments in shell_commands(page.read_text("utf-8")):
        command = main.commands[name]
        if not any("$" in a or "…" in a for a in arguments):
            command.make_parser(click.Context(command)).parse_args(arguments)


def message_template(node: ast.expr) -> str:
    """A text as written in the source, with … for what differs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(message_template(value) for value in node.values)
    return "…"


@functools.cache
def messages() -> list[str]:
    """Every text in the package's source but docstrings."""
    found = []
    for path in (ROOT / "captum_kd").rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        texts = (n for n in ast.walk(tree) if isinstance(n, (ast.Constant, ast.JoinedStr)))
        found += [message_template(node) for node in texts if id(node) not in docstrings]
    return found


def pattern_of(heading: str) -> re.Pattern[str]:
    """A heading as a pattern: its fixed parts in their order."""
    parts = [part.strip() for part in heading.strip("`").split("…")]
    return re.compile(".*".join(re.escape(part) for part in parts if part.strip(".,;:() ")))


def provoked(section: str) -> list[str]:
    """The messages that a section's examples, which pytest runs, expect."""
    return re.findall(r"^Traceback.*\n(.+)", section, re.M) + re.findall(r"\.message\)\n(.+)", section)


TROUBLES = dict(
    re.findall(r"^### (.+)\n([^#]*)", (DOCS / "troubleshooting.md").read_text("utf-8"), re.M),
)


@pytest.mark.parametrize("heading", TROUBLES)
def test_troubleshooting_is_keyed_by_messages_of_the_package(heading: str) -> None:
    assert re.fullmatch("`[^`]+`", heading)
    expected = provoked(TROUBLES[heading])
    assert any(pattern_of(heading).search(text) for text in (expected or messages()))


def test_most_messages_are_provoked_and_invented_ones_noticed() -> None:
    assert sum(bool(provoked(section)) for section in TROUBLES.values()) > len(TROUBLES) / 2
    assert not any(pattern_of("`… has no teacher. …`").search(text) for text in messages())


def test_tables_of_the_demo_are_its_results() -> None:
    """The README's tables, which the documentation includes, hold the numbers of docs/demo_results.json."""
    results = json.loads((DOCS / "demo_results.json").read_text("utf-8"))
    block = (ROOT / "README.md").read_text("utf-8").split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    rows: dict[str, dict[str, dict[str, str]]] = {}
    for section in re.split(r"\n(?=[^|\n])", block):
        caption, *table = [line for line in section.splitlines() if line.strip()] or [""]
        cells = [[c.strip(" *") for c in line.strip("|").split("|")] for line in table]
        rows[caption] = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[2:]}
    for row in results["localization"]:
        caption = {"auc": "ranking AUC", "energy": "share of positive energy"}[row["measure"]]
        shown = rows[f"Separation by {caption}"][row["method"]][row["layer"]]
        assert shown == f"{row['separation']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    for key, caption in (
        ("scores", "FSS and RS of globally pooled features"),
        ("kept", "RS of images reduced to 20 % of their pixels by ROAD"),
    ):
        for row in results[key]:
            value, note = score_cell(Score(*(row[field] for field in Score._fields)))
            assert rows[caption][row["quantity"]][row["layer"]] == f"{value} ({note})"
