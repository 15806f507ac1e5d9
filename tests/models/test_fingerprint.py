"""What a digest of a model notices, and what it leaves out."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from captum_kd.models.fingerprint import UnknownStateError, _checksums, fingerprint

SCALE = 2.0
TABLE = {"of": [1, 2]}


def helper(x: Tensor) -> Tensor:
    return x * SCALE


class Config:
    factor = 1

    def __init__(self) -> None:
        self.k = 1


class Slotted:
    __slots__ = ("k",)

    def __init__(self) -> None:
        self.k = 1


class Net(nn.Module):
    """A network with state in every place where there can be some."""

    epsilon = 1e-5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.act: Any = torch.relu
        self.k: Any = 1
        self.options: dict[str, Any] = {"scales": [1.0, 2.0], "mode": "a"}
        self.config = Config()
        self.slotted = Slotted()
        self.table = torch.arange(3.0)
        self.array = np.arange(3.0)
        self.hidden = [nn.Linear(2, 2)]  # no sub-module for PyTorch

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = helper(self.act(self.norm(self.first(x)))) * len(TABLE["of"])
        return out


def set_item(container: Any, key: Any, value: Any) -> None:
    container[key] = value


def scaled(k: float) -> Callable[..., Tensor]:
    return lambda module, args, output: output * k


CHANGES: dict[str, Callable[[Any], object]] = {
    "a weight": lambda net: net.first.weight.data.view(-1)[7:8].mul_(1.001),
    "weights that swap": lambda net: net.first.weight.data.copy_(net.first.weight.data.flip(0)),
    "signs": lambda net: net.first.bias.data.neg_(),
    "a buffer": lambda net: net.norm.running_mean.data.add_(1),
    "a parameter replaced": lambda net: setattr(net.first, "bias", nn.Parameter(torch.ones(4))),
    "another precision": lambda net: net.double(),
    "assigned": lambda net: net.load_state_dict(
        {key: value + 1 for key, value in net.state_dict().items()}, assign=True
    ),
    "parametrised": lambda net: parametrizations.weight_norm(net.first),
    "parametrised by a module": lambda net: parametrize.register_parametrization(
        net.first, "bias", nn.Tanh()
    ),
    "a number": lambda net: setattr(net, "k", 100),
    "a number as a text": lambda net: setattr(net, "k", "1"),
    "an attribute of PyTorch's": lambda net: setattr(net.norm, "eps", 0.1),
    "in a container": lambda net: set_item(net.options["scales"], 0, 3.0),
    "a key": lambda net: set_item(net.options, "other", 1),
    "in an object": lambda net: setattr(net.config, "k", 2),
    "in a slot": lambda net: setattr(net.slotted, "k", 2),
    "a tensor": lambda net: net.table.add_(1),
    "an array": lambda net: set_item(net.array, 0, 9.0),
    "a function": lambda net: setattr(net, "act", torch.tanh),
    "a partial function": lambda net: setattr(net, "act", functools.partial(torch.clamp, min=0)),
    "a closure": lambda net: setattr(net, "act", lambda x: x * 3),
    "in a hidden module": lambda net: net.hidden[0].weight.data.zero_(),
    "a hook": lambda net: net.norm.register_forward_hook(scaled(2)),
    "a hook before": lambda net: net.norm.register_forward_pre_hook(lambda module, args: None),
    "forward": lambda net: setattr(net, "forward", types.MethodType(lambda self, x: x, net)),
    "a module replaced": lambda net: setattr(net, "norm", nn.InstanceNorm2d(4, affine=True)),
    "a module added": lambda net: net.add_module("last", nn.ReLU()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_noticed(name: str) -> None:
    net = Net()
    before = fingerprint(net)
    assert fingerprint(Net()) == before
    assert fingerprint(copy.deepcopy(net)) == before
    CHANGES[name](net)
    assert fingerprint(net) != before


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (sys.modules[__name__], "SCALE", 3.0),
        (sys.modules[__name__], "TABLE", {"of": [1]}),
        (sys.modules[__name__], "helper", lambda x: x),
        (Net, "epsilon", 1.0),
        (Net, "forward", lambda self, x: x),
        (Config, "factor", 2),
        (nn.BatchNorm2d, "forward", lambda self, x: x),
    ],
)
def test_so_is_one_outside_the_model(
    owner: Any, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(Net())
    monkeypatch.setattr(owner, name, value, raising=False)
    assert fingerprint(Net()) != before


def test_hooks_that_differ_in_what_they_enclose_are_told_apart() -> None:
    digests = []
    for k in (1.0, 2.0, 1.0):
        net = Net()
        net.norm.register_forward_hook(scaled(k))
        digests.append(fingerprint(net))
    assert digests[0] == digests[2] != digests[1]


def test_hooks_of_all_modules_count() -> None:
    net = Net()
    before = fingerprint(net)
    handle = nn.modules.module.register_module_forward_hook(scaled(2))
    try:
        assert fingerprint(net) != before
    finally:
        handle.remove()
    assert fingerprint(net) == before


def test_what_changes_no_output_does_not_count() -> None:
    net = Net()
    before = fingerprint(net)
    net.train().requires_grad_(False)
    net.first.register_full_backward_hook(lambda *_: None)
    net.norm.register_forward_hook(scaled(2)).remove()
    assert fingerprint(net) == before


def test_training_is_noticed_however_it_writes() -> None:
    for options in ({"fused": True}, {"foreach": True}, {}):
        net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        optimizer = torch.optim.AdamW(net.parameters(), **options)  # type: ignore[arg-type]
        before = fingerprint(net)
        net(torch.ones(4, 2)).square().sum().backward()
        after = fingerprint(net)
        assert after != before, "statistics of batches"
        optimizer.step()
        assert fingerprint(net) != after


def test_an_averaged_model() -> None:
    net = Net()
    averaged = AveragedModel(net)
    before = fingerprint(averaged)
    net.first.weight.data.add_(1)
    averaged.update_parameters(net)
    averaged.update_parameters(net)
    assert fingerprint(averaged) != before


@pytest.mark.parametrize("value", [torch.zeros(0), torch.tensor(1.0), torch.zeros(2, 3).bfloat16().t(), None])
def test_tensors_of_every_kind(value: Tensor | None) -> None:
    assert fingerprint(value) == fingerprint(copy.deepcopy(value))
    assert fingerprint(value) != fingerprint([value])


def test_shared_and_circular_values() -> None:
    shared: list[Any] = [1]
    assert fingerprint([shared, shared]) != fingerprint([shared, [2]])
    shared.append(shared)
    assert fingerprint(shared) == fingerprint(shared)


@pytest.mark.parametrize(
    "value",
    [iter([1]), torch.zeros(2).to_sparse(), torch.zeros(2, device="meta"), np.array([{}])],
)
def test_what_cannot_be_read_is_refused_by_its_place(value: object) -> None:
    net = Net()
    net.options["held"] = value
    with pytest.raises(UnknownStateError, match=r"Net\.options\[5\] is an? .* cannot be read"):
        fingerprint(net)


def test_a_scripted_module_is_refused() -> None:
    with pytest.raises(UnknownStateError, match="scripted module"):
        fingerprint(torch.jit.script(nn.Linear(2, 2)))


def test_it_is_the_same_in_another_process() -> None:
    code = (
        "import torch; from torch import nn; from captum_kd.models.small import small_resnet;"
        "from captum_kd.models.fingerprint import fingerprint; torch.manual_seed(0);"
        "net = small_resnet(4); net.names = {'b', 'a'}; net.register_forward_hook(lambda m, a, o: o * 2);"
        "print(fingerprint(net))"
    )
    run = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(2)]
    assert run[0].stdout, run[0].stderr
    assert run[0].stdout == run[1].stdout


def test_checksums_on_the_device() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).view(torch.uint8)
    before = _checksums(values)
    assert _checksums(values.clone()) == before
    assert _checksums(values.view(-1, 4).flip(0).reshape(-1)) != before
    assert _checksums(values[:-1]) != before
    for place in (0, 1777, 3999):
        changed = values.clone()
        changed[place] ^= 1
        assert all(old != new for old, new in zip(before, _checksums(changed), strict=True))
