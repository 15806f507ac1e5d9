"""The benchmark part by part, one part a geometry and seed: train what is missing, check the truth, score."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from captum_kd.atomic import write_whole
from captum_kd.attr.methods import MapMethod
from captum_kd.benchmark.localization.localize import LocalizationRow, localize
from captum_kd.benchmark.localization.methods import LOCALIZATION_METHODS
from captum_kd.benchmark.pairs.subjects import PAIRS, PairNames, Subject, embedded_subject, trained_subject
from captum_kd.benchmark.pairs.training import Budget, train_models
from captum_kd.benchmark.pairs.truth import ModelTruth, Probe, judge, pair_holds
from captum_kd.datasets.in_memory import read_fashion_mnist

Report = Callable[[str], None]


class Part(NamedTuple):
    """All that was found for one geometry and seed.

    Attributes:
        geometry: its name.
        seed: of training and images.
        truths: what each model follows.
        pairs: the pairs by name.
        holds: for each pair whether its truth holds.
        rows: the scores.
        seconds: that checking and scoring took, without training.
    """

    geometry: str
    seed: int
    truths: list[ModelTruth]
    pairs: dict[str, PairNames]
    holds: dict[str, bool]
    rows: list[LocalizationRow]
    seconds: float


def small_part(report: Report = print) -> Part:
    """The demo's embedded pair with free placement: no training, no download."""
    return measure(embedded_subject(), LOCALIZATION_METHODS, report)


def full_part(
    geometry: str, seed: int, models: Path, root: Path, budget: Budget | None = None, report: Report = print
) -> Part:
    """Train the models of a geometry and seed that are missing, and measure.

    Args:
        geometry: One of :data:`GEOMETRIES`.
        seed: Of training and images.
        models: Folder of all trained models; these are in ``geometry/seed<seed>``.
        root: Where Fashion-MNIST is, or is downloaded to.
        budget: How long to train; None takes the default.
        report: Called with lines that say how far it is.
    """
    train, test = read_fashion_mnist(root)
    folder = models_folder(models, geometry, seed)
    train_models(geometry, seed, train.data, train.targets, folder, budget, report)
    subject = trained_subject(geometry, seed, folder, test.data, test.targets)
    return measure(subject, LOCALIZATION_METHODS, report)


def measure(subject: Subject, methods: Mapping[str, MapMethod], report: Report = print) -> Part:
    """Check the truth about a subject's models and score the maps of its pairs.

    Args:
        subject: Models, pairs and images.
        methods: By name.
        report: Called with lines that say how far it is.
    """
    start = time.perf_counter()
    truths = {name: judge(name, model, subject.images) for name, model in subject.models.items()}
    holds = {name: pair_holds(pair, truths) for name, pair in subject.pairs.items()}
    rows = localize(subject, methods, report)
    seconds = round(time.perf_counter() - start, 1)
    return Part(subject.geometry, subject.seed, list(truths.values()), subject.pairs, holds, rows, seconds)


def models_folder(models: Path, geometry: str, seed: int) -> Path:
    """Where the models of a geometry and seed are."""
    return models / geometry / f"seed{seed}"


def part_path(folder: Path, geometry: str, seed: int) -> Path:
    """The file of a finished part."""
    return folder / "parts" / f"{geometry}-seed{seed}.json"


def write_part(folder: Path, part: Part) -> None:
    """Keep a finished part in a folder of results."""
    path = part_path(folder, part.geometry, part.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(part_record(part)) + "\n"
    write_whole(path, partial(_write_text, text))


def read_part(folder: Path, geometry: str, seed: int) -> Part | None:
    """A part that an earlier run finished with the same pairs and methods, or None."""
    path = part_path(folder, geometry, seed)
    if not path.exists():
        return None
    part = part_from_record(json.loads(path.read_text("utf-8")))
    found = {row.method for row in part.rows}
    return part if found >= set(LOCALIZATION_METHODS) and part.pairs.items() >= PAIRS.items() else None


def part_record(part: Part) -> dict[str, Any]:
    """A part as plain records; :func:`part_from_record` is its inverse."""
    truths = [{**t._asdict(), "probes": [p._asdict() for p in t.probes]} for t in part.truths]
    return {
        **part._asdict(),
        "truths": truths,
        "pairs": {name: pair._asdict() for name, pair in part.pairs.items()},
        "rows": [row._asdict() for row in part.rows],
    }


def part_from_record(record: Mapping[str, Any]) -> Part:
    """A part from what :func:`part_record` gave."""
    truths = [ModelTruth(**{**t, "probes": [Probe(**p) for p in t["probes"]]}) for t in record["truths"]]
    pairs = {name: PairNames(**pair) for name, pair in record["pairs"].items()}
    rows = [LocalizationRow(**row) for row in record["rows"]]
    return Part(**{**record, "truths": truths, "pairs": pairs, "rows": rows})


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")
