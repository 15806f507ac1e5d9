"""Students trained anew: they learn what they are given, and maps of the input do not notice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_kd.attr.methods import METHODS, UNIQUE_SIDES, MapMethod, Pair, TwoMaps
from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
from captum_kd.benchmark.sanity.checks import ALL_LAYERS
from captum_kd.benchmark.sanity.retraining import accuracy, check_retraining, retrained
from captum_kd.models.small import small_resnet


def test_a_student_learns_permuted_labels_by_heart_from_weights_of_its_own() -> None:
    checked = checked_demo_pair(4, 16)
    model = small_resnet(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = checked.pool_labels[torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    assert not torch.equal(labels, checked.pool_labels)
    student = retrained(model, checked.pool, labels, epochs=60)
    assert accuracy(student, checked.pool, labels) > 0.9
    assert not student.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = retrained(model, checked.pool, labels, epochs=60)
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), again.parameters(), strict=True))


def test_maps_of_the_input_do_not_notice_and_those_of_gradients_do() -> None:
    def edges(pair: Pair, images: Tensor, labels: Tensor) -> list[TwoMaps]:
        brightness = images.mean(1, keepdim=True)
        return [(brightness, brightness)] * 4

    methods = {"edges": MapMethod(UNIQUE_SIDES, edges), "mine": METHODS["Grad-CAM difference"]}
    rows = check_retraining(checked_demo_pair(12, 32), methods, epochs=2)
    means = {(row.method, row.setting.split(",")[0]): row.mean for row in rows if row.layer == ALL_LAYERS}
    assert {setting for _, setting in means} == {"labels", "permuted labels"}
    assert means["edges", "labels"] == pytest.approx(1)
    assert means["edges", "permuted labels"] == pytest.approx(1)
    assert abs(means["mine", "permuted labels"]) < 0.8
