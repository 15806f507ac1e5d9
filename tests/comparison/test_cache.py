"""Features on disk: what is used again, and what must not be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from captum_kd import compare
from captum_kd.comparison import features
from captum_kd.comparison.result import Comparison
from captum_kd.models.small import small_resnet

LAYERS = ["layer2", "layer3"]


def batches(shift: float = 0.0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 24, 24, generator=generator) + shift, torch.arange(8) % 4) for _ in range(3)]


def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return small_resnet(4), small_resnet(4)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many forward passes were made since it was last asked."""
    count, real = 0, features.compute_batch

    def counted(*given: object) -> object:
        nonlocal count
        count += 1
        return real(*given)  # type: ignore[arg-type]

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(features, "compute_batch", counted)
    return since


def run(student: nn.Module, base: nn.Module, cache: Path, **options: object) -> Comparison:
    fixed = {
        "permutations": 1,
        "shown": 1,
        "methods": ["UniCAM, uniqueness"],
        "progress": False,
    }
    data = options.pop("data", batches())
    reference = options.pop(
        "reference", torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    )
    layers = options.pop("layers", LAYERS)
    return compare(student, base, layers, data, reference=reference, cache=cache, **(fixed | options))


def test_the_same_call_computes_nothing_and_gives_the_same(
    tmp_path: Path, forwards: Callable[[], int]
) -> None:
    student, base = pair()
    first = run(student, base, tmp_path / "cache", kept_share=0.2)
    assert forwards() == 3
    again = run(student, base, tmp_path / "cache", kept_share=0.2)
    assert forwards() == 0
    assert again.rows == first.rows
    assert again.accuracy == first.accuracy
    without = run(student, base, tmp_path / "other", kept_share=0.2)
    assert without.rows == first.rows


@pytest.mark.slow
def test_what_has_changed_is_computed_anew(tmp_path: Path, forwards: Callable[[], int]) -> None:
    student, base = pair()
    run(student, base, tmp_path, kept_share=0.2)
    assert forwards() == 3
    changed = batches()
    changed[1][0][0, 0, 0, 0] += 1
    for options, count in (
        ({"data": changed}, 1),
        ({"layers": ["layer1", "layer2"]}, 3),
        ({"pool": 2}, 3),
        ({"kept_share": 0.3}, 3),
        ({"reference": torch.zeros(8, 3, 24, 24)}, 3),
    ):
        run(student, base, tmp_path, **({"kept_share": 0.2} | options))
        assert forwards() == count, options
        run(student, base, tmp_path, kept_share=0.2)
        assert forwards() == count, "what was overwritten is computed anew, too"
    with torch.no_grad():
        base.conv1.weight[0, 0, 0, 0] += 1
    run(student, base, tmp_path, kept_share=0.2)
    assert forwards() == 3


def test_damaged_files_are_computed_anew(tmp_path: Path, forwards: Callable[[], int]) -> None:
    student, base = pair()
    first = run(student, base, tmp_path)
    assert forwards() == 3
    path = tmp_path / "000001.safetensors"
    whole = path.read_bytes()
    tensors, about = load(whole), json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    about = about["__metadata__"]
    some = next(iter(tensors))
    for content in (
        b"damaged",
        b"",
        b"{}",
        whole[:-4],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        save({}, about),
        save(tensors | {some: tensors[some] + 1e-3}, about),
        save({name: value for name, value in tensors.items() if name != some}, about),
        save(tensors, about | {"content": "{}"}),
        save(tensors, about | {"content": "[" * 5000}),
        save(tensors, {key: value for key, value in about.items() if key != "content"}),
        save(tensors, {key: value for key, value in about.items() if key != "whole"}),
    ):
        path.write_bytes(content)
        assert run(student, base, tmp_path).rows == first.rows
        assert forwards() == 1
        assert load(path.read_bytes())[some].equal(tensors[some])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i:06d}.safetensors" for i in range(3)]


class Norm(nn.Module):
    """A network behind a step that a plain attribute decides about."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.k = net, 1.0

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(torch.tanh(self.k * x))
        return out


def test_what_is_no_weight_counts_as_well(tmp_path: Path, forwards: Callable[[], int]) -> None:
    nets = pair()
    models: list[Any] = [Norm(net) for net in nets]
    layers = {"layers": ["net.layer2", "net.layer3"]}

    def added(name: str, hook: Callable[..., Any]) -> None:
        nets[1].get_submodule(name).register_forward_hook(hook)

    run(*models, tmp_path, **layers)
    assert forwards() == 3
    for change in (
        lambda: setattr(models[0], "k", 100.0),
        lambda: added("layer1", lambda module, args, output: 2 * output),
        lambda: setattr(nets[0].get_submodule("layer2.0.bn1"), "eps", 0.1),
    ):
        change()
        found = run(*models, tmp_path, **layers)
        assert forwards() == 3
        assert run(*models, tmp_path, **layers).rows == found.rows
        assert forwards() == 0
    assert run(*models, tmp_path / "other", **layers).rows == found.rows


def test_a_model_that_cannot_be_told_apart_is_not_cached(tmp_path: Path, forwards: Callable[[], int]) -> None:
    student, base = pair()
    student.stream = iter([1, 2])  # type: ignore[assignment]
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"cache is not used.*\.stream is a list_iterator"):
            run(student, base, tmp_path)
        assert forwards() == 3
    assert not list(tmp_path.iterdir())
