"""Activations of layers: what comes back, and that the model is left as it was found."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kd.models.activations import layer_activations


class Network(nn.Module):
    """In-place ReLU after the convolution, BatchNorm, dropout, and ways to go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.unused = nn.Linear(2, 2)
        self.fails = False
        self.repeats = 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        for _ in range(self.repeats):
            x = self.norm(x)
        if self.fails:
            raise RuntimeError("the model failed")
        return self.fc(self.dropout(x).mean(dim=(2, 3)))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def images(n: int = 4) -> Tensor:
    return torch.randn(n, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def state(model: nn.Module) -> dict[str, Any]:
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "hooks": hooks(model),
        "weights": [t.tolist() for t in model.state_dict().values()],
        "random": torch.get_rng_state().tolist(),
        "grad mode": torch.is_grad_enabled(),
    }


def test_activations_are_those_of_the_model(network: Network) -> None:
    x = images()
    convolved = F.conv2d(x, network.conv.weight, network.conv.bias)
    activations, output = layer_activations(network, [network.conv, network.norm], x)
    assert torch.equal(activations[0], convolved)  # not what the in-place ReLU made of it
    assert (activations[0] < 0).any()
    torch.testing.assert_close(activations[1], network.norm(convolved.relu()))
    assert torch.equal(output, network(x))
    assert not any(t.requires_grad for t in [*activations, output])


def test_layer_input(network: Network) -> None:
    x = images()
    (before,), _ = layer_activations(network, [network.relu], x, attribute_to_layer_input=True)
    (after,), _ = layer_activations(network, [network.relu], x)
    assert torch.equal(before, network.conv(x))
    assert torch.equal(after, network.conv(x).relu())


MODES: dict[str, Callable[[Network], Any]] = {
    "success": lambda n: layer_activations(n, [n.conv, n.norm], images()),
    "model raises": lambda n: layer_activations(n, [n.conv], images()),
    "layer called twice": lambda n: layer_activations(n, [n.conv, n.norm], images()),
    "layer not called": lambda n: layer_activations(n, [n.conv, n.unused], images()),
    "activations not finite": lambda n: layer_activations(n, [n.conv], images() * torch.inf),
    "reshape_transform raises": lambda n: layer_activations(
        n, [n.conv], images(), reshape_transform=lambda _: [].pop()
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_model_is_left_as_it_was(network: Network, mode: str) -> None:
    network.train()
    network.norm.eval()
    network.conv.requires_grad_(False)
    network.fails, network.repeats = mode == "model raises", 1 + (mode == "layer called twice")
    network.fc.register_forward_hook(lambda *_: None)  # somebody else's hook stays
    before = state(network)
    with (
        contextlib.nullcontext()
        if mode == "success"
        else pytest.raises((RuntimeError, ValueError, IndexError))
    ):
        MODES[mode](network)
    assert state(network) == before
    assert hooks(network) == 1


def test_training_mode_gives_the_evaluation_result(network: Network) -> None:
    network.norm.running_mean.fill_(0.3)
    evaluated = layer_activations(network, [network.norm], images())
    trained = layer_activations(network.train(), [network.norm], images())
    assert torch.equal(trained.activations[0], evaluated.activations[0])
    assert torch.equal(trained.output, evaluated.output)


def test_random_state_with_a_random_model(network: Network) -> None:
    def noisy(x: Tensor) -> Tensor:
        return network(x + torch.randn_like(x))

    before = torch.get_rng_state()
    first, second = (layer_activations(noisy, [network.conv], images()).activations[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_of_the_caller(network: Network, mode: Callable[[], Any]) -> None:
    expected = network.conv(images()).detach()
    with mode():
        (activations,), _ = layer_activations(network, [network.conv], images().requires_grad_())
        assert torch.equal(activations, expected)
        assert not activations.requires_grad


@pytest.mark.parametrize(
    ("dtype", "returned"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(network: Network, dtype: torch.dtype, returned: torch.dtype) -> None:
    network.to(dtype)
    (activations,), output = layer_activations(network, [network.conv], images().to(dtype))
    assert activations.dtype == returned
    assert output.dtype == dtype
    assert torch.equal(activations, network.conv(images().to(dtype)).to(returned))


def test_autocast(network: Network) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (activations,), _ = layer_activations(network, [network.conv], images())
        assert activations.dtype == torch.float32
        assert torch.equal(activations, network.conv(images()).float())


def test_channels_last(network: Network) -> None:
    x = images().contiguous(memory_format=torch.channels_last)
    (activations,), _ = layer_activations(network.to(memory_format=torch.channels_last), [network.conv], x)
    torch.testing.assert_close(activations, network.conv(images()), rtol=1e-5, atol=1e-6)


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("way", ["wrapped", "in place", "inner layer"])
def test_compiled(network: Network, way: str) -> None:
    expected = network.conv(images()).detach()
    model: Any = network
    if way == "wrapped":
        model = torch.compile(network, backend="eager")
    elif way == "in place":
        network.compile(backend="eager")
    else:
        network.conv.compile(backend="eager")
    with torch.no_grad():
        model(images())  # a graph without hooks
        for _ in range(2):
            (activations,), output = layer_activations(model, [network.conv], images())
            assert torch.equal(activations, expected)
            torch.testing.assert_close(output, model(images()))
    assert hooks(network) == 0


@pytest.mark.usefixtures("compiler")
def test_compiled_function_says_what_to_do(network: Network) -> None:
    compiled = torch.compile(lambda x: network(x), backend="eager")
    with torch.no_grad():
        compiled(images())
        message = ""
        try:
            (activations,), _ = layer_activations(compiled, [network.conv], images(), role="student")
        except ValueError as error:
            message = str(error)
        if message:
            assert re.search(r"Conv2d layer of the student .* passed uncompiled", message)
        else:  # torch 2.6 compiles anew where a hook was added
            assert torch.equal(activations, network.conv(images()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the wrapper alone; with GPUs it scatters")
def test_data_parallel_without_devices(network: Network) -> None:
    (activations,), _ = layer_activations(nn.DataParallel(network), [network.conv], images())
    assert torch.equal(activations, network.conv(images()))


def test_several_inputs_and_further_arguments() -> None:
    first = nn.Identity()

    def model(a: Tensor, b: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        return first(a + b) * scale + shift

    a, b = torch.ones(2, 3), torch.full((2, 3), 2.0)
    (activations,), output = layer_activations(model, [first], (a, b), (10.0, 1.0))
    assert torch.equal(activations, a + b)
    assert torch.equal(output, torch.full((2, 3), 31.0))
    assert torch.equal(layer_activations(model, [first], (a, b), 10.0).output, torch.full((2, 3), 30.0))


class Pair(nn.Module):
    """Takes keywords, gives a tuple, ``(tokens, batch, channels)`` first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(5, 4)
        self.keyword = Scale()

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.layer(self.keyword(features=x))
        return tokens[-1]


class Scale(nn.Module):
    def forward(self, *, features: Tensor) -> Tensor:
        return 2 * features


class OneOutput(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x + 1,)


def test_tuple_outputs_need_a_reshape_transform() -> None:
    model, x = Pair(), torch.randn(7, 3, 5)

    def channels_second(value: Any) -> Tensor:
        return value[0].permute(1, 2, 0)

    # Inputs have the samples in dimension 0, so the tokens are moved inside.
    def forward(samples: Tensor) -> Tensor:
        return model(samples.transpose(0, 1))

    with pytest.raises(
        TypeError, match=r"LSTM layer .* a tuple of 2 \(Tensor, a tuple of 2 .*reshape_transform"
    ):
        layer_activations(forward, [model.layer], x.transpose(0, 1))
    (activations,), _ = layer_activations(
        forward, [model.layer], x.transpose(0, 1), reshape_transform=channels_second
    )
    torch.testing.assert_close(activations, model.layer(2 * x)[0].permute(1, 2, 0).detach())
    with pytest.raises(ValueError, match=r"shape \(7, 3, 4\) for 3 samples"):
        layer_activations(forward, [model.layer], x.transpose(0, 1), reshape_transform=lambda value: value[0])


@pytest.mark.parametrize(
    "transform", [lambda v: v.relu_(), lambda v: v[:, 1:].mul_(2), lambda v: v.transpose(1, 2).add_(1)]
)
def test_a_reshape_transform_that_works_in_place_is_refused(network: Network, transform: Any) -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ValueError, match="writes into what Layer 'conv' of the model gives"):
        layer_activations(network, [network.conv], x, reshape_transform=transform)
    copied = layer_activations(network, [network.conv], x, reshape_transform=lambda v: v.clone().relu_())
    assert torch.equal(copied.output, network(x))


def test_tuple_of_one() -> None:
    layer = OneOutput()
    (activations,), _ = layer_activations(layer, [layer], torch.zeros(2, 3))
    assert torch.equal(activations, torch.ones(2, 3))


def test_layer_called_by_keyword() -> None:
    model, x = Pair(), torch.randn(3, 3, 5)
    (before,), _ = layer_activations(model, [model.keyword], x, attribute_to_layer_input=True)
    (after,), _ = layer_activations(model, [model.keyword], x)
    assert torch.equal(before, x)
    assert torch.equal(after, 2 * x)


@pytest.mark.parametrize("layer_input", [False, True])
def test_called_more_than_once(network: Network, layer_input: bool) -> None:
    network.repeats = 2
    with pytest.raises(ValueError, match=r"Layer 'norm' of the base model is called more than once"):
        layer_activations(
            network, [network.norm], images(), attribute_to_layer_input=layer_input, role="base model"
        )


def test_not_called(network: Network) -> None:
    with pytest.raises(ValueError, match=r"Layer 'unused' of the student was not called"):
        layer_activations(network, [network.unused], images(), role="student")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(network: Network, value: float) -> None:
    x = images()
    x[1, 0, 0, 0] = value
    message = r"Layer 'conv' of the base model hold NaN or infinite .* float32 or bfloat16"
    with pytest.raises(ValueError, match=message):
        layer_activations(network, [network.fc, network.conv][1:], x, role="base model")


def test_large_activations_are_finite() -> None:
    largest = torch.full((2, 3, 4, 4), torch.finfo(torch.float32).max)
    assert torch.isinf(largest.sum())
    layer = nn.Identity()
    assert torch.equal(layer_activations(layer, [layer], largest).activations[0], largest)


class Maximum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


@pytest.mark.parametrize(
    ("layer", "x", "error", "message"),
    [
        (Maximum(), torch.ones(2, 3, 4), TypeError, r"torch\.int64 activations, .* floating point"),
        (nn.Identity(), torch.ones(4), ValueError, r"shape \(4,\), but \(N, C, \.\.\.\) is needed"),
        (nn.Flatten(0, 1), torch.ones(2, 3, 4), ValueError, r"shape \(6, 4\) for 2 samples"),
    ],
)
def test_activations_of_another_kind(
    layer: nn.Module, x: Tensor, error: type[Exception], message: str
) -> None:
    model = nn.Sequential(layer)
    with pytest.raises(error, match=f"^Layer '0' of the model gives .*{message}"):
        layer_activations(model, [layer], x)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([torch.ones(2, 3)], TypeError, r"tensor or a tuple of tensors, got a list of 1 \(Tensor\)"),
        ((torch.ones(2, 3), 1.0), TypeError, "got float"),
        (torch.tensor(1.0), ValueError, "got a scalar tensor"),
    ],
)
def test_bad_inputs(inputs: Any, error: type[Exception], message: str) -> None:
    layer = nn.Identity()
    with pytest.raises(error, match=message):
        layer_activations(layer, [layer], inputs)
