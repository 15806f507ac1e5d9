"""Dtypes, modes, wrappers and state: each works, or fails with an error that names the cure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from captum_kd import DeepUniCAM, UniCAM
from tests.networks import Network, classes, images, pair


def maps_of(student: nn.Module, base: nn.Module, x: Tensor | None = None) -> Tensor:
    layer = student.get_submodule("second_relu")
    base_layer = base.get_submodule("second_relu")
    result = UniCAM(student, layer, base, base_layer).attribute(images() if x is None else x, classes())
    assert isinstance(result, Tensor)
    return result


def expected() -> Tensor:
    return maps_of(*pair())


def close(actual: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(
        actual.float(), expected(), rtol=tolerance, atol=tolerance * expected().max().item()
    )


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradient_modes(context: Callable[[], AbstractContextManager[None]]) -> None:
    student, base = pair()
    with context():
        actual = maps_of(student, base)
        inside = UniCAM(student, student.second_relu, base, reference=(images(), classes())).attribute(
            images(2), classes(2)
        )
    assert torch.equal(actual, expected())
    assert not actual.requires_grad
    assert inside.max() > 0


def test_inputs_that_require_grad_and_frozen_parameters() -> None:
    student, base = pair()
    student.requires_grad_(False)
    x = images().requires_grad_()
    assert torch.equal(maps_of(student, base, x), expected())
    assert x.grad is None
    assert not any(p.requires_grad for p in student.parameters())
    assert all(p.requires_grad and p.grad is None for p in base.parameters())


# float16 and bfloat16 keep 11 and 8 bits; the relevance gradient amplifies what is lost.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-3), (torch.float16, 0.1), (torch.bfloat16, 0.5)]
)
def test_dtypes(dtype: torch.dtype, tolerance: float) -> None:
    student, base = (m.to(dtype) for m in pair())
    actual = maps_of(student, base, images().to(dtype))
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert actual.isfinite().all()
    assert actual.max() > 0
    close(actual, tolerance)


def test_autocast() -> None:
    student, base = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = maps_of(student, base)
        centred = DeepUniCAM(student, student.second_relu, base, feature_layer=None).attribute(images())
    assert actual.dtype == centred.dtype == torch.float32
    close(actual, 0.5)
    assert centred.max() > 0


def test_channels_last() -> None:
    student, base = (m.to(memory_format=torch.channels_last) for m in pair())
    close(maps_of(student, base, images().to(memory_format=torch.channels_last)), 1e-3)


def test_data_parallel() -> None:
    student, base = pair()
    wrapped = nn.DataParallel(student)
    actual = UniCAM(wrapped, wrapped.module.second_relu, nn.DataParallel(base)).attribute(images(), classes())
    assert torch.equal(actual, expected())


def test_a_compiled_model() -> None:
    student, base = pair()
    compiled = torch.compile(student, backend="eager")
    compiled(images())
    actual = UniCAM(compiled, student.second_relu, base).attribute(images(), classes())
    close(actual, 1e-5)


def test_a_model_compiled_in_place() -> None:
    student, base = pair()
    student.compile(backend="eager")
    student(images())
    close(maps_of(student, base), 1e-5)


def test_a_layer_whose_output_is_changed_in_place() -> None:
    """``first`` is followed by an in-place ReLU: its map must be that of its own, signed output."""
    student, base = pair()
    in_place = UniCAM(student, student.first, base).attribute(images(), classes())
    student.first_relu.inplace = base.first_relu.inplace = False
    copied = UniCAM(student, student.first, base).attribute(images(), classes())
    assert torch.equal(in_place, copied)


class TwoOutputs(nn.Module):
    """Returns its result together with something else, as transformer layers do."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(x), x


class Unpacked(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        network = Network(seed=seed)
        self.stage = TwoOutputs(nn.Sequential(network.first, network.first_relu, network.second, nn.ReLU()))
        self.head = network.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x)[0].mean(dim=(2, 3)))


def test_tuple_outputs_need_a_reshape_transform() -> None:
    student, base = Unpacked(5).eval(), Unpacked(6).eval()
    with pytest.raises(TypeError, match=r"'stage' of the student .* reshape_transform"):
        UniCAM(student, student.stage, base).attribute(images(), classes())
    actual = UniCAM(student, student.stage, base, reshape_transform=lambda output: output[0]).attribute(
        images(), classes()
    )
    close(actual, 1e-5)


def test_token_models_need_a_reshape_transform() -> None:
    """Tokens (n, t, c) become a map (n, c, h, w)."""

    class Tokens(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            torch.manual_seed(seed)
            self.embed = nn.Conv2d(3, 16, 4, stride=4)
            self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.embed(x).flatten(2).transpose(1, 2)).mean(1))

    student, base = Tokens(1).eval(), Tokens(2).eval()
    maps = UniCAM(
        student, student.block, base, reshape_transform=lambda t: t.transpose(1, 2).unflatten(2, (3, 3))
    ).attribute(images(), classes())
    assert maps.shape == (12, 1, 3, 3)
    assert maps.max() > 0


def test_vectors_are_maps_without_positions() -> None:
    student, base = pair()
    maps = UniCAM(student, student.dropout, base).attribute(images(), classes())
    assert maps.shape == (12, 1)


def test_additional_forward_args_reach_both_models() -> None:
    student, base = pair()

    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, offset: Tensor, scale: float) -> Tensor:
            return self.inner((x + offset) * scale)

    x, offset = images(), images(seed=5)
    actual = UniCAM(Scaled(student), student.second_relu, Scaled(base), base.second_relu).attribute(
        x, classes(), additional_forward_args=(offset, 0.5)
    )
    assert torch.equal(actual, maps_of(student, base, (x + offset) * 0.5))


def test_several_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.inner(a + b)

    (student, base), a, b = pair(), images(), images(seed=5)
    actual = UniCAM(Sum(student), student.second_relu, Sum(base), base.second_relu).attribute(
        (a, b), classes()
    )
    assert torch.equal(actual, maps_of(student, base, a + b))


def test_a_function_as_forward_func() -> None:
    student, base = pair()
    unicam = UniCAM(lambda x: student(x), student.second_relu, base.forward, base.second_relu)
    assert torch.equal(unicam.attribute(images(), classes()), expected())


def state(model: nn.Module) -> tuple[object, ...]:
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        [b.clone() for b in model.buffers()],
    )


def test_state_is_restored_and_training_mode_is_ignored() -> None:
    student, base = (m.train() for m in pair())
    student.first.eval()
    student.head.weight.requires_grad_(False)
    before, random = (state(student), state(base)), torch.get_rng_state()
    actual = maps_of(student, base)
    assert torch.equal(actual, expected())
    for a, b in zip(before, (state(student), state(base)), strict=True):
        assert a[:3] == b[:3]
        assert all(torch.equal(x, y) for x, y in zip(a[3], b[3], strict=True))
    assert torch.equal(torch.get_rng_state(), random)


def test_state_is_restored_when_the_model_raises() -> None:
    student, base = (m.train() for m in pair())

    def fail(*_: object) -> None:
        torch.rand(3)
        raise RuntimeError("out of cheese")

    handle = base.head.register_forward_hook(fail)
    before, random = (state(student), state(base)), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of cheese"):
        maps_of(student, base)
    after = (state(student), state(base))
    assert [a[:3] for a in before] == [a[:3] for a in after]
    assert torch.equal(torch.get_rng_state(), random)
    handle.remove()
    assert torch.equal(maps_of(student, base), expected())
