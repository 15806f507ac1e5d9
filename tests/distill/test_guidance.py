"""What a teacher adds to a student's loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_kd.distill import losses
from captum_kd.distill.features import run_with_features
from captum_kd.distill.guidance import TECHNIQUES, Guidance, Technique
from captum_kd.models.small import small_resnet

LAYERS = ["layer2", "layer3"]
TARGET = torch.arange(8) % 5


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return small_resnet(4, 5), small_resnet(6, 5)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_gradient_reaches_every_part_of_the_student_and_nothing_of_the_teacher(
    technique: Technique, pair: tuple[nn.Module, nn.Module], images: torch.Tensor
) -> None:
    student, teacher = pair
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    guidance = Guidance(technique, student, teacher, LAYERS, LAYERS, images)
    student.train()
    guidance.train()
    loss, logits = guidance(student, images, TARGET)
    loss.backward()
    assert logits.shape == (8, 5)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in student.layer1.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not teacher.training, "its BatchNorm must not follow the student's batches"
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    own = {id(p) for p in guidance.parameters()}
    assert not own & {id(p) for p in teacher.parameters()}
    assert bool(own) == (technique == "overhaul")


def test_the_teacher_changes_the_loss(pair: tuple[nn.Module, nn.Module], images: torch.Tensor) -> None:
    student, teacher = pair
    student.eval()
    guidance = Guidance("response", student, teacher, [], [], images, weight=0.7, temperature=2.0)
    loss, logits = guidance(student, images, TARGET)
    with torch.no_grad():
        answers = teacher(images)
    assert loss.item() == pytest.approx(losses.ResponseLoss(2.0, 0.7)(logits, answers, TARGET).item())
    guidance = Guidance("attention", student, teacher, LAYERS, LAYERS, images, weight=3.0)
    loss, logits = guidance(student, images, TARGET)
    (_, mine), (_, theirs) = (run_with_features(m, images, LAYERS) for m in (student, teacher))
    expected = F.cross_entropy(logits, TARGET) + losses.AttentionLoss(3.0)(mine, theirs)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_student_keeps_its_mode_and_statistics(
    pair: tuple[nn.Module, nn.Module], images: torch.Tensor
) -> None:
    student, teacher = pair
    student.train()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    Guidance("overhaul", student, teacher, LAYERS, LAYERS, images)
    assert student.training
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())


def test_bad_pairs(pair: tuple[nn.Module, nn.Module], images: torch.Tensor) -> None:
    student, teacher = pair
    with pytest.raises(ValueError, match=r"one of \('response', 'attention', 'overhaul'\), got 'magic'"):
        Guidance("magic", student, teacher, LAYERS, LAYERS, images)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same number of layers"):
        Guidance("attention", student, teacher, LAYERS, LAYERS[:1], images)
    with pytest.raises(ValueError, match="layer9"):
        Guidance("attention", student, teacher, ["layer9"], ["layer3"], images)
    message = r"student layer2 \(8, 8, 8\) with teacher layer3 \(24, 4, 4\).*--layers and --teacher-layers"
    with pytest.raises(ValueError, match=message):
        Guidance("overhaul", student, teacher, ["layer2"], ["layer3"], images)
    with pytest.raises(ValueError, match=r"as many classes.*\(8, 3\), the student's \(8, 5\)"):
        Guidance("response", student, small_resnet(4, 3), [], [], images)
    with pytest.raises(ValueError, match="temperature is for 'response', but the technique is 'attention'"):
        Guidance("attention", student, teacher, LAYERS, LAYERS, images, temperature=4.0)
    for number in (float("nan"), float("inf"), -1.0):
        for technique in TECHNIQUES:
            with pytest.raises(ValueError, match="weight must be"):
                Guidance(technique, student, teacher, LAYERS, LAYERS, images, weight=number)
        with pytest.raises(ValueError, match="temperature must be"):
            Guidance("response", student, teacher, LAYERS, LAYERS, images, temperature=number)
