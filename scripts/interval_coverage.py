"""Measure how often the intervals of distance correlation cover the truth.

    python scripts/interval_coverage.py [--trials 2000] [--resamples 20] [--out FILE]

For data whose dependence is known, it prints how often a nominal 95 % interval covers the true distance
correlation. The truth is 0 for independent data, and otherwise the mean over 30 sets of 1,500 samples. For
the biased estimator it is the mean over the trials, since what it estimates depends on n. Two other intervals
are compared with `confidence_interval`:

- jackknife: plus and minus 1.96 standard errors from leaving out each sample once, uncorrected.
- bootstrap: percentiles of samples drawn with replacement, which repeats samples.

The data:

- 5 features, 1 feature: pairs of Gaussian features with correlation rho, as for FSS.
- classes: 16 features that weakly follow one of 10 classes, and one-hot labels, as for RS.
- given: pairs of 5 Gaussian features, from which a third variable is taken out.
- log-normal: one heavy-tailed feature, with correlation 0.7 before the exponential.
- networks: layer 4 of the demo's student and base model, the labels of the items, 6 drawings of 512 items.

The interval was chosen by looking at all of these, but not at the following:

- circle: the two coordinates of points on a noisy circle, which depend on each other but do not correlate.
- Student's t: 5 features of a t distribution with 4 degrees of freedom, with correlation 0.7.
- 40 features: Gaussian, with correlation 0.5.
- layer 2: the networks' features at that layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor
from tqdm import tqdm

from captum_kd.datasets.demo_pair import load_demo_images, load_demo_models
from captum_kd.datasets.planted_cue import normalise
from captum_kd.functional import pairwise_distances
from captum_kd.functional.centering import double_center, u_center
from captum_kd.functional.correlation import Estimator, statistic_from_distances
from captum_kd.functional.interval import confidence_interval_from_distances, leave_one_out
from captum_kd.models.activations import layer_activations
from captum_kd.report.tables import Cell, Table

Draw = Callable[[int, torch.Generator], tuple[Tensor, ...]]
RHOS = (0.0, 0.25, 0.5, 0.9)
INTERVALS = ("confidence_interval", "jackknife", "bootstrap")


class Case(NamedTuple):
    """A function that draws two variables and perhaps a given one, and the estimator."""

    draw: Draw
    estimator: Estimator = "unbiased"
    independent: bool = False


def correlated(rho: float, size: int) -> Draw:
    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        x, noise = torch.randn(2, n, size, generator=generator)
        return x, rho * x + (1 - rho**2) ** 0.5 * noise

    return draw


def classes(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    # The means of the classes are the same for every set, so they have their own seed.
    means = torch.randn(10, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(10, (n,), generator=generator)
    x = 0.7 * means[labels] + torch.randn(n, 16, generator=generator)
    return x, torch.eye(10)[labels]


def given(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, y = correlated(0.5, 5)(n, generator)
    return x, y, (x + y) / 2 + torch.randn(n, 5, generator=generator)


def log_normal(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, y = correlated(0.7, 1)(n, generator)
    return x.exp(), y.exp()


def circle(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    angle = 2 * torch.pi * torch.rand(n, 1, generator=generator)
    noise = 0.2 * torch.randn(2, n, 1, generator=generator)
    return angle.cos() + noise[0], angle.sin() + noise[1]


def students_t(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, y = correlated(0.7, 5)(n, generator)
    scale = (torch.randn(2, n, 4, generator=generator).square().mean(-1, keepdim=True)).sqrt()
    return x / scale[0], y / scale[1]


@cache
def networks(layer: str) -> tuple[Tensor, ...]:
    models, planted = load_demo_models(), [load_demo_images(seed=seed) for seed in range(6)]
    batches = torch.cat([normalise(p.images) for p in planted]).split(128)
    student, base = (
        torch.cat(
            [
                layer_activations(m, [m.get_submodule(layer)], batch).activations[0].mean((2, 3))
                for batch in batches
            ]
        )
        for m in (models.student, models.base)
    )
    return student, torch.eye(10)[torch.cat([p.labels for p in planted])], base


def of_networks(*which: int, layer: str = "layer4") -> Draw:
    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        features = networks(layer)
        chosen = torch.randperm(len(features[0]), generator=generator)[:n]
        return tuple(features[i][chosen] for i in which)

    return draw


CASES: dict[str, Case] = {
    **{f"5 features, rho {rho}": Case(correlated(rho, 5), independent=rho == 0) for rho in RHOS},
    **{f"5 features, rho {rho}, biased": Case(correlated(rho, 5), "biased") for rho in (0.0, 0.5, 0.9)},
    **{f"1 feature, rho {rho}": Case(correlated(rho, 1), independent=rho == 0) for rho in RHOS},
    "classes": Case(classes),
    "given": Case(given),
    "log-normal": Case(log_normal),
    "networks, FSS, biased": Case(of_networks(0, 2), "biased"),
    "networks, FSS": Case(of_networks(0, 2)),
    "networks, RS": Case(of_networks(0, 1)),
    "networks, RS distilled": Case(of_networks(0, 1, 2)),
    "circle": Case(circle),
    "Student's t": Case(students_t),
    "40 features": Case(correlated(0.5, 40)),
    "layer 2, FSS, biased": Case(of_networks(0, 2, layer="layer2"), "biased"),
    "layer 2, FSS": Case(of_networks(0, 2, layer="layer2")),
    "layer 2, RS": Case(of_networks(0, 1, layer="layer2")),
    "layer 2, RS distilled": Case(of_networks(0, 1, 2, layer="layer2")),
}


def distances(case: Case, n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(pairwise_distances(x) for x in case.draw(n, generator))


def statistic(d: tuple[Tensor, ...], estimator: Estimator) -> Tensor:
    return statistic_from_distances(d[0], d[1], d[2] if len(d) == 3 else None, estimator)


def intervals(
    d: tuple[Tensor, ...], estimator: Estimator, resamples: int, generator: torch.Generator
) -> tuple[float, list[tuple[float, float]]]:
    """The estimate, and the ends of all intervals."""
    n = len(d[0])
    found = confidence_interval_from_distances(*d, estimator=estimator)
    estimate = found.estimate.item()
    one = leave_one_out([centred(m, estimator) for m in d], estimator)
    error = ((n - 1) * one.var(correction=0)).sqrt().item()
    index = torch.randint(n, (resamples, n), generator=generator)
    stacks = (
        tuple(m[some[:, :, None], some[:, None, :]] for m in d) for some in index.split(max(1, 2**18 // n**2))
    )
    values = torch.cat([statistic(stack, estimator) for stack in stacks])
    low, high = values.quantile(torch.tensor([0.025, 0.975]).to(values)).tolist()
    return estimate, [found[1:3], (estimate - 1.96 * error, estimate + 1.96 * error), (low, high)]


def centred(d: Tensor, estimator: Estimator) -> Tensor:
    return u_center(d) if estimator == "unbiased" else double_center(d)


def coverage(
    case: Case, n: int, truth: float, trials: int, resamples: int, generator: torch.Generator
) -> tuple[float, list[tuple[float, float]]]:
    """The truth, and the coverage and mean half-width of each kind of interval."""
    runs = [
        intervals(distances(case, n, generator), case.estimator, resamples, generator)
        for _ in tqdm(range(trials), leave=False, disable=None)
    ]
    if case.estimator == "biased":
        truth = sum(estimate for estimate, _ in runs) / trials
    ends = torch.tensor([found for _, found in runs])
    held = (ends[..., 0] <= truth) & (truth <= ends[..., 1])
    widths = ends.clamp(-1, 1).diff().squeeze(-1) / 2
    return truth, list(zip(held.double().mean(0).tolist(), widths.mean(0).tolist(), strict=True))


@click.command()
@click.option("--trials", default=2000, show_default=True, help="Number of sets for each case and size.")
@click.option("--resamples", default=20, show_default=True, help="Number of bootstrap samples.")
@click.option(
    "--size",
    "sizes",
    multiple=True,
    default=[16, 32, 64, 128],
    show_default=True,
    help="Samples in a set; repeat the option for several.",
)
@click.option(
    "--case",
    "cases",
    multiple=True,
    type=click.Choice(tuple(CASES)),
    help="Data to draw; repeat the option for several.  [default: all]",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the data.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file for the table.")
def main(
    trials: int, resamples: int, sizes: tuple[int, ...], cases: tuple[str, ...], seed: int, out: Path | None
) -> None:
    """Print the coverage of every case and size, and write it as a table."""
    torch.set_num_threads(1)
    lines = []
    for name in cases or CASES:
        # Each case has its own generator, so that it gives the same if it runs alone.
        case, generator = CASES[name], torch.Generator().manual_seed(seed)
        large = [statistic(distances(case, 1500, generator), case.estimator).item() for _ in range(30)]
        truth = 0.0 if case.independent else sum(large) / len(large)
        for n in sizes:
            truth, found = coverage(case, n, truth, trials, resamples, generator)
            cells = [Cell(f"{round(truth, 3) + 0.0:.3f}")]
            cells += [Cell(f"{share:.3f}", f"± {width:.2f}") for share, width in found]
            lines.append((f"{name}, n = {n}", cells))
            click.echo(" | ".join([lines[-1][0], *(f"{c.value} {c.note}" for c in cells)]))
    caption = (
        f"How often a nominal 95 % interval covers the truth in {trials} trials (mean half-width in brackets)"
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        table = Table(caption, ["data", "truth", *INTERVALS], lines)
        out.write_text(table.to_markdown() + "\n", "utf-8")


if __name__ == "__main__":
    main()
