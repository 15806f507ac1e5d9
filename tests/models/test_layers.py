"""Layer look-up by name, pairing, and how errors name a layer."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from captum_kd.models.layers import (
    deep_layers,
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
