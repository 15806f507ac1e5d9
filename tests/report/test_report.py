"""Tables and pages."""

from __future__ import annotations

import jinja2
import pytest

from captum_kd.report.page import render_page
from captum_kd.report.tables import Cell, Table

TABLE = Table(
    "A caption",
    ["method", "a|b"],
    [("<script>alert(1)</script>", [Cell("0.1", "0.0 to 0.2")]), ("plain", [Cell("0.3")])],
    best="plain",
)


def test_html_is_escaped_and_marks_the_best_row() -> None:
    html = TABLE.to_html()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert '<tr class="best"><th scope="row">plain</th>' in html
    assert "<small>0.0 to 0.2</small>" in html


def test_markdown_escapes_bars_and_marks_the_best_row() -> None:
    lines = TABLE.to_markdown().splitlines()
    assert lines[0] == "A caption"
    assert lines[2] == r"| method | a\|b |"
    assert lines[-1] == "| **plain** | 0.3 |"


NAMES = {
    "<script>alert(1)</script>": "&lt;script&gt;alert(1)&lt;/script&gt;",
    "a|b": r"a\|b",
    r"a\|b": r"a\\\|b",
    "`rm`": r"\`rm\`",
    "two\nlines": "two lines",
    "two\r\nlines": "two lines",
    "three\u2028\nlines": "three lines",
    "![x](https://example.org/x.png)": r"!\[x\](https://example.org/x.png)",
    "**bold** ~~gone~~": r"\*\*bold\*\* \~\~gone\~\~",
    "_leaning_": r"\_leaning\_",
    "layer3.0_conv1": "layer3.0_conv1",
    "&lt;": "&amp;lt;",
}


@pytest.mark.parametrize("name", NAMES)
def test_markdown_shows_every_text_as_it_is(name: str) -> None:
    table = Table(name, [name, name], [(name, [Cell(name, name)])], best=name)
    caption, blank, heads, _, row = table.to_markdown().split("\n")
    shown = NAMES[name]
    assert (caption, blank) == (shown, "")
    assert heads == f"| {shown} | {shown} |"
    assert row == f"| **{shown}** | {shown} ({shown}) |"


@pytest.mark.parametrize(
    ("caption", "shown"),
    [("# big", r"\# big"), ("- item", r"\- item"), ("1. first", r"1\. first"), ("3 x", "3 x")],
)
def test_a_caption_is_a_paragraph(caption: str, shown: str) -> None:
    assert Table(caption, ["a"], []).to_markdown().startswith(shown + "\n")


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render_page("demo.html")
