"""Measure what UniCAM costs for all four stages of a ResNet-50 pair, against two plain forward passes.

    python scripts/unicam_cost.py [--samples 16] [--size 224] [--repeats 5] [--device cpu]

It prints the median ratio of the time of ``attribute_all``, which makes the maps of both directions, to that
of the two forward passes: for the constructor's maps, which have a closed form; for the same maps by autograd
through ``torch.cdist`` (one pass of both models for each layer and direction); and for
``UniCAM.recommended``, which traces deep features back to the layers. It also prints how far the maps of the
closed form and of autograd differ, and the peak memory of each method above the loaded models. Every repeat
times all methods in turn, so the ratios are robust if the machine's speed drifts.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torchvision
from torch import Tensor, nn

from captum_kd import UniCAM
from captum_kd.functional.objectives import relevance
from captum_kd.models.activations import layer_activations

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def models(device: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return tuple(torchvision.models.resnet50().eval().to(device) for _ in range(2))


def two_forwards(student: nn.Module, base: nn.Module, images: Tensor, target: Tensor) -> None:
    with torch.no_grad():
        student(images)
        base(images)


def unicam(student: nn.Module, base: nn.Module, images: Tensor, target: Tensor) -> list[Tensor]:
    layers = [student.get_submodule(name) for name in LAYERS]
    distilled, residual = UniCAM(student, layers, base).attribute_all(images, target)
    return [*distilled, *residual]


def recommended(student: nn.Module, base: nn.Module, images: Tensor, target: Tensor) -> list[Tensor]:
    layers = [student.get_submodule(name) for name in LAYERS]
    distilled, residual = UniCAM.recommended(student, layers, base).attribute_all(images)
    return [*distilled, *residual]


def by_autograd(student: nn.Module, base: nn.Module, images: Tensor, target: Tensor) -> list[Tensor]:
    labels = (target[:, None] != target).double() * 2**0.5
    maps = []
    for explained, other in ((student, base), (base, student)):
        for name in LAYERS:
            (x,), _ = layer_activations(explained, [explained.get_submodule(name)], images)
            (z,), _ = layer_activations(other, [other.get_submodule(name)], images)
            x.requires_grad_()
            d_x, d_z = (torch.cdist(a.flatten(1), a.flatten(1)).double() for a in (x, z))
            (gradient,) = torch.autograd.grad(relevance(d_x, d_z, labels), x)
            weights = gradient.mean(dim=(2, 3), keepdim=True)
            maps.append((weights * x.detach()).sum(1, keepdim=True).relu())
    return maps


METHODS: dict[str, Callable[..., object]] = {
    "two forward passes": two_forwards,
    "UniCAM.attribute_all": unicam,
    "autograd per layer and direction": by_autograd,
    "UniCAM.recommended": recommended,
}


def clock(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_above_models(method: str, samples: int, size: int, device: str) -> float:
    """The peak memory above the loaded models and images in MiB, measured in a fresh process."""
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        method,
        "--samples",
        str(samples),
        "--size",
        str(size),
    ]
    return float(subprocess.run([*command, "--device", device], check=True, capture_output=True).stdout)


def memory(device: str, peak: bool) -> float:
    """The memory of this process in MiB: its peak, or its present use, after which a new peak begins."""
    if device != "cpu":
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 2**20
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
    status = Path("/proc/self/status").read_text()
    key = "VmHWM" if peak else "VmRSS"
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(key))) / 1024


@click.command()
@click.option("--samples", default=16, show_default=True, help="Number of images.")
@click.option("--size", default=224, show_default=True, help="Side of the images in pixels.")
@click.option("--repeats", default=5, show_default=True, help="How often each method is timed.")
@click.option("--device", default="cpu", show_default=True, help="Device of models and images.")
@click.option("--memory-of", type=click.Choice(list(METHODS)), hidden=True)
def main(samples: int, size: int, repeats: int, device: str, memory_of: str | None) -> None:
    """Time the methods, and measure their memory."""
    student, base = models(device)
    images = torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    target = torch.arange(samples, device=device) % 5
    arguments = (student, base, images, target)
    if memory_of:
        with torch.no_grad():
            student(images[:1])  # so that memory the libraries keep is not counted
        before = memory(device, peak=False)
        METHODS[memory_of](*arguments)
        print(memory(device, peak=True) - before)
        return

    ours, theirs = unicam(*arguments), by_autograd(*arguments)  # also the warm-up, like the next line
    recommended(*arguments)
    difference = max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in zip(ours, theirs, strict=True)
    )
    seconds = {name: [0.0] * repeats for name in METHODS}
    for repeat in range(repeats):
        for name, method in METHODS.items():
            seconds[name][repeat] = clock(method, *arguments)
    plain = seconds["two forward passes"]
    print(
        f"ResNet-50 pair, {size} px, n = {samples}, layers 1 to 4, both directions; {device}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {repeats} repeats"
    )
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, plain, strict=True)]
        print(
            f"{name:34s} median {statistics.median(values):7.2f} s   ratio {statistics.median(ratios):6.3f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})   "
            f"peak {peak_above_models(name, samples, size, device):6.0f} MiB above the models"
        )
    print(f"largest difference of closed form and autograd, relative to the map's maximum: {difference:.1e}")


if __name__ == "__main__":
    main()
