"""Scores as jobs: what is computed, in which order, and what only once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from captum_kd.comparison import scores
from captum_kd.comparison.batches import Batch
from captum_kd.comparison.features import Stream
from captum_kd.comparison.scores import find_score, score_rows, scores_of
from captum_kd.comparison.settings import Settings
from captum_kd.metrics import score_with_statistics

STUDENTS, LAYERS = ("one", "two"), ("early", "late")
SETTINGS = Settings(students=STUDENTS, layers=LAYERS, permutations=9, seed=5, confidence=0.8)
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.eye(3)[torch.arange(12) % 3]


def features() -> list[torch.Tensor]:
    return [torch.randn(12, 4, generator=GENERATOR) for _ in LAYERS]


FOUND = Stream(
    {name: features() for name in (*STUDENTS, "base", "teacher")},
    {name: [4, 2] for name in (*STUDENTS, "base", "teacher")},
    {},
    torch.arange(12) % 3,
    Batch(torch.zeros(0, 3, 4, 4), torch.zeros(0)),
    {("two", "distilled maps", 1): torch.randn(12, 4, generator=GENERATOR)},
)
PAIR = ["FSS", "RS student", "RS base", "RS distilled", "RS residual"]
TEACHER = ["RS teacher", "FSS teacher and student", "FSS teacher and base"]
PROGRESSION = [f"dCor with late, {word}" for word in ("student", "base", "teacher")]


def test_records_come_by_student_layer_and_quantity() -> None:
    rows = score_rows(FOUND, LABELS, SETTINGS)
    expected = [
        (student, layer, quantity)
        for student in STUDENTS
        for layer in LAYERS
        for quantity in (
            *PAIR,
            *(["RS kept by distilled maps"] if (student, layer) == ("two", "late") else []),
            *TEACHER,
            *PROGRESSION,
        )
    ]
    assert [(row["student"], row["layer"], row["quantity"]) for row in rows] == expected


def test_a_score_is_that_of_its_tensors_with_a_generator_of_its_own() -> None:
    rows = score_rows(FOUND, LABELS, SETTINGS)
    (one, two), (base, _), (teacher, _) = (
        FOUND.features["one"],
        FOUND.features["base"],
        FOUND.features["teacher"],
    )
    for quantity, tensors, options in (
        ("FSS", (one, base), {"estimator": "biased"}),
        ("RS distilled", (one, LABELS), {"given": base}),
        ("RS residual", (base, LABELS), {"given": one}),
        ("FSS teacher and base", (teacher, base), {"estimator": "biased"}),
        ("dCor with late, student", (one, two), {}),
    ):
        expected = score_with_statistics(
            *tensors,
            permutations=9,
            confidence=0.8,
            generator=torch.Generator().manual_seed(5),
            **options,
        )
        assert find_score(rows, SETTINGS, quantity, "early", "one") == expected


def test_what_does_not_depend_on_the_student_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Any] = []

    def counted(*given: Any, **options: Any) -> Any:
        computed.append(given)
        return score_with_statistics(*given, **options)

    monkeypatch.setattr(scores, "score_with_statistics", counted)
    rows = score_rows(FOUND, LABELS, SETTINGS)
    # At each layer RS base, RS teacher, their FSS, and dCor of both are the same for both students.
    assert len(rows) - len(computed) == 2 * 5
    for quantity in ("RS base", "RS teacher", "FSS teacher and base", "dCor with late, teacher"):
        first, second = (scores_of(rows, student)[quantity, "early"] for student in STUDENTS)
        assert first == second


def test_the_bar_ends_at_the_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = []

    def bar(jobs: list[Any], *_: Any, **options: Any) -> list[Any]:
        totals.append((len(jobs), options["disable"]))
        return jobs

    monkeypatch.setattr(scores, "tqdm", bar)
    count = len(score_rows(FOUND, LABELS, SETTINGS, progress=True))
    assert totals == [(count, False)]
