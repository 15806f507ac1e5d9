"""A reference that is kept from call to call: whatever has changed, maps are those of a fresh object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.metrics import sensitivity_max
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from captum_kd import DeepUniCAM, UniCAM
from captum_kd.attr.reference import same_samples
from captum_kd.models.small import small_resnet
from tests.networks import Network, classes, images, pair

REFERENCE = (images(20, seed=7), classes(20))


def unicam(student: Any, base: Any, **options: Any) -> UniCAM:
    given: dict[str, Any] = {"reference": REFERENCE, "pool": 1, "objective": "uniqueness"} | options
    layers = [m.second_relu for m in (getattr(student, "net", student), base)]
    return UniCAM(student, layers[0], base, layers[1], **given)


def signed(method: UniCAM, *further: Any) -> Tensor:
    maps = method.attribute(images(3), classes(3), *further, relu_attributions=False)
    assert isinstance(maps, Tensor)
    return maps


class Norm(nn.Module):
    """The student behind a step that a plain attribute decides about."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net, self.k = net, 1.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(torch.tanh(self.k * x))
        return out


def trained(optimizer: type[torch.optim.Optimizer], **options: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.second.weight.grad = torch.randn(
            model.second.weight.shape, generator=torch.Generator().manual_seed(0)
        )
        optimizer([model.second.weight], lr=0.3, **options).step()

    return change


CHANGES: dict[str, Callable[[Any], object]] = {
    "AdamW": trained(torch.optim.AdamW, fused=True),
    "SGD": trained(torch.optim.SGD, fused=True),
    "Adagrad": trained(torch.optim.Adagrad, fused=True),
    "plain SGD": trained(torch.optim.SGD),
    "data": lambda net: net.second.weight.data.mul_(-1),
    "a buffer": lambda net: net.first[1].running_mean.data.add_(1),
    "assigned": lambda net: net.load_state_dict(
        {key: value.flip(0) if value.dim() else value for key, value in net.state_dict().items()}, assign=True
    ),
    "parametrised": lambda net: (
        parametrizations.weight_norm(net.second),
        net.second.parametrizations.weight.original0.data.mul_(torch.linspace(0.5, 3, 12).view(-1, 1, 1, 1)),
    ),
    "a hook": lambda net: net.first[0].register_forward_hook(lambda module, args, output: output.abs()),
    "an attribute": lambda net: setattr(net.first[1], "eps", 10.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_after_a_change_maps_are_those_of_a_fresh_object(name: str) -> None:
    student, base = pair()
    method = unicam(student, base)
    before = signed(method)
    CHANGES[name](student)
    after = signed(method)
    assert (after - before).abs().max() > 0.01 * before.abs().max()
    assert torch.equal(after, signed(unicam(student, base)))


def test_a_plain_attribute_counts() -> None:
    student, base = pair()
    model = Norm(student)
    method = unicam(model, base)
    before = signed(method)
    model.k = 100.0
    assert not torch.allclose(signed(method), before)
    assert torch.equal(signed(method), signed(unicam(model, base)))


@pytest.mark.parametrize("wrap", [lambda net: lambda x: net(x), lambda net: net.forward])
def test_what_a_function_does_is_not_kept(wrap: Callable[[nn.Module], Callable[..., Any]]) -> None:
    student, base = pair()

    def make() -> UniCAM:
        layers = student.second_relu, base.second_relu
        return UniCAM(wrap(student), layers[0], wrap(base), layers[1], reference=REFERENCE)

    method = make()
    before = signed(method)
    student.second.weight.data.mul_(-1)
    assert not torch.allclose(signed(method), before)
    assert torch.equal(signed(method), signed(make()))


def test_a_transform_counts() -> None:
    student, base = pair()
    factors = torch.ones(1, 12, 1, 1)
    options: dict[str, Any] = {"reshape_transform": lambda value: value * factors}
    method = unicam(student, base, **options)
    before = signed(method)
    factors[0, :6] = 5
    assert not torch.allclose(signed(method), before)
    assert torch.equal(signed(method), signed(unicam(student, base, **options)))


def test_autocast_counts() -> None:
    method = unicam(*pair())
    signed(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(signed(method), signed(unicam(*pair())))


def test_training_flags_and_gradients_do_not_count() -> None:
    student, base = pair()
    calls: list[int] = []
    base.head.register_forward_hook(lambda _m, args, _o: calls.append(len(args[0])))
    method = unicam(student, base)
    before = signed(method)
    student.train().requires_grad_(False)
    assert torch.equal(signed(method), before)
    assert calls == [20, 3, 3]


def test_a_reference_is_a_copy() -> None:
    given = REFERENCE[0].clone()
    method = unicam(*pair(), reference=given)
    before = signed(method)
    given.zero_()
    method._reference_cache = None
    assert torch.equal(signed(method), before)
    memory = torch.empty(10, 3, 12, 12)
    reused = (memory.copy_(part) for part in REFERENCE[0].split(10))
    torch.testing.assert_close(signed(unicam(*pair(), reference=reused)), before, rtol=1e-4, atol=1e-7)


class Conditional(nn.Module):
    """A model with a further argument."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, scale: Any = 1.0, flag: bool = False) -> Tensor:
        scale = scale.reshape(-1, 1, 1, 1) if isinstance(scale, Tensor) and scale.dim() else scale
        out: Tensor = self.net((x * scale).abs() if flag else x * scale)
        return out


def conditional(**options: Any) -> UniCAM:
    student, base = (Conditional(net) for net in pair())
    layers = student.net.second_relu, base.net.second_relu
    return UniCAM(student, layers[0], base, layers[1], **({"reference": REFERENCE} | options))


def test_other_arguments_give_another_reference() -> None:
    method = conditional()
    maps = []
    for arguments in (1.0, 5.0, (5.0, True), torch.tensor(0.2), None):
        maps.append(signed(method, arguments))
        assert torch.equal(maps[-1], signed(conditional(), arguments)), arguments
    torch.testing.assert_close(maps[0], maps[-1], rtol=1e-5, atol=1e-8)
    assert not torch.allclose(maps[0], maps[1])


def test_an_argument_of_each_sample_has_to_fit_the_reference() -> None:
    for arguments, index in ((torch.ones(3), 0), ((1.0, torch.ones(3, 1)), 1)):
        with pytest.raises(ValueError, match=f"argument {index} has 3 rows.* 3 inputs.* 20 samples"):
            signed(conditional(), arguments)
    batches = [(x, y) for x, y in zip(REFERENCE[0].split(3)[:6], REFERENCE[1].split(3)[:6], strict=True)]
    assert signed(conditional(reference=batches), torch.ones(3)).isfinite().all()
    # The way that the message names.
    paired = ((REFERENCE[0], torch.linspace(1, 2, 20)), REFERENCE[1])
    maps = conditional(reference=paired).attribute((images(3), torch.ones(3)), classes(3))
    assert isinstance(maps, Tensor)
    assert maps.isfinite().all()


METHODS: dict[str, Callable[[nn.Module, nn.Module, Any], UniCAM | DeepUniCAM]] = {
    "UniCAM": lambda s, b, r: UniCAM(s, "layer2", b, reference=r),
    "pooled": lambda s, b, r: UniCAM(s, "layer3", b, reference=r, pool=1, objective="uniqueness"),
    "elementwise": lambda s, b, r: UniCAM(s, "layer2", b, reference=r, combine="elementwise"),
    "DeepUniCAM": lambda s, b, r: DeepUniCAM(s, "layer2", b, reference=r),
}


def explained(method: Any, x: Tensor, y: Tensor) -> Tensor:
    maps: Tensor = method.attribute(x, y, relu_attributions=False)
    return maps


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", METHODS)
def test_a_reference_may_hold_the_images_explained(name: str, precision: str) -> None:
    torch.manual_seed(0)
    student, base = small_resnet(8), small_resnet(8)
    x, y = torch.randn(20, 3, 32, 32), torch.arange(20) % 4
    if precision == "float64":
        student, base, x = student.double(), base.double(), x.double()
    method = METHODS[name](student, base, (x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        whole, parts = explained(method, x[:6], y[:6]), []
        for size in (1, 2, 3):
            split = zip(x[:6].split(size), y[:6].split(size), strict=True)
            parts.append(torch.cat([explained(method, *part) for part in split]))
    # Activations of bfloat16 themselves change with the batch.
    tolerance = 0.05 if precision == "bfloat16" else 1e-4
    for part in parts:
        assert ((part - whole).flatten(1).norm(dim=1) <= tolerance * whole.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("name", METHODS)
def test_maps_of_images_in_the_reference_are_not_sensitive_to_noise(name: str) -> None:
    torch.manual_seed(0)
    student, base = small_resnet(8), small_resnet(8)
    x, y = torch.randn(20, 3, 32, 32), torch.arange(20) % 4
    method = METHODS[name](student, base, (x, y))
    scores = sensitivity_max(
        lambda inputs, target: (explained(method, inputs[0], target),),
        x[:4],
        perturb_radius=1e-4,
        n_perturb_samples=3,
        target=y[:4],
    )
    assert (scores < 0.5).all()


def test_images_twice_in_a_batch_have_one_map() -> None:
    student, base = pair()
    x, y = images(8), classes(8)
    x, y = torch.cat([x, x[:3]]), torch.cat([y, y[:3]])
    maps = explained(UniCAM(student, "second_relu", base), x, y)
    torch.testing.assert_close(maps[:3], maps[8:], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("copies", [2, 3])
def test_copies_of_the_same_weights_share_everything(copies: int) -> None:
    models = [pair()[0] for _ in range(copies)]
    for base in models[1:]:
        for reference in (None, images(20, seed=7), images()):
            for method in (
                UniCAM(models[0], "second_relu", base, objective="uniqueness", pool=1, reference=reference),
                DeepUniCAM(models[0], "second_relu", base, feature_layer=None, reference=reference),
            ):
                for maps in method.attribute_all(images(), classes()):
                    assert isinstance(maps, Tensor)
                    assert not maps.any()


def test_same_samples() -> None:
    x = images(5)
    found = same_samples([(x[:2],), (x[2:],)], [(x[[4, 0, 0]],)])
    assert found.nonzero().tolist() == [[0, 1], [0, 2], [4, 0]]
    near = x.clone()
    near[1, 2, 5, 7] += 1e-3
    assert same_samples([(near,)], [(x,)]).diagonal().tolist() == [True, False, True, True, True]
    assert not same_samples([(x, torch.arange(5))], [(x, torch.arange(5) + 1)]).any()
    assert not same_samples([(x,)], [(x[:, :, :6],)]).any()
    assert not same_samples([(x,)], [(x.double(),)]).any()
