"""Response loss and attention loss against hand computation, torchdistill and what they are for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captum_kd.distill.features import run_with_features
from captum_kd.distill.losses import AttentionLoss, ResponseLoss, attention_map
from captum_kd.models.small import small_resnet

LAYERS = ["layer1", "layer2", "layer3"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def slow_adaptive_pool(values: list[float], size: int) -> list[float]:
    """Adaptive average pooling by its definition: cell i averages from floor(i n/s) to ceil((i+1) n/s)."""
    n = len(values)
    cells = [values[i * n // size : math.ceil((i + 1) * n / size)] for i in range(size)]
    return [sum(cell) / len(cell) for cell in cells]


def test_response_by_hand() -> None:
    # softmax(log 3, log 1) = 3/4, 1/4 and softmax(log 1, log 1) = 1/2, 1/2; T = 2 halves the logits.
    student = torch.tensor([[2 * math.log(3.0), 0.0], [0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0], [2 * math.log(3.0), 0.0]])
    first = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    second = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    labels = -(math.log(0.1) + math.log(0.5)) / 2  # softmax(log 9, 0) = 0.9, 0.1
    expected = 0.6 * labels + 0.4 * 4 * (first + second) / 2
    loss = ResponseLoss(temperature=2.0, weight=0.4)(student, teacher, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("temperature", "weight"), [(20.0, 0.3), (4.0, 0.9), (1.0, 0.5)])
def test_response_equals_torchdistill(temperature: float, weight: float) -> None:
    library = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = 3 * noise(8, 10), 3 * noise(8, 10, seed=1)
    target = torch.arange(8)
    reference = library.KDLoss("m", "output", "m", "output", temperature=temperature, alpha=1 - weight)
    expected = reference({"m": {"output": student}}, {"m": {"output": teacher}}, target)
    torch.testing.assert_close(ResponseLoss(temperature, weight)(student, teacher, target), expected)


def test_response_defaults_and_limits() -> None:
    assert str(ResponseLoss()) == "ResponseLoss(temperature=20.0, weight=0.3)"
    logits, target = noise(6, 4), torch.arange(6) % 4
    labels = F.cross_entropy(logits, target)
    torch.testing.assert_close(ResponseLoss(weight=0.0)(logits, noise(6, 4, seed=1), target), labels)
    torch.testing.assert_close(ResponseLoss(weight=0.3)(logits, logits, target), 0.7 * labels)
    assert ResponseLoss(weight=1.0)(logits, logits + 5, target).item() == pytest.approx(0, abs=1e-5)


def test_gradient_of_response_is_the_textbook_one() -> None:
    # d/dz of T² KL = T (softmax(z_s / T) - softmax(z_t / T)), a sample.
    student = noise(5, 7).double().requires_grad_()
    teacher = noise(5, 7, seed=1).double().requires_grad_()
    ResponseLoss(temperature=3.0, weight=1.0)(student, teacher, torch.zeros(5, dtype=torch.long)).backward()
    expected = 3 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 5
    torch.testing.assert_close(student.grad, expected.detach())
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    student, teacher, target = noise(16, 10).to(dtype), noise(16, 10, seed=1).to(dtype), torch.arange(16) % 10
    loss = ResponseLoss()(student, teacher, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ResponseLoss()(student.float(), teacher.float(), target))
    large = 300 * noise(2, 3, 4, 4).to(dtype)  # squares beyond the range of float16
    found = AttentionLoss()([large], [noise(2, 5, 4, 4, seed=1).to(dtype)])
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert AttentionLoss()([large.double()], [large.double()]).dtype == torch.float64


def test_samples_without_a_label_have_the_teacher_alone() -> None:
    student, teacher = noise(6, 4).requires_grad_(), noise(6, 4, seed=1)
    target = torch.tensor([0, -100, 2, 3, -100, 1])
    labels = F.cross_entropy(student, target)
    taught = ResponseLoss(4.0, 1.0)(student, teacher, target)
    torch.testing.assert_close(ResponseLoss(4.0, 0.3)(student, teacher, target), 0.7 * labels + 0.3 * taught)
    none = torch.full((6,), -100)
    loss = ResponseLoss(4.0, 0.3)(student, teacher, none)
    torch.testing.assert_close(loss, 0.3 * taught)
    loss.backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert ResponseLoss(4.0, 1.0)(student, teacher, none) == taught
    assert ResponseLoss(4.0, 0.0)(student, teacher, none) == 0


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 49.0, 51.0, 1e3, 1e4])
def test_any_temperature_gives_what_float64_gives(temperature: float) -> None:
    # For large T the loss becomes a mean of squared differences of centred logits, halved.
    student, teacher, target = noise(8, 10), noise(8, 10, seed=1), torch.arange(8)
    loss = ResponseLoss(temperature, 1.0)
    found, exact = loss(student, teacher, target), loss(student.double(), teacher.double(), target)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-6)
    assert found.dtype == torch.float32
    if temperature >= 1e3:
        difference = (student - teacher).double()
        limit = (difference - difference.mean(1, keepdim=True)).square().mean() / 2
        torch.testing.assert_close(found.double(), limit, rtol=1e-2, atol=0)
    assert torch.isfinite(loss(student.half(), teacher.half(), target))


def test_classes_that_are_ruled_out_add_nothing() -> None:
    """Logits of -inf, as masks of classes have them, on both sides."""
    student, teacher, target = noise(6, 5), noise(6, 5, seed=1), torch.arange(6) % 3
    masked, masked_teacher = student.clone(), teacher.clone()
    masked[:, 3:], masked_teacher[:, 3:] = -math.inf, -math.inf
    masked.requires_grad_()
    loss = ResponseLoss(4.0, 0.3)(masked, masked_teacher, target)
    torch.testing.assert_close(loss, ResponseLoss(4.0, 0.3)(student[:, :3], teacher[:, :3], target))
    loss.backward()
    assert masked.grad is not None
    assert torch.isfinite(masked.grad).all()
    # A term of weight 0 does not matter, whatever it is.
    assert torch.isfinite(ResponseLoss(4.0, 0.0)(student, teacher * torch.nan, target))
    assert ResponseLoss(4.0, 1.0)(student, teacher * torch.nan, target).isnan()


def test_response_refuses() -> None:
    target = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\).*same classes"):
        ResponseLoss()(noise(2, 3), noise(2, 4), target)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 3, 4\)"):
        ResponseLoss()(noise(2, 3, 4), noise(2, 3, 4), target)
    with pytest.raises(ValueError, match=r"got shape \(2,\) for logits of shape \(3, 4\)"):
        ResponseLoss()(noise(3, 4), noise(3, 4), target)
    with pytest.raises(ValueError, match="there must be a sample"):
        ResponseLoss()(noise(0, 4), noise(0, 4), target[:0])
    with pytest.raises(TypeError, match=r"torch\.long.*torch\.float32"):
        ResponseLoss()(noise(2, 4), noise(2, 4), target.float())
    for temperature in (0.0, -1.0, 1e-7, 1e5, 1e30, math.inf, math.nan):
        with pytest.raises(ValueError, match="temperature must be"):
            ResponseLoss(temperature=temperature)
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="weight must be from 0"):
            ResponseLoss(weight=weight)


def test_attention_map_by_hand() -> None:
    # Channels (3, 1) and (1, 7): mean squares 5 and 25, length sqrt(650).
    features = torch.tensor([[[[3.0, 1.0]], [[1.0, 7.0]]]])
    expected = torch.tensor([[5.0, 25.0]]) / math.sqrt(650)
    torch.testing.assert_close(attention_map(features), expected)
    torch.testing.assert_close(attention_map(-10 * features), expected)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e12, 1e30, 3e38])
@pytest.mark.parametrize("size", [4, 7])
def test_the_scale_of_a_sample_does_not_matter(scale: float, size: int) -> None:
    features = noise(3, 5, size, size).clamp(-1, 1)
    scaled = features.clone()
    scaled[1] *= scale
    scaled.requires_grad_()
    torch.testing.assert_close(attention_map(scaled), attention_map(features))
    other = noise(3, 2, 4, 4, seed=1)
    loss = AttentionLoss()([scaled], [other])
    torch.testing.assert_close(loss, AttentionLoss()([features], [other]))
    torch.testing.assert_close(AttentionLoss()([other], [scaled]), loss)
    loss.backward()
    assert scaled.grad is not None
    assert torch.isfinite(scaled.grad).all()


def test_powers_of_two_change_no_digit() -> None:
    features = noise(3, 5, 6, 6)
    plain = F.normalize(features.square().mean(1).flatten(1), dim=1)
    assert torch.equal(attention_map(features), plain)
    assert torch.equal(
        attention_map(1000 * features.double()), attention_map(1000 * 2**40 * features.double())
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(value: float) -> None:
    features = noise(2, 3, 4, 4)
    features[0, 0, 0, 0] = value
    assert AttentionLoss()([features], [noise(2, 3, 4, 4, seed=1)]).isnan()
    assert attention_map(features)[1].isfinite().all()


def test_zero_maps_stay_zero_with_a_finite_gradient() -> None:
    features = torch.cat([torch.zeros(1, 3, 4, 4), noise(1, 3, 4, 4)]).requires_grad_()
    maps = attention_map(features)
    assert (maps[0] == 0).all()
    torch.testing.assert_close(maps[1].norm(), torch.tensor(1.0))
    AttentionLoss()([features], [noise(2, 6, 4, 4, seed=1)]).backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert (features.grad[1] != 0).any()


def test_attention_by_hand() -> None:
    # Unit maps (1, 0) against (0, 1): mean squared difference 1; (3/5, 4/5) against (1, 0): (4 + 16) / 50.
    first = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 9.0]]])
    second = torch.tensor([[[3.0, 4.0]]]).sqrt(), torch.tensor([[[2.0, 0.0]]])
    assert AttentionLoss(weight=3.0)(*map(list, zip(first, second, strict=True))).item() == pytest.approx(2.1)


@pytest.mark.parametrize("weight", [1000.0, 2.0])
def test_attention_equals_torchdistill_but_for_the_half(weight: float) -> None:
    library = pytest.importorskip("torchdistill.losses.mid_level")
    student = [noise(4, 3, 8, 8), noise(4, 6, 4, 4)]
    teacher = [noise(4, 5, 8, 8, seed=1), noise(4, 2, 4, 4, seed=1)]
    roles = ("student", "teacher")
    pairs = {str(i): {role: {"path": str(i), "io": "output"} for role in roles} for i in range(2)}
    outputs = [{str(i): {"output": f} for i, f in enumerate(features)} for features in (student, teacher)]
    expected = library.ATLoss(pairs, mode="code")(*outputs)
    torch.testing.assert_close(AttentionLoss(weight)(student, teacher), weight / 2 * expected)


def test_identical_attention_costs_nothing() -> None:
    features = [noise(4, 3, 8, 8), noise(4, 6, 4, 4)]
    assert AttentionLoss()(features, features).item() == 0
    # The same map from other channels: scaled, negated, repeated.
    assert AttentionLoss()(features, [-2 * torch.cat([f, f], 1) for f in features]).item() < 1e-9


def test_larger_maps_are_pooled_to_the_smaller() -> None:
    wide, narrow = noise(1, 2, 5), noise(1, 3, 3, seed=1)
    squares = (wide**2).mean(1)[0].tolist()
    pooled = torch.tensor(slow_adaptive_pool(squares, 3))
    other = (narrow**2).mean(1)[0]
    expected = (pooled / pooled.norm() - other / other.norm()).square().mean()
    for arguments in (([wide], [narrow]), ([narrow], [wide])):
        torch.testing.assert_close(AttentionLoss(weight=2.0)(*arguments), expected)


def test_each_axis_is_pooled_to_the_lesser() -> None:
    # 4 x 2 against 2 x 4: both become 2 x 2, here with exact halves.
    student, teacher = noise(2, 1, 4, 2), noise(2, 1, 2, 4, seed=1)
    s = student.square().reshape(2, 2, 2, 2).mean(2)
    t = teacher.square().reshape(2, 2, 2, 2).mean(3)
    s, t = (m.flatten(1) / m.flatten(1).norm(dim=1, keepdim=True) for m in (s, t))
    torch.testing.assert_close(AttentionLoss(weight=2.0)([student], [teacher]), (s - t).square().mean())
    assert AttentionLoss()([noise(1, 2, 4, 4, 4)], [noise(1, 2, 2, 4, 3)]).item() > 0


def test_attention_refuses() -> None:
    loss, good = AttentionLoss(), noise(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"pair 1: student \(2, 3, 4\), teacher \(2, 3, 4, 4\)"):
        loss([good, noise(2, 3, 4)], [good, good])
    with pytest.raises(
        ValueError, match=r"same samples.*pair 0: student \(2, 3, 4, 4\), teacher \(1, 3, 4, 4\)"
    ):
        loss([good], [good[:1]])
    with pytest.raises(ValueError, match=r"pair 0: student \(2, 10\), teacher \(2, 10\).*before the global"):
        loss([noise(2, 10)], [noise(2, 10)])
    with pytest.raises(ValueError, match="got 2 and 1"):
        loss([good, good], [good])
    with pytest.raises(ValueError, match="got 0 and 0"):
        loss([], [])
    with pytest.raises(ValueError, match="weight must be"):
        AttentionLoss(weight=-1.0)
    with pytest.raises(ValueError, match=r"needs features .*got shape \(2, 10\)"):
        attention_map(noise(2, 10))
    for shape in ((2, 0, 4, 4), (2, 3, 0, 4)):
        with pytest.raises(ValueError, match="needs channels and positions"):
            attention_map(noise(*shape))
    assert attention_map(noise(0, 3, 4, 4)).shape == (0, 16)


def test_a_loss_that_cannot_teach_is_refused() -> None:
    point = noise(2, 3, 1, 1)
    with pytest.raises(ValueError, match="single position"):
        AttentionLoss()([point], [noise(2, 3, 4, 4)])
    pair = [noise(2, 3, 4, 4)], [noise(2, 3, 4, 4, seed=1)]
    # Beside another pair it adds nothing, as the formula says.
    both = AttentionLoss()([*pair[0], point], [*pair[1], point + 1])
    torch.testing.assert_close(both, AttentionLoss()(*pair))


def networks() -> tuple[nn.Module, nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student, teacher = small_resnet(width=4, num_classes=5), small_resnet(width=6, num_classes=5)
    return student, teacher, noise(16, 3, 32, 32, seed=2)


def test_attention_gradient_reaches_the_student_alone() -> None:
    student, teacher, images = networks()
    features = [run_with_features(model, images, LAYERS)[1] for model in (student, teacher)]
    AttentionLoss()(*features).backward()
    for name, parameter in student.named_parameters():
        reached = parameter.grad is not None and bool((parameter.grad != 0).any())
        assert reached != name.startswith(("layer4", "fc")), name
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("technique", ["response", "attention"])
def test_the_student_moves_to_the_teacher(technique: str) -> None:
    student, teacher, images = networks()
    teacher.eval()
    target = torch.zeros(len(images), dtype=torch.long)

    def loss() -> Tensor:
        logits, student_features = run_with_features(student, images, LAYERS)
        with torch.no_grad():
            teacher_logits, teacher_features = run_with_features(teacher, images, LAYERS)
        if technique == "response":
            return ResponseLoss(temperature=4.0, weight=1.0)(logits, teacher_logits, target)
        return AttentionLoss()(student_features, teacher_features)

    def distance() -> float:
        """Measured without the losses: of class probabilities, or of the squared maps' cosines."""
        student.eval()
        with torch.no_grad():
            (s_logits, s), (t_logits, t) = (run_with_features(m, images, LAYERS) for m in (student, teacher))
        student.train()
        if technique == "response":
            return (s_logits.softmax(1) - t_logits.softmax(1)).abs().sum(1).mean().item()
        squares = [[f.square().sum(1).flatten(1) for f in features] for features in (s, t)]
        return sum(1 - F.cosine_similarity(a, b).mean().item() for a, b in zip(*squares, strict=True))

    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    student.train()
    for _ in range(3):  # settles the running statistics before the first measurement
        loss()
    before = distance()
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert distance() < 0.6 * before


def test_losses_under_autocast() -> None:
    student, teacher, images = networks()
    target = torch.arange(16) % 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (s_logits, s), (t_logits, t) = (run_with_features(m, images, LAYERS) for m in (student, teacher))
        loss = ResponseLoss()(s_logits, t_logits, target) + AttentionLoss()(s, t)
    assert s_logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in student.parameters())
