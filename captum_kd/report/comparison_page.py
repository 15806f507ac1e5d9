"""The page of a comparison: one HTML file that opens offline and can be explored."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from torch import Tensor

from captum_kd.report.map_data import viewer_data
from captum_kd.report.page import render_page
from captum_kd.report.score_chart import Scores, score_panels
from captum_kd.report.tables import Table


def comparison_page(
    settings: Mapping[str, Any],
    tables: Sequence[Table],
    scores: Mapping[str, Scores],
    images: Tensor,
    labels: Tensor,
    maps: Mapping[str, Mapping[str, Mapping[str, tuple[Tensor, Tensor]]]],
    sides: Mapping[str, tuple[str, str]],
) -> str:
    """Fill the page.

    Args:
        settings: Of the comparison. "students" and "layers" must be there; everything else is shown where it
            is: "command", "data", "notes" (texts), "class_names", "image_names" (one for each shown image),
            "skipped" (of each file left out its "file" and "reason").
        tables: The first is of accuracies.
        scores: Per student the score of each ``(quantity, layer)``.
        images: The shown images as the models took them, ``(n, c, h, w)``.
        labels: Their classes, int64 ``(n,)``.
        maps: Per student, layer and method the two maps ``(n, 1, h, w)``.
        sides: For each method what its two maps are.

    Returns:
        The page. No text in it can become markup or code, and its policy forbids every request and
        every script but its own.
    """
    drawn = {student: {k: v for k, v in layers.items() if v} for student, layers in maps.items()}
    viewer = viewer_data(images, _captions(settings, labels), drawn, sides) if len(images) else None
    script = render_page("comparison.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    accuracy, *others = ({"caption": table.caption, "html": Markup(table.to_html())} for table in tables)
    return render_page(
        "comparison.html",
        students=list(settings["students"]),
        layers=list(settings["layers"]),
        **{key: settings.get(key) for key in ("command", "data", "notes", "skipped")},
        accuracy=accuracy,
        tables=others,
        panels=score_panels(scores, settings["layers"]),
        label_width=min(14, 1 + max(map(len, settings["layers"]))),
        viewer=viewer if viewer and viewer["students"] else None,
        side_words=_side_words(sides),
        provenance=_provenance(settings, len(images)),
        script=Markup(script),
        script_digest=digest,
    )


def _captions(settings: Mapping[str, Any], labels: Tensor) -> list[tuple[str, str]]:
    classes, files = (list(settings.get(key) or []) for key in ("class_names", "image_names"))
    return [
        (classes[k] if k < len(classes) else f"class {k}", str(files[i]) if i < len(files) else "")
        for i, k in enumerate(labels.tolist())
    ]


def _side_words(sides: Mapping[str, tuple[str, str]]) -> list[str]:
    """What first and second maps are called: "Distilled", or "Distilled / student" where both occur."""
    return [" / ".join(dict.fromkeys(words[i] for words in sides.values())).capitalize() for i in range(2)]


def _provenance(settings: Mapping[str, Any], shown: int) -> list[tuple[str, str]]:
    """How the numbers were made, a line each; what the settings do not say is left out."""

    def described(key: str, text: str) -> str | None:
        return text.format(settings[key]) if settings.get(key) is not None else None

    reference = described("reference", "{} images that UniCAM takes distances to")
    if reference and settings.get("reference_source"):
        reference += f" ({settings['reference_source']})"
    confidence = settings.get("confidence")
    features = described("pool", "activations averaged on a {0} × {0} grid")
    if settings.get("pool") == 1:
        features = "activations averaged over all positions"
    lines = {
        "Data": described("data", "{}"),
        "Images scored": described("samples", "{}"),
        "Images shown": f"{shown}, the first ones; nothing was chosen" if shown else None,
        "Reference": reference,
        "Features": features,
        "Label embeddings": described("label_embeddings", "{}"),
        "Estimators": "FSS biased, as in the paper; everything else bias-corrected",
        "Intervals": f"{100 * confidence:g} %, from leaving out images" if confidence else None,
        "Null": described("permutations", "{} permutations of the samples"),
        "Kept share": described("kept_share", "{} of the pixels, the others imputed (ROAD)"),
        "Teacher": "compared with both" if settings.get("teacher") else None,
        "Seed": described("seed", "{}"),
        "Versions": ", ".join(f"{k} {v}" for k, v in (settings.get("versions") or {}).items()) or None,
    }
    return [(term, text) for term, text in lines.items() if text]
