"""Maps against a fixed reference."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from captum_kd import UniCAM
from captum_kd.functional import pairwise_distances, row_max, semipartial_distance_correlation
from captum_kd.models.activations import layer_activations
from tests.networks import classes, images, pair

OPTIONS = [
    {},
    {"objective": "uniqueness", "pool": 1},
    {"objective": row_max, "pool": 3, "combine": "elementwise"},
    {"combine": "elementwise"},
]


def reference() -> tuple[torch.Tensor, torch.Tensor]:
    return images(20, seed=7), classes(20)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_map_does_not_depend_on_its_batch(options: dict[str, object]) -> None:
    student, base = pair()
    layers = [student.first_relu, student.second_relu]
    unicam = UniCAM(student, layers, base, reference=reference(), **options)
    together = unicam.attribute_all(images(), classes())
    alone = unicam.attribute_all(images()[3:4], classes()[3:4])
    for maps, single in zip(together, alone, strict=True):
        for i in range(2):
            assert maps[i].max() > 0
            scale = maps[i].abs().max().item()
            torch.testing.assert_close(single[i], maps[i][3:4], rtol=1e-5, atol=1e-5 * scale)


def test_without_a_reference_it_does() -> None:
    student, base = pair()
    unicam = UniCAM(student, student.second_relu, base)
    whole, part = (unicam.attribute(images()[:n], classes()[:n])[:4] for n in (12, 8))
    assert (whole - part).abs().max() > 0.1 * whole.max()


def test_it_is_the_gradient_of_reference_plus_sample() -> None:
    """By autograd through the features of one sample, the reference held fixed."""
    student, base = (m.double() for m in pair())
    (x, y), (r, g) = (images(1).double(), classes(1)), (reference()[0].double(), reference()[1])
    a, a_ref = (layer_activations(student, [student.second_relu], v).activations[0] for v in (x, r))
    b, b_ref = (layer_activations(base, [base.second_relu], v).activations[0] for v in (x, r))
    rows = torch.eye(4, dtype=torch.float64)[torch.cat([g, y])]
    a.requires_grad_()
    score = semipartial_distance_correlation(torch.cat([a_ref, a]), rows, torch.cat([b_ref, b]))
    (gradient,) = torch.autograd.grad(score, a)
    expected = gradient * a.detach()
    maps = UniCAM(student, student.second_relu, base, combine="elementwise", reference=(r, g)).attribute(
        x, y, relu_attributions=False, attr_dim_summation=False
    )
    torch.testing.assert_close(maps, expected, rtol=1e-8, atol=1e-14)


def test_every_form_of_reference_is_the_same() -> None:
    student, base = pair()
    loader = DataLoader(TensorDataset(*reference()), batch_size=6)
    maps = [
        UniCAM(student, student.second_relu, base, reference=r).attribute(images(2), classes(2))
        for r in (reference(), ((reference()[0],), reference()[1]), loader, list(loader))
    ]
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=1e-4, atol=1e-6 * maps[0].max().item())


def test_inputs_alone_take_predictions_as_targets() -> None:
    student, base = pair()
    inputs, _ = reference()
    with torch.no_grad():
        predicted = student(inputs).argmax(1)
    assert len(predicted.unique()) > 1
    alone = UniCAM(student, student.second_relu, base, reference=inputs).attribute(images(3), classes(3))
    explicit = UniCAM(student, student.second_relu, base, reference=(inputs, predicted)).attribute(
        images(3), classes(3)
    )
    torch.testing.assert_close(alone, explicit)


def test_the_reference_runs_once_and_again_when_weights_change() -> None:
    student, base = pair()
    calls: list[int] = []
    student.head.register_forward_hook(lambda _m, args, _o: calls.append(len(args[0])))
    unicam = UniCAM(student, student.second_relu, base, reference=reference())
    first = unicam.attribute(images(2), classes(2))
    unicam.attribute(images(2), classes(2))
    assert calls == [20, 2, 2]
    with torch.no_grad():
        student.second.weight.mul_(-1)
    second = unicam.attribute(images(2), classes(2))
    assert calls == [20, 2, 2, 20, 2]
    assert not torch.allclose(first, second)


def test_three_samples_are_a_reference() -> None:
    student, base = pair()
    few = images(3, seed=7), torch.tensor([0, 1, 2])
    unicam = UniCAM(student, student.second_relu, base, reference=few, objective="uniqueness", pool=1)
    maps = unicam.attribute(images(2), relu_attributions=False)
    assert maps.isfinite().all()
    assert maps.abs().max() > 0
    # Each map is that of the batch of these three samples and its own.
    for i in range(2):
        together = torch.cat([few[0], images(2)[i : i + 1]])
        batch = UniCAM(student, student.second_relu, base, objective="uniqueness", pool=1)
        expected = batch.attribute(together, relu_attributions=False)[3:]
        torch.testing.assert_close(maps[i : i + 1], expected, rtol=1e-4, atol=1e-6)


def test_a_shuffling_loader_is_read_once() -> None:
    student, base = pair()
    loader = DataLoader(TensorDataset(*reference()), batch_size=5, shuffle=True)
    unicam = UniCAM(student, student.second_relu, base, reference=loader)
    first = unicam.attribute(images(2), classes(2))
    with torch.no_grad():
        student.second.weight.add_(0)  # another version of the same weights: the reference is run again
    assert torch.equal(unicam.attribute(images(2), classes(2)), first)


def test_a_reference_sample_explained_against_itself_is_finite() -> None:
    student, base = pair()
    maps = UniCAM(student, student.second_relu, base, reference=reference()).attribute(
        reference()[0][:2], reference()[1][:2]
    )
    assert maps.isfinite().all()
    assert pairwise_distances(reference()[0][:2], reference()[0])[0, 0] == 0


def test_input_sizes_that_differ_need_pooling() -> None:
    student, base = pair()
    small = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(0)), classes(8)
    with pytest.raises(ValueError, match="set pool"):
        UniCAM(student, student.second_relu, base, reference=small).attribute(images(2), classes(2))
    maps = UniCAM(student, student.second_relu, base, reference=small, pool=1).attribute(
        images(2), classes(2)
    )
    assert maps.shape == (2, 1, 8, 8)
