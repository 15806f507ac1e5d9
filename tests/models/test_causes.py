"""Models whose layers give no gradient or cannot be seen: the right maps, or the cause and the cure."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from captum_kd import DeepUniCAM, UniCAM


class Backbone(nn.Module):
    """Three layers, of which those in ``inside`` run in a mode or in checkpointing."""

    def __init__(self, mode: Any = None, inside: tuple[str, ...] = (), **checkpointing: Any) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.second, self.third = nn.Conv2d(4, 5, 3), nn.Conv2d(5, 6, 3)
            self.fc = nn.Linear(6, 4)
        self.mode, self.inside, self.checkpointing = mode, inside, checkpointing

    def run(self, name: str, x: Tensor) -> Tensor:
        layer = getattr(self, name)
        if name not in self.inside:
            output: Tensor = layer(x)
        elif self.mode is None:
            output = checkpoint(layer, x, **self.checkpointing)
        else:
            with self.mode():
                output = layer(x)
        return output

    def forward(self, x: Tensor) -> Tensor:
        for name in ("first", "norm", "second", "third"):
            x = self.run(name, x).relu()
        return self.run("fc", x.mean((2, 3)))


IMAGES = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))
BASE = copy.deepcopy(Backbone()).eval()
with torch.no_grad():
    BASE.second.weight.mul_(torch.rand(5, 1, 1, 1, generator=torch.Generator().manual_seed(2)))


def maps(model: Any, layer: str = "first", features: str | None = "third", **options: Any) -> Tensor:
    return DeepUniCAM(model, layer, BASE, feature_layer=features, **options).attribute(IMAGES)


EVERY = ("first", "norm", "second", "third")


@pytest.mark.parametrize(
    ("mode", "name"), [(torch.no_grad, "no_grad"), (torch.inference_mode, "inference_mode")]
)
@pytest.mark.parametrize(
    ("inside", "layer", "features"),
    [
        (EVERY, "first", "third"),
        (EVERY, "second", None),
        (("second",), "first", "third"),
        (("second", "third"), "norm", "third"),
        (("fc",), "first", None),
        (("first", "norm"), "first", "third"),
    ],
)
def test_modes_without_a_graph_are_named(
    mode: Any, name: str, inside: tuple[str, ...], layer: str, features: str | None
) -> None:
    model = Backbone(mode, inside)
    with pytest.raises(
        ValueError, match=rf"under torch\.{name}\(\), so no gradient passes .* Take {name} out of"
    ):
        maps(model, layer, features)
    own = {"features": None, "class_evidence": False}
    assert torch.equal(maps(model, layer, **own), maps(Backbone(), layer, **own))


def test_a_layer_at_the_end_of_a_block_without_a_graph_has_its_maps() -> None:
    for inside in (("first", "norm", "second"), ("first",)):
        layer = inside[-1]
        assert torch.equal(maps(Backbone(torch.no_grad, inside), layer), maps(Backbone(), layer))


def test_a_whole_forward_without_a_graph() -> None:
    class Frozen(Backbone):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    with pytest.raises(ValueError, match=r"Layer 'third' of the student runs under torch\.no_grad\(\)"):
        maps(Frozen())
    assert torch.equal(maps(Frozen(), "fc", None), maps(Backbone(), "fc", None))  # nothing follows it


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("inside", [("first",), ("second",), ("third",), ("fc",)])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_is_named(reentrant: bool, inside: tuple[str, ...]) -> None:
    model = Backbone(None, inside, use_reentrant=reentrant).train()
    mean = model.norm.running_mean.clone()
    with pytest.raises(ValueError, match=r"in gradient checkpointing .* Switch checkpointing off"):
        maps(model)
    assert model.training
    assert torch.equal(model.norm.running_mean, mean)
    own = {"features": None, "class_evidence": False}
    assert torch.equal(maps(model, **own), maps(Backbone(), **own))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_checkpointing_before_the_layer_does_no_harm(reentrant: bool) -> None:
    model = Backbone(None, ("first", "norm"), use_reentrant=reentrant)
    assert torch.equal(maps(model, "second"), maps(Backbone(), "second"))


def test_a_model_built_in_inference_mode() -> None:
    with torch.inference_mode():
        model = Backbone()
    with pytest.raises(ValueError, match=r"The student was built or loaded under torch\.inference_mode\(\)"):
        maps(model)
    assert torch.equal(maps(copy.deepcopy(model)), maps(Backbone()))
    base = Backbone()
    base.register_buffer("mean", torch.zeros(1))
    with torch.inference_mode():
        base.mean = torch.zeros(1)
    with pytest.raises(ValueError, match="The base model was built or loaded"):
        DeepUniCAM(Backbone(), "first", base, feature_layer="third").attribute(IMAGES)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_named() -> None:
    plain = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 4, 3)).eval()
    for scripted in (
        torch.jit.script(plain),
        torch.jit.trace(plain, IMAGES),
        torch.jit.freeze(torch.jit.script(plain)),
    ):
        wrapped = nn.Sequential(nn.Identity(), scripted)
        for model, name in ((scripted, "0"), (wrapped, "1.0")):
            if name not in dict(model.named_modules()):
                continue  # freezing takes the layers away
            with pytest.raises(ValueError, match=f"Layer '{name}' of the student is TorchScript"):
                UniCAM(model, name, BASE, "first", objective="uniqueness").attribute(IMAGES)
            with pytest.raises(ValueError, match=f"Layer '{name}' of the student is TorchScript"):
                DeepUniCAM(model, name, BASE, "first", feature_layer=None).attribute(IMAGES)
    with pytest.raises(ValueError, match="layer: the student is TorchScript"):
        UniCAM(torch.jit.script(plain), plain[0], BASE, "first")
    with pytest.raises(ValueError, match="layer: RecursiveScriptModule is TorchScript"):
        UniCAM(torch.jit.freeze(torch.jit.script(plain)), "0", BASE, "first")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_before_the_layers_does_no_harm() -> None:
    plain = nn.Sequential(nn.Identity(), Backbone()).eval()
    model = nn.Sequential(torch.jit.freeze(torch.jit.script(nn.Identity().eval())), Backbone()).eval()
    options = {"base_layer": "first", "feature_layer": "1.third", "base_feature_layer": "third"}
    found, expected = (DeepUniCAM(m, "1.first", BASE, **options).attribute(IMAGES) for m in (model, plain))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("hidden", [False, True])
def test_a_function_of_a_model_in_training_mode(hidden: bool) -> None:
    model = Backbone().train()
    models = (model for _ in range(9))  # nothing shows what a generator will give
    function = (lambda x: next(models)(x)) if hidden else (lambda x: model(x))
    before = copy.deepcopy(model.state_dict())
    options = {"base_layer": "first", "feature_layer": model.third, "base_feature_layer": "third"}
    found = DeepUniCAM(function, model.first, BASE, **options).attribute(IMAGES)
    assert torch.equal(found, maps(Backbone()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
