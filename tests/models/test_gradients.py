"""Forward passes that keep their graph, and gradients at layers: against autograd on a network's parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_kd.models.gradients import forward_with_graph, layer_gradients


class Network(nn.Module):
    """A convolution, an in-place ReLU, BatchNorm, dropout, and ways to go wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.scale = Scale()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(2, 2)
        self.repeats = 1

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.conv(images))
        for _ in range(self.repeats):
            x = self.norm(x)
        x = self.scale(features=x)
        return self.head(self.dropout(x).mean(dim=(2, 3)))


class Scale(nn.Module):
    def forward(self, *, features: Tensor) -> Tensor:
        return 3 * features


class Parts(nn.Module):
    """Gives tensors in a dictionary, of which one is used later, one is not, and one has no gradient."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"used": 2 * x, "unused": 5 * x, "order": x.argsort()}


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def images() -> Tensor:
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def gradient(layer: Tensor, output: Tensor) -> Tensor:
    (found,) = layer_gradients([layer], [output], [torch.ones_like(output)])
    assert isinstance(found, Tensor)
    return found


def from_relu(network: Network, x: Tensor) -> Tensor:
    """The rest of the network behind the convolution."""
    return network.head(3 * network.norm(x.relu()).mean(dim=(2, 3)))


def test_outputs_of_layers_and_their_gradients(network: Network) -> None:
    convolved = network.conv(images()).detach().requires_grad_()
    expected = from_relu(network, convolved)
    (conv, norm), output = forward_with_graph(network, [network.conv, network.norm], images())
    assert torch.equal(conv, convolved)  # not what the in-place ReLU made of it
    assert torch.equal(norm, network.norm(convolved.relu()))
    torch.testing.assert_close(output, expected)
    (wanted,) = torch.autograd.grad(expected.sum(), convolved)
    torch.testing.assert_close(gradient(conv, output), wanted)


def test_inputs_of_layers_and_their_gradients(network: Network) -> None:
    convolved = network.conv(images()).detach().requires_grad_()
    (wanted,) = torch.autograd.grad(from_relu(network, convolved).sum(), convolved)
    (given,), output = forward_with_graph(network, [network.relu], images(), attribute_to_layer_input=True)
    assert torch.equal(given, convolved)
    assert (given < 0).any()
    found = gradient(given, output)
    torch.testing.assert_close(found, wanted)
    assert not found[convolved < 0].any()


def test_input_of_a_layer_that_is_called_by_keyword(network: Network) -> None:
    normed = network.norm(network.conv(images()).relu()).detach()
    (given,), output = forward_with_graph(network, [network.scale], images(), attribute_to_layer_input=True)
    (after,), same = forward_with_graph(network, [network.scale], images())
    torch.testing.assert_close(given, normed)
    torch.testing.assert_close(after, 3 * normed)
    torch.testing.assert_close(output, same)
    torch.testing.assert_close(gradient(given, output), 3 * gradient(after, same))


def test_several_inputs_of_a_layer_and_further_arguments() -> None:
    layer = nn.Bilinear(2, 3, 1)

    def model(a: Tensor, b: Tensor, factor: float) -> Tensor:
        return factor * layer(a, b)

    inputs = torch.randn(4, 2), torch.randn(4, 3)
    (given,), output = forward_with_graph(model, [layer], inputs, 10.0, attribute_to_layer_input=True)
    torch.testing.assert_close(given, inputs)
    (found,) = layer_gradients([given], [output], [torch.ones_like(output)])
    torch.testing.assert_close(found[0], 10 * inputs[1] @ layer.weight[0].detach().T)
    torch.testing.assert_close(found[1], 10 * inputs[0] @ layer.weight[0].detach())


def test_the_graph_begins_at_the_first_layer_and_parameters_stay_out_of_it(network: Network) -> None:
    network.conv.bias.requires_grad_(False)
    flags = [p.requires_grad for p in network.parameters()]
    (conv, norm), output = forward_with_graph(network, [network.conv, network.norm], images())
    assert conv.is_leaf
    assert not norm.is_leaf
    output.sum().backward()
    assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in network.parameters()] == flags


@pytest.mark.parametrize("layer_input", [False, True])
def test_the_model_is_left_as_it_was(network: Network, layer_input: bool) -> None:
    def state() -> list[Any]:
        return [
            [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()],
            [p.requires_grad for p in network.parameters()],
            [value.tolist() for value in network.state_dict().values()],
            torch.get_rng_state().tolist(),
        ]

    network.train()
    before = state()
    for layers, fails in (([network.norm], False), ([network.norm, network.unused], True)):
        for inputs in (images(), images()[:, :1]):
            if fails or inputs.shape[1] == 1:
                with pytest.raises((RuntimeError, ValueError)):
                    forward_with_graph(network, layers, inputs, attribute_to_layer_input=layer_input)
            else:
                forward_with_graph(network, layers, inputs, attribute_to_layer_input=layer_input)
            assert state() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes_of_the_caller(network: Network, mode: Callable[[], Any]) -> None:
    (layer,), output = forward_with_graph(network, [network.conv], images())
    wanted = gradient(layer, output)
    with mode():
        (layer,), output = forward_with_graph(network.train(), [network.conv], 1 * images())
        assert torch.equal(gradient(layer, output), wanted)


def test_structures_keep_their_form() -> None:
    parts, last = Parts(), nn.Identity()

    def model(x: Tensor) -> Tensor:
        return last(parts(x)["used"])

    x = torch.randn(4, 3)
    (given, end), output = forward_with_graph(model, [parts, last], x)
    found, after = layer_gradients([given, end], [output], [torch.ones_like(output)])
    assert set(found) == {"used", "unused", "order"}
    assert torch.equal(found["used"], torch.ones(4, 3))
    assert torch.equal(found["unused"], torch.zeros(4, 3))
    assert torch.equal(found["order"], x.argsort())  # has no gradient, and stays as it is
    assert torch.equal(after, torch.ones(4, 3))


def test_gradients_of_layers_behind_the_features_are_none() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    (first, last), _ = forward_with_graph(model, [model[0], model[2]], torch.randn(4, 3))
    seeds = [torch.ones_like(first)]
    assert layer_gradients([first, last], [2 * first], seeds)[1] is None


def test_a_graph_is_kept_on_request() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    feature = x.square()
    for keep_graph in (True, False):
        (found,) = layer_gradients([x], [feature], [torch.ones(2)], keep_graph=keep_graph)
        assert torch.equal(found, 2 * x)
    with pytest.raises(RuntimeError, match="second time"):
        layer_gradients([x], [feature], [torch.ones(2)])


class Classes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


def test_errors(network: Network) -> None:
    with pytest.raises(ValueError, match=r"^Layer 'unused' of the student was not called"):
        forward_with_graph(network, [network.unused], images(), role="student")
    network.repeats = 2
    with pytest.raises(ValueError, match=r"^Layer 'norm' of the base model is called more than once"):
        forward_with_graph(network, [network.norm], images(), role="base model")
    classes = nn.Sequential(Classes())
    with pytest.raises(TypeError, match=r"^Layer '0' of the model gives Tensor, .* no floating point tensor"):
        forward_with_graph(classes, [classes[0]], images())
    with pytest.raises(TypeError, match="tensor or a tuple of tensors, got a list of 1"):
        forward_with_graph(network, [network.conv], [images()])  # type: ignore[arg-type]
