"""Features of named layers with gradients, before and after the ReLU, on real architectures."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from captum_kd.distill.features import last_batch_norm, run_with_features
from captum_kd.models.small import small_resnet

STAGES = ["layer1", "layer2", "layer3", "layer4"]
ARCHITECTURES = {
    "torchvision-basic": lambda: torchvision.models.resnet18(num_classes=4),
    "torchvision-bottleneck": lambda: torchvision.models.resnet50(num_classes=4),
    "timm-basic": lambda: timm.create_model("resnet18", num_classes=4),
    "timm-bottleneck": lambda: timm.create_model("resnet26", num_classes=4),
    "small": lambda: small_resnet(width=4, num_classes=4),
}


def images(count: int = 2, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def seeded(build: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build()
    # Weights of a zero-initialised last BatchNorm would hide a wrong branch.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.7)
    return model


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(params=ARCHITECTURES, scope="module")
def network(request: pytest.FixtureRequest) -> nn.Module:
    return seeded(ARCHITECTURES[request.param]).eval()


def test_output_and_features_are_those_of_the_model(network: nn.Module) -> None:
    output, features = run_with_features(network, images(), STAGES)
    torch.testing.assert_close(output, network(images()))
    x = images()
    for name, child in network.named_children():
        x = child(x)
        if name in STAGES:
            torch.testing.assert_close(features[STAGES.index(name)], x)
        if name == STAGES[-1]:
            break
    assert hooks(network) == 0


def test_before_relu_is_what_the_relu_saw(network: nn.Module) -> None:
    _, after = run_with_features(network, images(), STAGES)
    _, before = run_with_features(network, images(), STAGES, before_relu=True)
    for a, b in zip(after, before, strict=True):
        assert (b < 0).any()
        torch.testing.assert_close(F.relu(b), a)
    # The last block by its parts: main branch and shortcut, before the sum is rectified.
    block, seen = network.layer4[-1], {}
    handles = [
        block.register_forward_pre_hook(lambda _, args: seen.update(block=args[0].clone())),
        last_batch_norm(network, "layer4").register_forward_hook(
            lambda *call: seen.update(main=call[2].clone())
        ),
    ]
    network(images())
    for handle in handles:
        handle.remove()
    shortcut = seen["block"] if block.downsample is None else block.downsample(seen["block"])
    torch.testing.assert_close(before[3], seen["main"] + shortcut)
    assert hooks(network) == 0


@pytest.mark.parametrize("before_relu", [False, True])
def test_gradients_reach_the_parameters(before_relu: bool) -> None:
    student = seeded(ARCHITECTURES["torchvision-basic"]).train()
    _, (feature,) = run_with_features(student, images(), ["layer2"], before_relu=before_relu)
    feature.square().sum().backward()
    for name, parameter in student.named_parameters():
        reached = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert reached != name.startswith(("layer3", "layer4", "fc")), name


def test_gradients_of_output_and_features_together() -> None:
    student = seeded(ARCHITECTURES["small"]).train()
    output, features = run_with_features(student, images(), STAGES, before_relu=True)
    (output.sum() + sum(f.square().mean() for f in features)).backward()
    assert all(p.grad is not None for p in student.parameters())
    with torch.no_grad():
        assert not run_with_features(student, images(), STAGES)[1][0].requires_grad
    assert student.training


class Plain(nn.Sequential):
    """conv, in-place ReLU, pooling."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3844, 2)
        )


def test_features_survive_operations_in_place() -> None:
    model = seeded(Plain)
    convolved = model[0](images())
    for before_relu in (False, True):
        _, (feature,) = run_with_features(model, images(), ["0"], before_relu=before_relu)
        torch.testing.assert_close(feature, convolved)
    _, (after,) = run_with_features(model, images(), ["1"])
    _, (before,) = run_with_features(model, images(), ["1"], before_relu=True)
    torch.testing.assert_close(before, convolved)
    torch.testing.assert_close(after, convolved.relu())


def test_vgg() -> None:
    model = seeded(lambda: torchvision.models.vgg11_bn(num_classes=4)).eval()
    pool, relu, norm = (
        next(i for i, m in enumerate(model.features) if isinstance(m, kind))
        for kind in (nn.MaxPool2d, nn.ReLU, nn.BatchNorm2d)
    )
    names = [f"features.{relu}", f"features.{norm}"]
    _, (a, b) = run_with_features(model, images(), names, before_relu=True)
    torch.testing.assert_close(a, b)
    assert (a < 0).any()
    assert last_batch_norm(model, names[1]) is model.features[norm]
    with pytest.raises(ValueError, match=rf"Layer 'features\.{relu}' of VGG holds no BatchNorm"):
        last_batch_norm(model, names[0])
    with pytest.raises(ValueError, match=rf"'features\.{pool}' gives rectified features"):
        run_with_features(model, images(), [f"features.{pool}"], before_relu=True)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnetv2_50", "stages.0"), ("mobilenetv2_050", "blocks.2"), ("densenet121", "features.denseblock1")],
)
def test_layers_that_end_without_a_relu_give_their_output(name: str, layer: str) -> None:
    model = seeded(lambda: timm.create_model(name, num_classes=4)).eval()
    _, (after,) = run_with_features(model, images(), [layer])
    _, (before,) = run_with_features(model, images(), [layer], before_relu=True)
    torch.testing.assert_close(before, after)


def test_batch_norm_with_activation_of_timm() -> None:
    model = seeded(lambda: timm.create_model("densenet121", num_classes=4)).eval()
    _, (after,) = run_with_features(model, images(), ["features.norm5"])
    _, (before,) = run_with_features(model, images(), ["features.norm5"], before_relu=True)
    assert (before < 0).any()
    torch.testing.assert_close(before.relu(), after)
    assert last_batch_norm(model, "features.norm5") is model.features.norm5


class Odd(nn.Module):
    """Layers that are shared, skipped, functional, or give several tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.unused = nn.Conv2d(3, 3, 3)
        self.functional = Functional()
        self.recurrent = nn.LSTM(3, 2, batch_first=True)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.functional(self.shared(self.shared(x)))
        if self.fails:
            raise RuntimeError("out of order")
        output, _ = self.recurrent(x.mean(2).transpose(1, 2))
        return output[:, -1]


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.convolution = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.convolution(self.relu(x)))


def test_the_last_of_several_calls_counts() -> None:
    model = seeded(Odd)
    _, (feature, again) = run_with_features(model, images(), ["shared", "shared"])
    torch.testing.assert_close(feature, model.shared(model.shared(images())))
    torch.testing.assert_close(feature, again)


def test_unusable_layers_are_named() -> None:
    model = seeded(Odd)
    with pytest.raises(ValueError, match=r"Odd has no layer 'sharde'\. Did you mean 'shared'"):
        run_with_features(model, images(), ["shared", "sharde"])
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="Layer 'unused' was not called"):
        run_with_features(model, images(), ["unused"])
    with pytest.raises(TypeError, match="Layer 'recurrent' gives tuple"):
        run_with_features(model, images(), ["recurrent"], before_relu=True)
    with pytest.raises(ValueError, match=r"'functional' gives rectified features.*no activation"):
        run_with_features(model, images(), ["functional"], before_relu=True)
    assert run_with_features(model, images(), ["functional"])[1][0].shape == (2, 3, 64, 64)


def test_hooks_are_removed_after_an_error() -> None:
    model = seeded(Odd)
    model.fails = True
    with pytest.raises(RuntimeError, match="out of order"):
        run_with_features(model, images(), ["shared", "functional"], before_relu=True)
    assert hooks(model) == 0


def test_a_model_with_several_outputs_is_refused() -> None:
    with pytest.raises(TypeError, match="LSTM gives tuple, but one tensor of logits"):
        run_with_features(nn.LSTM(3, 2), torch.zeros(1, 4, 3), [])


def test_wrappers() -> None:
    model = seeded(ARCHITECTURES["small"]).eval()
    expected = run_with_features(model, images(), STAGES, before_relu=True)
    wrapped = [torch.compile(model, backend="eager"), nn.DataParallel(model)]
    wrapped[0](images())  # compiled before the hooks are there
    for wrapper in wrapped:
        found = run_with_features(wrapper, images(), STAGES, before_relu=True)
        torch.testing.assert_close(found, expected)
    several = nn.DataParallel(model)
    several.device_ids = [0, 1]
    with pytest.raises(ValueError, match="DistributedDataParallel"):
        run_with_features(several, images(), STAGES)


def test_last_batch_norm(network: nn.Module) -> None:
    for stage in STAGES:
        block = getattr(network, stage)[-1]
        expected = block.bn3 if hasattr(block, "bn3") else block.bn2
        assert last_batch_norm(network, stage) is expected
    assert last_batch_norm(network, "layer2.0.downsample.1") is network.layer2[0].downsample[1]
    with pytest.raises(ValueError, match=r"Layer 'fc' of .*ResNet holds no BatchNorm in its main branch"):
        last_batch_norm(network, "fc")
    with pytest.raises(ValueError, match=r"no layer 'layer5'\. Did you mean"):
        last_batch_norm(network, "layer5")


def test_batch_norms_of_shortcuts_are_passed_over() -> None:
    block = nn.Module()
    block.main = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    block.shortcut = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    assert last_batch_norm(block, "") is block.main[1]
    with pytest.raises(ValueError, match=r"'main\.0' of Module"):
        last_batch_norm(block, "main.0")
