"""Tables of results, as Markdown and as HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from captum_kd.metrics import Score


class Cell(NamedTuple):
    """A value and a note on its uncertainty, which is printed small below it."""

    value: str
    note: str = ""


class Table(NamedTuple):
    """A table of results.

    Attributes:
        caption: The text above the table.
        heads: The column heads; the first one is that of the rows' names.
        rows: The name and the cells of each row.
        best: The name of the row to highlight, if any.
    """

    caption: str
    heads: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    best: str | None = None

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown, with its caption above; every text is shown as it is.

        Example:
            >>> table = Table("Scores", ["model", "RS"], [("student", [Cell("0.5", "0.4 to 0.6")])])
            >>> print(table.to_markdown())
            Scores
            <BLANKLINE>
            | model | RS |
            |---|---|
            | student | 0.5 (0.4 to 0.6) |
        """
        lines = [_row([_escaped(head) for head in self.heads]), "|" + "---|" * len(self.heads)]
        for name, cells in self.rows:
            texts = [_escaped(f"{c.value} ({c.note})" if c.note else c.value) for c in cells]
            own = _escaped(name)
            lines.append(_row([f"**{own}**" if name == self.best else own, *texts]))
        # At the start of a paragraph some characters make headings and lists.
        caption = re.sub(r"^(\d*)([#+\-=.)])", r"\1\\\2", _escaped(self.caption))
        return "\n".join([caption, "", *lines])

    def to_html(self) -> str:
        """The table as HTML, every text escaped."""
        heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in self.heads)
        body = []
        for name, cells in self.rows:
            columns = "".join(
                f"<td>{escape(c.value)}{f'<small>{escape(c.note)}</small>' if c.note else ''}</td>"
                for c in cells
            )
            row_class = ' class="best"' if name == self.best else ""
            body.append(f'<tr{row_class}><th scope="row">{escape(name)}</th>{columns}</tr>')
        return (
            f"<table><caption>{escape(self.caption)}</caption><thead><tr>{heads}</tr></thead>"
            f"<tbody>{''.join(body)}</tbody></table>"
        )


def score_cell(score: Score) -> Cell:
    """Format a score, with its interval and null in small print."""
    # Adding zero turns "-0.000" into "0.000".
    value, null = (round(x, 3) + 0.0 for x in (score.value, score.null))
    low, high = (round(x, 2) + 0.0 for x in (score.low, score.high))
    return Cell(f"{value:.3f}", f"{low:.2f} to {high:.2f}; null {null:.3f}")


def _row(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _escaped(text: str) -> str:
    """A text on one line, in which neither HTML nor Markdown is at work.

    Underscores within words, as names of layers have them, do nothing and stay.
    """
    line = escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)
