"""Files of the repository: they parse, and they agree with each other."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from captum_kd import __version__
from tests.conftest import SLOW

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", "utf-8")


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def requirements(text: str) -> dict[str, Requirement]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {r.name.lower(): r for r in map(Requirement, lines)}


def test_the_citation_names_software_paper_and_version() -> None:
    citation = parsed(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license"} <= citation.keys()
    assert citation["version"] == __version__
    (paper,) = citation["references"]
    cited = (ROOT / "docs" / "citation.md").read_text("utf-8").replace("\n> ", " ")
    assert paper["title"] in cited
    for author in paper["authors"]:
        assert author["family-names"] in cited


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_ask_something(path: Path) -> None:
    form = parsed(path)
    assert form["name"]
    assert form["description"]
    asked = [element for element in form["body"] if element["type"] != "markdown"]
    assert len({element["id"] for element in asked}) == len(asked) > 1
    assert all(element["attributes"]["label"] for element in asked)


def test_contact_links_have_an_address() -> None:
    for link in parsed(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["contact_links"]:
        assert link["name"]
        assert link["about"]
        assert link["url"].startswith("https://")


def test_the_workflow_tests_every_python_that_is_promised() -> None:
    jobs = parsed(GITHUB / "workflows" / "ci.yml")["jobs"]
    assert set(jobs) == {"lint", "tests", "minimum-versions", "docs"}
    promised = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert jobs["tests"]["strategy"]["matrix"]["python-version"] == promised
    assert SETUP["options"]["python_requires"] == f">={promised[0]}"


def test_hooks_run_what_make_runs() -> None:
    (repository,) = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    for hook in repository["hooks"]:
        words = hook["entry"].replace(".venv/bin", "$(BIN)").removesuffix(" --force-exclude")
        assert f"\t{words} " in MAKEFILE or f"\t{words}\n" in MAKEFILE


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md", ".github/workflows/ci.yml", ".ci/run"])
def test_make_has_the_targets_that_are_named(name: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.M))
    text = (ROOT / name).read_text("utf-8")
    commands = re.findall(r"(?:^|`|\(|run: )make ((?:[a-z][a-z0-9-]* ?)+)", text, re.M)
    named = {target for command in commands for target in command.split()}
    assert named
    assert named <= targets


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    extras = SETUP["options.extras_require"]
    promised = requirements(SETUP["options"]["install_requires"] + extras["distill"])
    tested = requirements((ROOT / "constraints-minimum.txt").read_text("utf-8"))
    for name, requirement in promised.items():
        (lower,), (pin,) = requirement.specifier, tested[name].specifier
        assert (lower.operator, pin.operator) == (">=", "==")
        assert re.fullmatch(rf"{re.escape(lower.version)}(\.0)*(\.post0)?", pin.version), name
    assert tested.keys() == promised.keys()
    tools = requirements("\n".join(extras["test"].replace("captum-kd[distill]", "").split("\n")))
    newest = requirements((ROOT / "constraints.txt").read_text("utf-8"))
    assert promised.keys() | tools.keys() <= newest.keys()
    for name, pin in newest.items():
        for ranges in (promised, tools):
            (version,) = pin.specifier
            assert name not in ranges or ranges[name].specifier.contains(version.version)


def test_slow_tests_are_where_conftest_says() -> None:
    assert all(path.exists() for path in SLOW)
