"""FSS and RS of every layer from streamed features, as plain records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from captum_kd.comparison.features import BASE, TEACHER, Stream
from captum_kd.comparison.kept import KEPT_BY, RANDOMLY_KEPT_BY
from captum_kd.comparison.names import known_name
from captum_kd.comparison.settings import Settings
from captum_kd.functional.correlation import Estimator
from captum_kd.metrics import Score, score_with_statistics

COLUMNS = ("student", "layer", "quantity", *Score._fields)
MAIN_QUANTITIES = ("FSS", "RS student", "RS base", "RS distilled", "RS residual")

# The values of COLUMNS.
Record: TypeAlias = dict[str, Any]


class Job(NamedTuple):
    """A score that is to be computed: the arguments of :func:`~captum_kd.metrics.score_with_statistics`."""

    quantity: str
    features: Tensor
    others: Tensor
    given: Tensor | None = None
    estimator: Estimator = "unbiased"


def score_rows(found: Stream, labels: Tensor, settings: Settings, progress: bool = False) -> list[Record]:
    """Compute every quantity of every student and layer, see :func:`captum_kd.compare`.

    Args:
        found: The features of the students by name, of "base" and, if there is one, of "teacher".
        labels: The label embeddings ``(n, d)``.
        settings: The names, and how to compute the scores. Every score draws its permutations from a
            generator of its own with the same seed.
        progress: Show a progress bar.

    Returns:
        Records with the keys student, layer and quantity and the fields of
        :class:`~captum_kd.metrics.Score`, student by student and layer by layer. What does not depend on the
        student is computed once and is in the records of each.
    """
    jobs = [
        (student, layer, job)
        for student in settings.students
        for i, layer in enumerate(settings.layers)
        for job in _jobs(found, labels, settings.layers, student, i)
    ]
    known: dict[tuple[Any, ...], Score] = {}
    rows = []
    for student, layer, job in tqdm(jobs, "scores", leave=False, disable=not progress):
        # The same tensors, which `jobs` keeps alive, give the same score.
        key = (id(job.features), id(job.others), id(job.given), job.estimator)
        if key not in known:
            known[key] = score_with_statistics(
                job.features,
                job.others,
                given=job.given,
                estimator=job.estimator,
                confidence=settings.confidence,
                permutations=settings.permutations,
                generator=torch.Generator().manual_seed(settings.seed),
            )
        rows.append({"student": student, "layer": layer, "quantity": job.quantity, **known[key]._asdict()})
    return rows


def scores_of(rows: Sequence[Record], student: str) -> dict[tuple[str, str], Score]:
    """The scores of one student by quantity and layer."""
    return {
        (row["quantity"], row["layer"]): Score(*(row[field] for field in Score._fields))
        for row in rows
        if row["student"] == student
    }


def find_score(rows: Sequence[Record], settings: Settings, quantity: str, layer: str, student: str) -> Score:
    """Find one score.

    Raises:
        ValueError: There is no such score; the message lists what there is.
    """
    found = scores_of(rows, student)
    known_name(layer, settings.layers, "layer")
    known_name(quantity, tuple(dict.fromkeys(name for name, _ in found)), "quantity")
    if (quantity, layer) not in found:
        raise ValueError(f"{quantity!r} was not computed at {layer!r}.")
    return found[quantity, layer]


def _jobs(found: Stream, labels: Tensor, layers: Sequence[str], name: str, i: int) -> Iterator[Job]:
    """The scores of one student at one layer, in the order of the records."""
    features = {model: found.features[model] for model in (name, BASE, TEACHER) if model in found.features}
    student, base = features[name][i], features[BASE][i]
    yield Job("FSS", student, base, estimator="biased")
    yield Job("RS student", student, labels)
    yield Job("RS base", base, labels)
    yield Job("RS distilled", student, labels, given=base)
    yield Job("RS residual", base, labels, given=student)
    for keeper in (*KEPT_BY, *RANDOMLY_KEPT_BY):
        if (name, keeper, i) in found.extra:
            yield Job(f"RS kept by {keeper}", found.extra[name, keeper, i], labels)
    if TEACHER in features:
        teacher = features[TEACHER][i]
        yield Job("RS teacher", teacher, labels)
        yield Job("FSS teacher and student", teacher, student, estimator="biased")
        yield Job("FSS teacher and base", teacher, base, estimator="biased")
    if len(layers) > 1:
        for model, own in features.items():
            word = "student" if model == name else model
            yield Job(f"dCor with {layers[-1]}, {word}", own[i], own[-1])
