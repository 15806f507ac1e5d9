"""The page of a comparison: one HTML file that opens offline and can be explored."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup
from torch import Tensor

from captum_kd.report.map_data import PairsOfMaps, viewer_data
from captum_kd.report.page import render_page
from captum_kd.report.score_chart import Scores, score_panels
from captum_kd.report.tables import Table


class PageFacts(NamedTuple):
    """What the page says besides scores and maps.

    Attributes:
        students: The names of the students.
        layers: The names of the layers.
        provenance: How the numbers were made: terms and texts.
        command: The command line that made the comparison.
        data: The name of the data.
        notes: Sentences about the comparison.
        skipped: The "file" and "reason" of each file that was left out.
    """

    students: Sequence[str]
    layers: Sequence[str]
    provenance: Sequence[tuple[str, str]]
    command: str | None = None
    data: str | None = None
    notes: Sequence[str] = ()
    skipped: Sequence[Mapping[str, str]] = ()


def comparison_page(
    facts: PageFacts,
    tables: Sequence[Table],
    scores: Mapping[str, Scores],
    images: Tensor,
    captions: Sequence[tuple[str, str]],
    maps: PairsOfMaps,
    sides: Mapping[str, tuple[str, str]],
) -> str:
    """Fill the page.

    Args:
        facts: Names, provenance and notes.
        tables: The tables; the first holds accuracies.
        scores: For each student the score of each ``(quantity, layer)``.
        images: The shown images as the models took them, ``(n, c, h, w)``.
        captions: The class and the file name of each shown image; the file name may be empty.
        maps: For each student, layer and method two maps ``(n, 1, h, w)``.
        sides: For each method what its two maps are.

    Returns:
        The page. No text in it can become markup or code, and its policy forbids every request and
        every script but its own.
    """
    drawn = {student: {k: v for k, v in layers.items() if v} for student, layers in maps.items()}
    viewer = viewer_data(images, captions, drawn, sides) if len(images) else None
    script = render_page("comparison.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    accuracy, *others = ({"caption": table.caption, "html": Markup(table.to_html())} for table in tables)
    return render_page(
        "comparison.html",
        **facts._asdict(),
        accuracy=accuracy,
        tables=others,
        panels=score_panels(scores, facts.layers),
        label_width=min(14, 1 + max(map(len, facts.layers))),
        viewer=viewer if viewer and viewer["students"] else None,
        side_words=_side_words(sides),
        script=Markup(script),
        script_digest=digest,
    )


def _side_words(sides: Mapping[str, tuple[str, str]]) -> list[str]:
    """What first and second maps are called: "Distilled", or "Distilled / student" if both occur."""
    return [" / ".join(dict.fromkeys(words[i] for words in sides.values())).capitalize() for i in range(2)]
