"""What the results of every benchmark share: the record, the page, numbers in cells, and bare axes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from captum_kd._version import versions
from captum_kd.report.tables import Cell


def write_record(path: Path, command: str, **content: Any) -> None:
    """Write all numbers of a run as JSON, with the command and the versions that made them.

    Args:
        path: The file to write.
        command: The command that made the numbers.
        **content: The numbers, as plain records.
    """
    record = {"command": command, "versions": versions(), **content}
    path.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def write_page(path: Path, paragraphs: Sequence[str]) -> Path:
    """Write a Markdown page, and return its path."""
    path.write_text("\n\n".join(paragraphs) + "\n", "utf-8")
    return path


def made_by(command: str) -> str:
    """The sentence that says what made a page.

    Example:
        >>> made_by("captum-kd benchmark sanity")
        'Made by `captum-kd benchmark sanity` with captum-kd ..., captum ..., torch ..., Python ....'
    """
    return (
        f"Made by `{command}` with {', '.join(f'{name} {version}' for name, version in versions().items())}."
    )


def number(value: float) -> str:
    """A number with two decimals; "-" if it is not known.

    Example:
        >>> number(-0.001), number(float("nan"))
        ('0.00', '-')
    """
    # Adding zero turns "-0.00" into "0.00".
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"


def interval_cell(value: float, low: float, high: float) -> Cell:
    """A value with its interval in small print, or without one if its ends are not known.

    Example:
        >>> interval_cell(0.5, 0.4, 0.6), interval_cell(0.5, float("nan"), float("nan"))
        (Cell(value='0.50', note='0.40 to 0.60'), Cell(value='0.50', note=''))
    """
    return Cell(number(value), "" if math.isnan(low) else f"{number(low)} to {number(high)}")


def open_frame(axes: Axes) -> None:
    """Leave only the left and the bottom line of a panel's frame."""
    axes.spines[["top", "right"]].set_visible(False)


def legend_above(
    figure: Figure,
    axes: Axes,
    columns: int,
    *,
    fontsize: int = 9,
    loc: Literal["outside upper center", "outside upper right"] = "outside upper center",
) -> None:
    """One legend above all panels, of what one panel shows."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc=loc, ncols=columns, fontsize=fontsize, frameon=False)
