"""Explain the pairs of a distillation run: maps, FSS and RS, as a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from captum_kd.distill.architectures import default_layers
from captum_kd.distill.data import load_data
from captum_kd.distill.image_data import ImageData
from captum_kd.distill.recipe import load_stage
from captum_kd.distill.run_folder import read_run
from captum_kd.methods import METHODS, Case, MapPair, upsample
from captum_kd.report.page import png, render_page
from captum_kd.report.tables import Cell, Table, score_table
from captum_kd.scores import ScoreRow, score_layer
from captum_kd.visualization import plot_maps

SHOWN = 8
REFERENCE_COUNT = 128
SHOWN_METHODS = ("Grad-CAM difference", "UniCAM, published objective", "UniCAM, uniqueness")


class Explanation(NamedTuple):
    """What is known of one student and its base model."""

    name: str
    case: Case
    class_names: tuple[str, ...]
    maps: dict[str, MapPair]
    scores: list[ScoreRow]
    accuracy: dict[str, float]


def explain_run(
    folder: Path,
    *,
    root: Path = Path("data"),
    student: str | None = None,
    fold: int = 1,
    count: int = 256,
) -> Iterator[tuple[str, Explanation | None]]:
    """Explain a student of a finished run, naming each step; the last item holds the explanation.

    The images are test images that nothing was chosen by. Maps are made against ``REFERENCE_COUNT`` others.

    Args:
        folder: Of ``captum-kd distill``.
        root: Where data sets with a name are.
        student: Name of the student's folder; None takes the run's first.
        fold: Which fold's models.
        count: Images to score, at least 8.

    Yields:
        The name of a step, and None until the last.

    Raises:
        ValueError: No run in ``folder``, no such student or fold, or models that are not finished.
    """
    run = read_run(folder)
    student = _student_name(run, student, fold)
    arguments = run["arguments"]
    yield "data", None
    data = load_data(
        arguments["data"],
        root=root,
        image_size=arguments["image_size"],
        seed=arguments["seed"],
        limit=arguments["limit"],
        skip_unreadable=arguments["skip_unreadable"],
    )
    if data.fingerprint != run["data"]["fingerprint"]:
        raise ValueError(f"The data set {data.name} is not the one that the run in {folder} was trained on.")
    taught, base = (
        load_stage(folder, fold, name, arguments["student"], len(data.class_names))
        for name in (student, "base")
    )
    images, labels = _test_images(data, REFERENCE_COUNT + count, arguments["seed"])
    first = min(REFERENCE_COUNT, len(images) // 2)
    layers = tuple(arguments["layers"] or default_layers(taught))
    case = Case(taught, base, layers, images[first:], labels[first:], images[:first])
    maps = {}
    for name in SHOWN_METHODS:
        yield f"maps: {name}", None
        maps[name] = METHODS[name](case)
    scores = []
    for layer in layers:
        yield f"FSS and RS: {layer}", None
        scores += score_layer(case, layer, {"labels": case.labels})
    accuracy = {student: _accuracy(taught, case), "base": _accuracy(base, case)}
    yield "done", Explanation(student, case, data.class_names, maps, scores, accuracy)


def steps_of(folder: Path) -> int:
    """How many steps :func:`explain_run` names at most."""
    return 2 + len(SHOWN_METHODS) + max(4, len(read_run(folder)["arguments"]["layers"]))


def write_explanation(explanation: Explanation, run: dict[str, Any], out: Path, command: str) -> Path:
    """Write ``report.html``, ``maps.png`` and ``scores.json``.

    Returns:
        The path of the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    case = explanation.case
    layer = case.layers[-2] if len(case.layers) > 1 else case.layers[0]
    figure = maps_figure(explanation, layer)
    caption = f"FSS and RS of globally pooled features; n = {len(case.images)}"
    page = render_page(
        "explain.html",
        name=explanation.name,
        run=run,
        layer=layer,
        accuracy_table=_accuracy_table(explanation, run),
        maps_figure=figure,
        score_table=score_table(explanation.scores, caption),
        scored=len(case.images),
        reference=len(case.reference),
        command=command,
    )
    (out / "maps.png").write_bytes(png(figure))
    rows = [{"quantity": r.quantity, "layer": r.layer, **r.score._asdict()} for r in explanation.scores]
    (out / "scores.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    (out / "report.html").write_text(page, "utf-8")
    return out / "report.html"


def maps_figure(explanation: Explanation, layer: str) -> Figure:
    """The first images with the maps of each method, distilled beside residual."""
    case = explanation.case
    images = case.images[:SHOWN]
    size = (images.shape[2], images.shape[3])
    columns, pairs = {}, []
    for method, pair in explanation.maps.items():
        names = [f"{method.replace(', ', chr(10))}\n{side}" for side in ("distilled", "residual")]
        pairs.append(names)
        for name, maps in zip(names, pair, strict=True):
            columns[name] = upsample(maps[layer][:SHOWN], size)
    low, high = (f(images, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    titles = [explanation.class_names[i][:18] for i in case.labels[:SHOWN].tolist()]
    figure, _ = plot_maps(
        (images - low) / (high - low).clamp_min(1e-12), columns, shared=pairs, row_titles=titles
    )
    return figure


def _student_name(run: dict[str, Any], student: str | None, fold: int) -> str:
    finished = [stage["name"] for stage in run["stages"] if stage["fold"] == fold]
    students = [name for name in finished if name.startswith("student-")]
    if "base" not in finished or not students:
        folds = sorted({stage["fold"] for stage in run["stages"]})
        raise ValueError(
            f"Fold {fold} of this run has no finished student and base model (folds with models: {folds}); "
            "finish it with the distill command that started it."
        )
    if student is not None and student not in students:
        raise ValueError(f"Fold {fold} has no student {student!r}; it has {', '.join(students)}.")
    return student or students[0]


def _test_images(data: ImageData, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random test images, stacked."""
    order = torch.randperm(len(data.test_labels), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack([data.test[i][0] for i in order.tolist()]), data.test_labels[order]


def _accuracy(model: nn.Module, case: Case) -> float:
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in case.images.split(64)])
    return (predicted == case.labels).double().mean().item()


def _accuracy_table(explanation: Explanation, run: dict[str, Any]) -> Table:
    rows = []
    for name in dict.fromkeys(stage["name"] for stage in run["stages"]):
        values = torch.tensor([s["test"]["accuracy"] for s in run["stages"] if s["name"] == name])
        spread = f"standard deviation {values.std():.4f}" if len(values) > 1 else ""
        mine = explanation.accuracy.get(name)
        cells = [Cell(f"{values.mean():.4f}", spread), Cell(str(len(values)))]
        rows.append((name, [*cells, Cell("" if mine is None else f"{mine:.4f}")]))
    heads = ["model", "test accuracy, all test images", "folds", "accuracy on the images scored here"]
    return Table("The models of the run", heads, rows)
