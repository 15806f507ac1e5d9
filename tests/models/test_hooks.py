"""Hooks: when they are called, what they may replace, and that nothing of them stays."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from captum_kd.models.functions import modules_of
from captum_kd.models.hooks import (
    as_tuple,
    hooked,
    sample_count,
    type_of,
    uncompiled,
    undisturbed,
)


class Network(nn.Module):
    """Calls its layers by position and by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = Product()
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.fails:
            raise RuntimeError("the model failed")
        return self.second(left=x, right=x + 1) + self.second(x, right=x)


class Product(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left * right


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_every_call_of_a_layer_is_reported_with_its_output() -> None:
    model, x, calls = Network(), torch.randn(3, 2), []
    with hooked([model.second, model.first], lambda *call: calls.append(call)):
        model(x)
    model(x)
    middle = model.first(x)
    assert [index for index, _ in calls] == [1, 0, 0]
    for (_, found), expected in zip(calls, [middle, middle * (middle + 1), middle**2], strict=True):
        torch.testing.assert_close(found, expected)
    assert hooks(model) == 0


def test_inputs_of_a_layer_are_its_positional_arguments_or_else_its_keywords() -> None:
    model, x, calls = Network(), torch.randn(3, 2), []
    with hooked([model.second], lambda _, value: calls.append(value), attribute_to_layer_input=True):
        model(x)
    middle = model.first(x)
    assert [len(call) for call in calls] == [2, 1]
    torch.testing.assert_close(calls, [(middle, middle + 1), (middle,)])
    assert hooks(model) == 0


@pytest.mark.parametrize("layer_input", [False, True])
def test_what_the_callback_returns_takes_the_place_of_what_it_was_given(layer_input: bool) -> None:
    model, x = Network(), torch.randn(3, 2)

    def double(_: int, value: Any) -> Any:
        return tuple(2 * v for v in value) if layer_input else 2 * value

    with hooked([model.second], double, attribute_to_layer_input=layer_input):
        output = model(x)
    middle = model.first(x)
    by_keywords = (4 if layer_input else 2) * middle * (middle + 1)
    torch.testing.assert_close(output, by_keywords + 2 * middle * middle)


@pytest.mark.parametrize("layer_input", [False, True])
def test_hooks_are_removed_after_an_error(layer_input: bool) -> None:
    model = Network()
    model.fails = True
    model.second.register_forward_hook(lambda *_: None)  # somebody else's hook stays

    def run() -> None:
        with hooked(model.children(), lambda *_: None, attribute_to_layer_input=layer_input):
            assert hooks(model) == 3
            model(torch.zeros(1, 2))

    with pytest.raises(RuntimeError, match="the model failed"):
        run()
    assert hooks(model) == 1


def test_undisturbed_restores_modes_and_random_state_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    random = torch.get_rng_state()

    def run() -> None:
        with undisturbed(model):
            assert not any(module.training for module in model.modules())
            torch.rand(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run()
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.equal(torch.get_rng_state(), random)


class Uses:
    """Something that holds a model and is called."""

    def __init__(self, model: nn.Module) -> None:
        self.models = {"mine": [model]}

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x)

    def run(self, x: Tensor) -> Tensor:
        output: Tensor = self.models["mine"][0](x)
        return output


@pytest.mark.parametrize(
    "function_of",
    [
        lambda model: lambda x: model(x),
        lambda model: model.forward,
        lambda model: functools.partial(nn.Module.__call__, model),
        lambda model: lambda x, m=model: m(x),
        Uses,
        lambda model: Uses(model).run,
        lambda model: lambda x: next(f(x) for f in [lambda y: model(y)]),
    ],
)
def test_models_of_functions_are_found_and_put_into_evaluation_mode(function_of: Any) -> None:
    network = Network().train()
    function = function_of(network)
    assert modules_of(function) == [network]
    with undisturbed(function, network.first):
        assert not any(module.training for module in network.modules())
        function(torch.ones(2, 2))
    assert all(module.training for module in network.modules())


def test_hidden_models_of_functions_go_into_evaluation_mode_as_they_are_called() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).train()
    models = iter([network] * 2)  # nothing shows what an iterator will give
    x = torch.ones(3, 2)

    def function(value: Tensor) -> Tensor:
        output: Tensor = next(models)(value)
        return output

    with undisturbed(function, nn.Identity()):
        assert network.training
        torch.testing.assert_close(function(x), x / (1 + 1e-5) ** 0.5)
        assert not any(module.training for module in network.modules())
    assert all(module.training for module in network.modules())
    assert not network[0].num_batches_tracked


def test_compiled_modules_run_hooks_inside_the_block_only() -> None:
    torch.compiler.reset()
    model, calls = nn.Sequential(nn.ReLU(), nn.Identity()), []
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(torch.ones(2))
        with hooked([model[0]], lambda *call: calls.append(call)):
            compiled(torch.ones(2))
            assert not calls
            with uncompiled(compiled, len):
                compiled(torch.ones(2))
    assert len(calls) == 1
    torch.compiler.reset()


def test_arguments() -> None:
    assert as_tuple(None) == ()
    assert as_tuple(3) == (3,)
    assert as_tuple((3, [4])) == (3, [4])
    assert sample_count((torch.zeros(4, 2), torch.zeros(1))) == 4
    assert type_of((1, [torch.ones(1)])) == "a tuple of 2 (int, a list of 1 (Tensor))"
    with pytest.raises(TypeError, match="tensor or a tuple of tensors, got float"):
        sample_count((torch.zeros(4, 2), 1.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got a scalar tensor"):
        sample_count((torch.tensor(1.0),))
