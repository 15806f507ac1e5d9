"""Several threads explain at the same time: the maps of one, no deadlock, models as they were found."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from typing import Any

import torch
from torch import Tensor, nn

from captum_kd import DeepUniCAM, UniCAM
from captum_kd.models.hooks import hooked, uncompiled, undisturbed


class Slow(nn.Module):
    """Lets other threads run between its layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.second, self.fc = nn.Conv2d(width, width, 3), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        time.sleep(0.002)
        x = self.second(x)
        time.sleep(0.002)
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that begin together, each in a thread of its own."""
    barrier = Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        barrier.wait(10)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(20) for future in [pool.submit(run, call) for call in calls]]


def models() -> tuple[Slow, Slow, Tensor]:
    torch.manual_seed(0)
    student, base = Slow(4).train(), Slow(5).train()
    student.fc.eval()
    return student, base, torch.randn(6, 3, 8, 8)


def test_one_attribution_in_many_threads() -> None:
    student, base, images = models()
    for method in (
        DeepUniCAM(student, "first", base, feature_layer="second"),
        UniCAM(student, "first", base, objective="uniqueness"),
        UniCAM(lambda x: student(x), student.first, lambda x: base(x), base.first, objective="uniqueness"),
    ):
        expected = method.attribute(images)
        state, random = student.norm.running_mean.clone(), torch.get_rng_state()
        for maps in at_once(*[lambda method=method: method.attribute(images)] * 6):
            assert torch.equal(maps, expected)
        assert [m.training for m in student.children()] == [True, True, True, False]
        assert all(m.training for m in base.modules())
        assert torch.equal(student.norm.running_mean, state)
        assert torch.equal(torch.get_rng_state(), random)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())


def test_models_in_another_order_and_inside_wrappers() -> None:
    student, base, images = models()
    wrapped = nn.Sequential(nn.Identity(), student)
    there = DeepUniCAM(student, "first", base, feature_layer="second")
    back = DeepUniCAM(base, "first", student, feature_layer="second")
    inside = DeepUniCAM(
        wrapped, "1.second", base, "second", feature_layer="1.second", base_feature_layer="second"
    )
    methods = [there, back, inside] * 2
    expected = [method.attribute(images) for method in methods]
    found = at_once(*[lambda method=method: method.attribute(images) for method in methods])
    assert all(map(torch.equal, found, expected))
    assert student.training
    assert wrapped.training


def test_different_models_run_side_by_side() -> None:
    both = Barrier(2)

    class Meets(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            both.wait(10)  # breaks if the other thread has to wait for this one
            return x

    def run(model: nn.Module) -> bool:
        with undisturbed(model):
            model(torch.ones(1))
        return model.training

    assert at_once(lambda: run(Meets()), lambda: run(Meets())) == [True, True]


def test_calls_of_other_threads_are_not_recorded() -> None:
    model, calls = nn.Sequential(nn.Identity()), []
    with (
        hooked(model, lambda _, value: calls.append(value)),
        hooked(model, lambda _, value: calls.append(value), attribute_to_layer_input=True),
    ):
        other = Thread(target=model, args=(torch.ones(1),))
        other.start()
        other.join()
        assert not calls
        model(torch.ones(1))
    assert len(calls) == 2


def test_states_of_the_process_are_restored_whoever_ends_first() -> None:
    torch.compiler.reset()
    compiled = [torch.compile(nn.Sequential(nn.Identity()), backend="eager") for _ in range(2)]
    entered, left = Event(), Event()

    def longer() -> list[Any]:
        calls: list[Any] = []
        with undisturbed(compiled[1]):
            torch.rand(1)
            entered.set()
            left.wait(10)
            with hooked(compiled[1]._orig_mod, lambda _, value: calls.append(value)):
                compiled[1](torch.ones(1))
        return calls

    random = torch.get_rng_state()
    with ThreadPoolExecutor(1) as pool:
        with undisturbed(compiled[0]):
            future = pool.submit(longer)
            entered.wait(10)
            torch.rand(1)
        left.set()
        assert len(future.result(10)) == 1  # still uncompiled
    assert torch.equal(torch.get_rng_state(), random)
    stance = torch._dynamo.eval_frame._stance.stance
    assert stance == "default"
    with uncompiled(compiled[0]), uncompiled(compiled[0]):
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_random_state_of_a_block_inside_another() -> None:
    model = nn.Identity()
    with undisturbed(model):
        outer = torch.get_rng_state()
        with undisturbed(model):
            torch.rand(1)
        assert torch.equal(torch.get_rng_state(), outer)
