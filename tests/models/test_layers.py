"""Layer look-up by name, pairing, and how errors name a layer."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from captum_kd.models.layers import (
    deep_layers,
    default_layers,
    describe_layer,
    find_layer,
    layer_name,
    pair_layers,
    resolve_layers,
    unwrap,
)


class Network(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU())
        self.alias = self.layer2


STUDENT, BASE = Network(4), Network(8)


def test_find_and_name() -> None:
    assert find_layer(STUDENT, "layer2") is STUDENT.layer2
    assert find_layer(STUDENT, "layer1.0") is STUDENT.layer1[0]
    assert find_layer(STUDENT, "alias") is STUDENT.layer2
    assert find_layer(STUDENT, "") is STUDENT
    assert layer_name(STUDENT, STUDENT.layer1[0]) == "layer1.0"
    assert layer_name(STUDENT, BASE.layer1) is None
    assert layer_name(lambda x: STUDENT(x), STUDENT.layer1) is None


def test_near_matches_are_listed() -> None:
    message = r"Network has no layer 'layer3'\. Did you mean 'layer1', 'layer2' or .*\? model\.named_modules"
    with pytest.raises(ValueError, match=message):
        find_layer(STUDENT, "layer3")
    with pytest.raises(ValueError, match=r"no layer 'xyz'\. model\.named_modules\(\) lists all names"):
        find_layer(STUDENT, "xyz")


@pytest.mark.parametrize(
    "wrapped",
    [
        nn.DataParallel(STUDENT),
        torch.compile(STUDENT, backend="eager"),
        nn.DataParallel(torch.compile(STUDENT, backend="eager")),
    ],
    ids=["DataParallel", "compiled", "both"],
)
def test_wrappers_are_looked_through(wrapped: Any) -> None:
    assert unwrap(wrapped) is STUDENT
    assert find_layer(wrapped, "layer1.0") is STUDENT.layer1[0]
    assert layer_name(wrapped, STUDENT.layer1[0]) == "layer1.0"
    assert pair_layers(wrapped, STUDENT.layer1, BASE, None)[1] == [BASE.layer1]


def test_describe() -> None:
    assert describe_layer(STUDENT, STUDENT.layer2[0], "student") == "Layer 'layer2.0' of the student"
    function = describe_layer(lambda x: x, BASE.layer2[0], "base model")
    assert function == "A Conv2d layer of the base model"


def test_pairs() -> None:
    assert pair_layers(STUDENT, STUDENT.layer1, BASE, None) == ([STUDENT.layer1], [BASE.layer1])
    several = [STUDENT.layer2, STUDENT.layer1[0]]
    assert pair_layers(STUDENT, several, BASE, None) == (several, [BASE.layer2, BASE.layer1[0]])
    explicit = pair_layers(STUDENT, several, BASE, [BASE.layer1, BASE.layer2])
    assert explicit == (several, [BASE.layer1, BASE.layer2])
    assert pair_layers(len, STUDENT.layer1, len, BASE.layer2) == ([STUDENT.layer1], [BASE.layer2])


@pytest.mark.parametrize(
    ("layer", "base_layer", "error", "message"),
    [
        (BASE.layer1, None, ValueError, r"layer: this Sequential is not in the student \(Network\)"),
        (STUDENT.layer1, STUDENT.layer1, ValueError, "base_layer: .* not in the base model"),
        ([STUDENT.layer1] * 2, BASE.layer1, ValueError, "pair up, got 2 and 1 layers"),
        ([], None, ValueError, "layer must name at least one layer"),
        (STUDENT.layer1, [], ValueError, "base_layer must name at least one layer"),
        (3, None, TypeError, "^layer must be a module or the name of one, or a list of these, got int"),
        (STUDENT.layer1, [None], TypeError, "base_layer must be a module .* got NoneType"),
        (
            "layer3",
            None,
            ValueError,
            r"^layer: Network has no layer 'layer3'\. Did you mean 'layer1', 'layer2'",
        ),
        (["layer1", "xyz"], None, ValueError, r"^layer: Network has no layer 'xyz'\. model\.named_modules"),
        (STUDENT.layer1, "layr2", ValueError, r"^base_layer: Network has no layer 'layr2'\. Did you mean"),
        (["layer1", "layer2"], "layer1", ValueError, "pair up, got 2 and 1 layers"),
    ],
)
def test_layers_that_do_not_pair(layer: Any, base_layer: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pair_layers(STUDENT, layer, BASE, base_layer)


def test_names_and_modules_are_the_same() -> None:
    both = [STUDENT.layer2, STUDENT.layer1[0]], [BASE.layer2, BASE.layer1[0]]
    for several in (["layer2", "layer1.0"], ("layer2", STUDENT.layer1[0]), [STUDENT.layer2, "layer1.0"]):
        assert pair_layers(STUDENT, several, BASE, None) == both
        assert pair_layers(STUDENT, several, BASE, ["layer2", BASE.layer1[0]]) == both
        assert resolve_layers(nn.DataParallel(STUDENT), several, "layers", "student") == both[0]
    assert pair_layers(STUDENT, "layer1", BASE, None) == ([STUDENT.layer1], [BASE.layer1])
    assert pair_layers(STUDENT, STUDENT.layer1, BASE, "layer2") == ([STUDENT.layer1], [BASE.layer2])


def test_a_sequential_is_one_layer() -> None:
    assert resolve_layers(STUDENT, STUDENT.layer1, "layer", "student") == [STUDENT.layer1]


def test_the_base_layer_has_the_name_that_was_given() -> None:
    base = Network(8)
    base.alias = base.layer1
    assert pair_layers(STUDENT, "alias", base, None) == ([STUDENT.layer2], [base.layer1])


def test_layers_of_functions_have_no_names() -> None:
    message = (
        r"^layer: 'layer1' is the name of a layer, but the student is a function, .* Pass the layer itself"
    )
    with pytest.raises(ValueError, match=message):
        pair_layers(len, "layer1", BASE, None)
    with pytest.raises(ValueError, match=r"^base_layer: 'layer2' .* but the base model is a function"):
        pair_layers(len, STUDENT.layer1, len, ["layer2"])


def test_base_layer_cannot_be_found() -> None:
    with pytest.raises(ValueError, match=r"base_layer is needed: .* Sequential has no layer 'layer1'"):
        pair_layers(STUDENT, "layer1", nn.Sequential(nn.Linear(2, 2)), None)
    with pytest.raises(ValueError, match="base_layer is needed: a layer is found by name only"):
        pair_layers(STUDENT, "layer1", len, None)
    with pytest.raises(ValueError, match="base_layer is needed: a layer is found by name only"):
        pair_layers(len, STUDENT.layer1, BASE, None)
    with pytest.raises(ValueError, match="base_layer is needed: a layer is found by name only"):
        pair_layers(STUDENT, STUDENT.layer1, len, None)
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"base_layer is needed: .* Sequential has no layer 'layer1'"):
        pair_layers(STUDENT, STUDENT.layer1, other, None)


def test_deep_layers_are_convolutional() -> None:
    assert len(deep_layers(timm.create_model("resnet18"))) == 2
    assert len(deep_layers(timm.create_model("resnet26d"))) == 2
    regnet = torchvision.models.regnet_y_400mf()
    assert deep_layers(regnet) == [regnet.trunk_output.block3, regnet.trunk_output.block4]
    for tokens in ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224"):
        assert deep_layers(timm.create_model(tokens)) == []
    assert deep_layers(torchvision.models.swin_t()) == []
    assert deep_layers(nn.Linear(2, 2)) == []


class Holds(nn.Module):
    """A wrapper, such as a Lightning module, with further modules beside the network."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda net: Holds(model=net), "model."),
        (
            lambda net: Holds(network=net, loss=nn.CrossEntropyLoss(), calibration=nn.Linear(10, 10)),
            "network.",
        ),
        (lambda net: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), net), "2."),
        (AveragedModel, "module."),
        (lambda net: Holds(a=Holds(b=nn.ModuleList([net]))), "a.b.0."),
        (nn.DataParallel, ""),
        (lambda net: nn.Sequential(nn.Identity(), nn.DataParallel(net)), "1.module."),
        (lambda net: torch.compile(Holds(model=net), backend="eager"), "model."),
        (lambda net: Holds(model=torch.compile(net, backend="eager")), "model._orig_mod."),
        (lambda net: Holds(model=net, the_same=net), "model."),
    ],
)
@pytest.mark.parametrize("make", [torchvision.models.resnet18, lambda: timm.create_model("resnet10t")])
def test_late_layers_are_found_through_wrappers(wrap: Any, prefix: str, make: Any) -> None:
    net = make()
    wrapped = wrap(net)
    net = wrapped.module if isinstance(wrapped, AveragedModel) else net  # which copies
    assert deep_layers(wrapped) == [net.layer3, net.layer4]
    assert default_layers(wrapped) == [prefix + name for name in default_layers(net)]
    for name in default_layers(wrapped):
        layer = find_layer(wrapped, name)
        assert layer is net.get_submodule(name.removeprefix(prefix))
        assert find_layer(wrapped, layer_name(wrapped, layer) or "") is layer


def test_late_layers_of_other_kinds_are_found_through_wrappers() -> None:
    mobile, regnet = torchvision.models.mobilenet_v3_small(), torchvision.models.regnet_y_400mf()
    for wrap in (AveragedModel, lambda net: nn.Sequential(nn.Identity(), net)):
        assert [type(layer) for layer in deep_layers(wrap(mobile))] == [nn.Sequential]
        assert default_layers(wrap(regnet))[-1].endswith(".trunk_output.block4")
    assert deep_layers(Holds(model=mobile)) == [mobile.features]
    tokens = timm.create_model("vit_tiny_patch16_224")
    assert deep_layers(Holds(model=tokens)) == []
    assert default_layers(Holds(model=tokens))[0] == "model.blocks.0"


def test_networks_in_a_wrapper_are_not_guessed() -> None:
    one, other = torchvision.models.resnet18(), timm.create_model("resnet10t")
    unknown = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for ambiguous in (
        Holds(student=one, teacher=other),
        Holds(student=Holds(net=one), teacher=AveragedModel(one)),
        Holds(model=unknown, teacher=one),
        Holds(stem=torchvision.models.mobilenet_v3_small(), body=unknown),
        Holds(model=one, decoder=nn.Sequential(nn.ConvTranspose2d(4, 4, 3))),
    ):
        assert deep_layers(ambiguous) == []
    with pytest.raises(ValueError, match="The stages of Holds are not known"):
        default_layers(Holds(student=one, teacher=other))
