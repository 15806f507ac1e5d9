"""Gradients at explained layers: against autograd through the whole network, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_kd.attr.deep_features import deep_features
from captum_kd.attr.samples import model_samples, objective_gradients
from captum_kd.functional import pairwise_distances
from captum_kd.functional.objectives import uniqueness
from captum_kd.models.side import Side
from tests.attr.test_deep_unicam import Stages, images, pair


def run(model: Stages, inputs: Tensor) -> dict[str, Tensor]:
    """The stages' outputs, written out."""
    first = model.first(inputs)
    second = model.second(first.relu())
    return {"first": first, "second": second, "third": model.third(second.relu())}


def pooled(value: Tensor) -> Tensor:
    return value.mean(dim=(2, 3))


def weights_at(name: str, features: tuple[str, ...], layer_input: bool = False) -> tuple[Tensor, Tensor]:
    """The weights and activations at the student's layer, as DeepUniCAM takes them."""
    models = []
    for model, role in zip(pair(), ("student", "base model"), strict=True):
        side = Side(model, [getattr(model, name)], role, None, [getattr(model, f) for f in features])
        graph = deep_features(side, images(), None, attribute_to_layer_input=layer_input, means=None)
        models.append((graph, model_samples(graph.activations(), None, None, 1, None)))
    (graph, samples), (_, other) = models
    (found,) = graph.objective_weights(samples.layers, objective_gradients(uniqueness, samples, other))
    assert found.reference_mean is None
    return found.weights, found.activations


@pytest.mark.parametrize("features", [("third",), ("second", "third")])
def test_the_gradient_is_that_of_autograd_through_the_whole_network(features: tuple[str, ...]) -> None:
    student, base = pair()
    mine, theirs = run(student, images()), run(base, images())
    total = sum(
        uniqueness(pairwise_distances(pooled(mine[f])), pairwise_distances(pooled(theirs[f]).detach()))
        for f in features
    )
    (expected,) = torch.autograd.grad(total, mine["first"])
    weights, activations = weights_at("first", features)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(activations, mine["first"].detach())
    assert not weights.requires_grad


def test_layer_inputs() -> None:
    student, base = pair()
    weights, activations = weights_at("second", ("third",), layer_input=True)
    # With attribute_to_layer_input the features are inputs of their layer, too.
    inputs = student.first(images()).relu().detach().requires_grad_()
    mine = student.second(inputs).relu().mean(dim=(2, 3))
    theirs = base.second(base.first(images()).relu()).relu().mean(dim=(2, 3)).detach()
    score = uniqueness(pairwise_distances(mine), pairwise_distances(theirs))
    (expected,) = torch.autograd.grad(score, inputs)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(activations, inputs.detach())
