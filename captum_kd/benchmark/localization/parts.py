"""One part of the benchmark, a geometry and seed: train what is missing, check the truth, score the maps."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch

from captum_kd.atomic import write_whole
from captum_kd.attr.methods import MapMethod
from captum_kd.benchmark.localization.localize import LocalizationRow, localize
from captum_kd.benchmark.localization.methods import LOCALIZATION_METHODS
from captum_kd.benchmark.pairs.trained_pairs import (
    PAIRS,
    PairNames,
    TrainedPairs,
    embedded_pairs,
    trained_pairs,
)
from captum_kd.benchmark.pairs.training import Budget, train_models
from captum_kd.benchmark.pairs.truth import ModelTruth, Probe, judge, pair_holds
from captum_kd.datasets.in_memory import read_fashion_mnist

Report = Callable[[str], None]


class Part(NamedTuple):
    """All that was found for one geometry and seed.

    Attributes:
        geometry: The name of the geometry.
        seed: The seed of training and images.
        truths: What each model follows.
        pairs: The pairs by name.
        holds: Whether the truth of each pair holds, by its name.
        rows: The separations.
        seconds: How long checking and scoring took, in seconds, without training.
    """

    geometry: str
    seed: int
    truths: list[ModelTruth]
    pairs: dict[str, PairNames]
    holds: dict[str, bool]
    rows: list[LocalizationRow]
    seconds: float


def small_part(report: Report = print) -> Part:
    """Measure the demo's embedded pair, with free placement: no training, no download."""
    return measure(embedded_pairs(), LOCALIZATION_METHODS, report)


def full_part(
    geometry: str, seed: int, models: Path, root: Path, budget: Budget | None = None, report: Report = print
) -> Part:
    """Train the missing models of a geometry and seed, and measure their pairs.

    Args:
        geometry: One of :data:`~captum_kd.benchmark.pairs.geometries.GEOMETRIES`.
        seed: The seed of training and images.
        models: The folder of all trained models; those of this part are in ``geometry/seed<seed>``.
        root: The folder that holds Fashion-MNIST, or that it is downloaded to.
        budget: How long to train; None: the default.
        report: Called with lines that say what comes next.
    """
    train, test = read_fashion_mnist(root)
    folder = models_folder(models, geometry, seed)
    train_models(geometry, seed, train.data, train.targets, folder, budget, report)
    trained = trained_pairs(geometry, seed, folder, test.data, test.targets)
    return measure(trained, LOCALIZATION_METHODS, report)


def full_parts(
    wanted: Sequence[tuple[str, int]],
    out: Path,
    models: Path,
    root: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    report: Report = print,
) -> Iterator[Part]:
    """Measure several geometries and seeds, in one process or in several.

    Args:
        wanted: Geometries and seeds.
        out: The folder of results, with the parts that earlier runs finished.
        models: The folder of all trained models.
        root: The folder that holds Fashion-MNIST, or that it is downloaded to.
        workers: The number of processes.
        resume: Whether parts that an earlier run finished are read from ``out`` instead of being measured.
        report: Called with lines that say what comes next; with several workers, in their processes.

    Yields:
        The parts, in the order in which they are wanted.
    """
    kept = {key: part for key in wanted if resume and (part := read_part(out, *key)) is not None}
    if workers == 1:
        for key in wanted:
            yield kept[key] if key in kept else full_part(*key, models, root, report=report)
        return
    # A second thread in each process would only slow them down.
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = {
            key: pool.submit(full_part, *key, models, root, report=report)
            for key in wanted
            if key not in kept
        }
        for key in wanted:
            yield kept[key] if key in kept else futures[key].result()


def measure(trained: TrainedPairs, methods: Mapping[str, MapMethod], report: Report = print) -> Part:
    """Check the truth about the models, and score the maps of their pairs.

    Args:
        trained: The models, pairs and images.
        methods: The methods by name.
        report: Called with lines that say what comes next.
    """
    start = time.perf_counter()
    truths = {name: judge(name, model, trained.images) for name, model in trained.models.items()}
    holds = {name: pair_holds(pair, truths) for name, pair in trained.pairs.items()}
    rows = localize(trained, methods, report)
    seconds = round(time.perf_counter() - start, 1)
    return Part(trained.geometry, trained.seed, list(truths.values()), trained.pairs, holds, rows, seconds)


def models_folder(models: Path, geometry: str, seed: int) -> Path:
    """The folder with the models of a geometry and seed."""
    return models / geometry / f"seed{seed}"


def part_path(folder: Path, geometry: str, seed: int) -> Path:
    """The file of a finished part."""
    return folder / "parts" / f"{geometry}-seed{seed}.json"


def write_part(folder: Path, part: Part) -> None:
    """Write a finished part to a folder of results."""
    path = part_path(folder, part.geometry, part.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(part_record(part)) + "\n"
    write_whole(path, partial(_write_text, text))


def read_part(folder: Path, geometry: str, seed: int) -> Part | None:
    """Read a part that an earlier run finished with the same pairs and methods; None if there is none."""
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
        "rows": [asdict(row) for row in part.rows],
    }


def part_from_record(record: Mapping[str, Any]) -> Part:
    """A part from the record that :func:`part_record` made of it."""
    truths = [ModelTruth(**{**t, "probes": [Probe(**p) for p in t["probes"]]}) for t in record["truths"]]
    pairs = {name: PairNames(**pair) for name, pair in record["pairs"].items()}
    rows = [LocalizationRow(**row) for row in record["rows"]]
    return Part(**{**record, "truths": truths, "pairs": pairs, "rows": rows})


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")
