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


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render_page("demo.html")
