"""Overhaul distillation against scipy, plain loops and an independent re-computation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from captum_kd.distill.features import last_batch_norm, run_with_features
from captum_kd.distill.overhaul import OverhaulLoss, margin_relu, partial_l2, relu_margins
from captum_kd.models.small import small_resnet

LAYERS = ["layer1", "layer2", "layer3"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_norm(
    weights: list[float], biases: list[float], dtype: torch.dtype = torch.float64
) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(len(weights), dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights, dtype=torch.float64))
        layer.bias.copy_(torch.tensor(biases, dtype=torch.float64))
    return layer


@given(
    weight=st.floats(0.01, 10) | st.floats(-10, -0.01),
    z=st.floats(-20, 3.08),  # Phi(-3.08) > 0.001
)
@settings(max_examples=60, deadline=None)
def test_margins_equal_the_truncated_normal_of_scipy(weight: float, z: float) -> None:
    bias = z * abs(weight)
    expected = stats.truncnorm.mean(-math.inf, -z, loc=bias, scale=abs(weight))
    margins = relu_margins(batch_norm([weight], [bias]))
    assert margins.dtype == torch.float64
    assert margins.item() == pytest.approx(expected, rel=1e-6)


def test_margins_where_the_channel_is_rarely_negative() -> None:
    # P(x < 0) is 0.000968 at z = 3.1 and 0.001001 at z = 3.09.
    rare, common = relu_margins(batch_norm([2.0, 2.0], [6.2, 6.18])).tolist()
    assert rare == -6.0
    assert common == pytest.approx(stats.truncnorm.mean(-math.inf, -3.09, loc=6.18, scale=2.0))
    assert relu_margins(batch_norm([-2.0, 1e-3], [1e6, 5.0])).tolist() == [-6.0, -3e-3]


def test_margins_at_the_extremes() -> None:
    constant = relu_margins(batch_norm([0.0, 0.0, 0.0], [-2.0, 0.0, 3.0]))
    assert constant.tolist() == [-2.0, 0.0, 0.0]
    # Nearly always negative: the condition changes nothing.
    assert relu_margins(batch_norm([1e-6, 1e-30], [-4.0, -4.0])).tolist() == pytest.approx([-4.0, -4.0])
    assert relu_margins(batch_norm([1e-3], [-1e-2], torch.float16)).dtype == torch.float32
    torch.testing.assert_close(
        relu_margins(nn.BatchNorm2d(3, affine=False)), relu_margins(nn.BatchNorm2d(3)).detach()
    )
    torch.testing.assert_close(relu_margins(FrozenBatchNorm2d(3)), relu_margins(nn.BatchNorm2d(3)))
    assert not relu_margins(nn.BatchNorm2d(3)).requires_grad


def test_margins_need_a_batch_norm() -> None:
    with pytest.raises(TypeError, match="must be a BatchNorm, got GroupNorm"):
        relu_margins(nn.GroupNorm(2, 4))


def test_margin_relu_equals_a_loop() -> None:
    features, margins = noise(2, 3, 4, 5), torch.tensor([-0.5, -1.0, 0.0])
    result = margin_relu(features, margins)
    for index in torch.cartesian_prod(*map(torch.arange, features.shape)).tolist():
        assert result[tuple(index)] == max(features[tuple(index)], margins[index[1]])
    with pytest.raises(ValueError, match=r"got \(2,\) for \(2, 3, 4, 5\)"):
        margin_relu(features, margins[:2])


def test_partial_l2_equals_a_loop() -> None:
    student = noise(3, 4, 5, 5)
    teacher = margin_relu(noise(3, 4, 5, 5, seed=1), torch.full((4,), -0.4))
    total = 0.0
    for s, t in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True):
        if s <= t <= 0:
            continue
        total += (s - t) ** 2
    assert partial_l2(student, teacher).item() == pytest.approx(total, rel=1e-5)
    with pytest.raises(ValueError, match=r"got \(3, 4, 5, 5\) and \(4, 5, 5\)"):
        partial_l2(student, teacher[0])


def test_partial_l2_leaves_the_silent_alone() -> None:
    student = torch.tensor([-3.0, -0.5, 1.0, 1.0], requires_grad=True)
    teacher = torch.tensor([-1.0, -1.0, 2.0, 1.0])
    loss = partial_l2(student, teacher)
    loss.backward()
    assert loss.item() == 0.25 + 1.0
    assert student.grad is not None
    assert student.grad.tolist() == [0.0, 1.0, -2.0, 0.0]


def features(channels: list[int], seed: int, count: int = 3) -> list[Tensor]:
    sizes = [8 // 2**i for i in range(len(channels))]
    return [
        noise(count, c, s, s, seed=seed + i) for i, (c, s) in enumerate(zip(channels, sizes, strict=True))
    ]


def test_total_equals_an_independent_computation() -> None:
    student_channels, teacher_channels = [4, 6, 3], [5, 2, 7]
    margins = [-noise(c).abs() for c in teacher_channels]
    loss = OverhaulLoss(student_channels, teacher_channels, margins, weight=0.01)
    student, teacher = features(student_channels, 10), features(teacher_channels, 20)
    expected = 0.0
    for i, factor in enumerate([1 / 4, 1 / 2, 1]):
        weight = loss.connectors[i][0].weight.detach()[:, :, 0, 0]
        x = torch.einsum("oc,nchw->nohw", weight, student[i]).double()
        mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        x = (x - mean) / (variance + 1e-5).sqrt()  # training mode, weight 1 and bias 0
        t = torch.where(
            teacher[i] < margins[i][:, None, None], margins[i][:, None, None], teacher[i]
        ).double()
        mask = ((x > t) | (t > 0)).double()
        expected += factor * float((mask * (x - t) ** 2).sum())
    assert loss(student, teacher).item() == pytest.approx(0.01 * expected / 3, rel=1e-5)


def test_parameters_buffers_and_initialisation() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = OverhaulLoss([64, 128], [256, 512], [torch.zeros(256), torch.zeros(512)])
    shapes = {name: tuple(p.shape) for name, p in loss.named_parameters()}
    assert shapes == {
        "connectors.0.0.weight": (256, 64, 1, 1),
        "connectors.0.1.weight": (256,),
        "connectors.0.1.bias": (256,),
        "connectors.1.0.weight": (512, 128, 1, 1),
        "connectors.1.1.weight": (512,),
        "connectors.1.1.bias": (512,),
    }
    assert {"margins_0", "margins_1"} <= set(loss.state_dict())
    # Variance 2 / output channels; the sample has 65536 draws, so 5 % is far beyond its error.
    assert loss.connectors[1][0].weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.05)
    assert loss.weight == 1e-3


def test_gradient_reaches_student_and_connectors_alone() -> None:
    loss = OverhaulLoss([4, 6], [5, 2], [torch.full((c,), -0.8) for c in (5, 2)])
    student = [f.requires_grad_() for f in features([4, 6], 10)]
    teacher = [f.requires_grad_() for f in features([5, 2], 20)]
    loss(student, teacher).backward()
    for tensor in [*student, *loss.parameters()]:
        assert tensor.grad is not None
        assert (tensor.grad != 0).any()
    assert all(f.grad is None for f in teacher)


def test_overhaul_refuses() -> None:
    margins = [torch.full((c,), -0.8) for c in (5, 2)]
    loss = OverhaulLoss([4, 6], [5, 2], margins)
    student, teacher = features([4, 6], 10), features([5, 2], 20)
    shapes = r"pair 1: student \(3, 6, 4, 4\), teacher \(3, 2, 2, 2\)"
    with pytest.raises(ValueError, match=shapes + r"\. Choose layers of the same resolution"):
        loss(student, [teacher[0], teacher[1][..., :2, :2]])
    with pytest.raises(
        ValueError, match=r"4 channels of the student and 5 of the teacher, got pair 0: student"
    ):
        loss([student[0][:, :3], student[1]], teacher)
    with pytest.raises(ValueError, match=r"same samples, got pair 0: student \(3, 4, 8, 8\), teacher \(2, 5"):
        loss(student, [f[:2] for f in teacher])
    with pytest.raises(ValueError, match=r"student \(3, 4\), teacher \(3, 5\)"):
        loss([f[..., 0, 0] for f in student], [f[..., 0, 0] for f in teacher])
    with pytest.raises(ValueError, match="got 2 and 1"):
        loss(student, teacher[:1])
    with pytest.raises(ValueError, match="made for 2 layers, got 1"):
        loss(student[:1], teacher[:1])
    with pytest.raises(ValueError, match="got 1, 2 and 2"):
        OverhaulLoss([4], [5, 2], margins)
    with pytest.raises(ValueError, match="got 0, 0 and 0"):
        OverhaulLoss([], [], [])
    with pytest.raises(ValueError, match="Margins 1 must be 3 finite"):
        OverhaulLoss([4, 6], [5, 3], margins)
    for wrong in (0.1, math.nan, -math.inf):
        with pytest.raises(ValueError, match="Margins 0 must be 5 finite numbers of at most 0"):
            OverhaulLoss([4], [5], [torch.full((5,), wrong)])
    with pytest.raises(ValueError, match="weight must be"):
        OverhaulLoss([4], [5], margins[:1], weight=-1.0)


def networks() -> tuple[nn.Module, nn.Module, OverhaulLoss, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student, teacher = small_resnet(width=4, num_classes=5), small_resnet(width=6, num_classes=5)
        margins = [relu_margins(last_batch_norm(teacher, name)) for name in LAYERS]
        loss = OverhaulLoss([4, 8, 16], [6, 12, 24], margins)
    return student, teacher, loss, noise(16, 3, 32, 32, seed=2)


def test_the_student_moves_to_the_teacher() -> None:
    student, teacher, loss, images = networks()
    with torch.no_grad():
        target = run_with_features(teacher, images, LAYERS, before_relu=True)[1]

    def fit() -> float:
        """How well the student's own last layer explains the teacher's, by least squares: R²."""
        with torch.no_grad():
            found = run_with_features(student, images, LAYERS, before_relu=True)[1][-1]
        x = torch.cat([found.transpose(0, 1).flatten(1).T, torch.ones(found[:, 0].numel(), 1)], 1).double()
        y = target[-1].transpose(0, 1).flatten(1).T.double()
        residual = y - x @ torch.linalg.lstsq(x, y).solution
        return 1 - (residual.square().sum() / (y - y.mean(0)).square().sum()).item()

    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=1e-2)
    before, losses = fit(), []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(run_with_features(student, images, LAYERS, before_relu=True)[1], target)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.6 * losses[0]
    assert fit() > before + 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    student, teacher, loss, images = networks()
    with torch.autocast("cpu", dtype=dtype):
        s, t = (run_with_features(m, images, LAYERS, before_relu=True)[1] for m in (student, teacher))
        assert s[0].dtype == dtype
        value = loss(s, t)
    assert value.dtype == torch.float32
    value.backward()
    body = [p for name, p in student.named_parameters() if not name.startswith(("layer4", "fc"))]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in [*body, *loss.parameters()])
    exact = loss([f.float() for f in s], [f.float() for f in t])
    torch.testing.assert_close(value, exact, rtol=2e-2, atol=0)


@pytest.mark.parametrize(
    ("student", "teacher"), [(torch.nan, -1.0), (-1.0, torch.nan), (torch.nan, torch.nan)]
)
def test_nan_is_not_hidden_where_the_teacher_is_silent(student: float, teacher: float) -> None:
    features = torch.tensor([[-3.0, 2.0], [-3.0, student]]), torch.tensor([[-1.0, -1.0], [-1.0, teacher]])
    assert partial_l2(*features).isnan()
