"""Do the intervals of distance correlation hold the truth as often as they say?

    python benchmarks/interval_coverage.py [--trials 400] [--resamples 200] [--out FILE]

For data whose dependence is known, prints how often a nominal 95 % interval holds the true distance
correlation (the mean of 30 sets of 1,500 samples), for the jackknife, for half-samples
(``bootstrap_interval``) and for the ordinary bootstrap (percentiles), which repeats samples. The
bias-corrected estimator throughout.

- rho: Gaussian pairs of 5 features that correlate by rho, as in FSS.
- classes: 16 features that follow one of 10 classes weakly, and one-hot labels, as in RS.
- given: as rho 0.5, with a third variable taken out that shares half of both, as in RS of unique features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import torch
from torch import Tensor
from tqdm import tqdm

from captum_kd.functional import pairwise_distances
from captum_kd.functional.correlation import correlation_from_distances, semipartial_from_distances
from captum_kd.functional.jackknife import jackknife_interval_from_distances
from captum_kd.functional.resampling import bootstrap_interval_from_distances
from captum_kd.report.tables import Cell, Table

Case = Callable[[int, torch.Generator], tuple[Tensor, ...]]
INTERVALS = ("jackknife", "half-samples", "bootstrap")


def correlated(rho: float) -> Case:
    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        x, noise = torch.randn(2, n, 5, generator=generator)
        return x, rho * x + (1 - rho**2) ** 0.5 * noise

    return draw


def classes(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    # The means of the classes are the same for every set: one draw with a seed of its own.
    means = torch.randn(10, 16, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(10, (n,), generator=generator)
    x = 0.7 * means[labels] + torch.randn(n, 16, generator=generator)
    return x, torch.eye(10)[labels]


def given(n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    x, y = correlated(0.5)(n, generator)
    return x, y, (x + y) / 2 + torch.randn(n, 5, generator=generator)


CASES: dict[str, Case] = {
    **{f"rho {rho}": correlated(rho) for rho in (0.0, 0.25, 0.5, 0.9)},
    "classes": classes,
    "given": given,
}


def distances(case: str, n: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    return tuple(pairwise_distances(x) for x in CASES[case](n, generator))


def statistic(d: tuple[Tensor, ...]) -> Tensor:
    return correlation_from_distances(*d) if len(d) == 2 else semipartial_from_distances(*d)


def with_replacement(
    d: tuple[Tensor, ...], resamples: int, generator: torch.Generator
) -> tuple[float, float]:
    index = torch.randint(len(d[0]), (resamples, len(d[0])), generator=generator)
    values = torch.cat(
        [
            statistic(tuple(m[some[:, :, None], some[:, None, :]] for m in d))
            for some in index.split(max(1, 2**18 // len(d[0]) ** 2))
        ]
    )
    low, high = values.quantile(torch.tensor([0.025, 0.975]).to(values)).tolist()
    return low, high


def coverage(
    case: str, n: int, trials: int, resamples: int, generator: torch.Generator
) -> tuple[float, dict[str, tuple[float, float]]]:
    """The truth, and for each kind of interval its coverage and its mean half-width."""
    truth = sum(statistic(distances(case, 1500, generator)).item() for _ in range(30)) / 30
    held, width = dict.fromkeys(INTERVALS, 0), dict.fromkeys(INTERVALS, 0.0)
    for _ in tqdm(range(trials), leave=False, desc=f"{case}, n = {n}"):
        d = distances(case, n, generator)
        half = bootstrap_interval_from_distances(*d, resamples=resamples, generator=generator)
        found = (
            jackknife_interval_from_distances(*d)[1:3],
            half[1:3],
            with_replacement(d, resamples, generator),
        )
        for name, (low, high) in zip(INTERVALS, found, strict=True):
            held[name] += low <= truth <= high
            width[name] += (high - low) / 2 / trials
    return truth, {name: (held[name] / trials, width[name]) for name in INTERVALS}


@click.command()
@click.option("--trials", default=400, show_default=True)
@click.option("--resamples", default=200, show_default=True)
@click.option("--size", "sizes", multiple=True, default=[16, 32, 128], show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Markdown file for the table.")
def main(trials: int, resamples: int, sizes: tuple[int, ...], seed: int, out: Path | None) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    lines = []
    for case in CASES:
        for n in sizes:
            truth, found = coverage(case, n, trials, resamples, generator)
            cells = [Cell(f"{round(truth, 3) + 0.0:.3f}")]
            cells += [Cell(f"{share:.3f}", f"± {width:.2f}") for share, width in found.values()]
            lines.append((f"{case}, n = {n}", cells))
            click.echo(" | ".join([lines[-1][0], *(f"{c.value} {c.note}" for c in cells)]))
    caption = (
        f"How often a nominal 95 % interval holds the truth, in {trials} trials (in brackets its mean "
        "half-width)"
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        table = Table(caption, ["data", "truth", *INTERVALS], lines)
        out.write_text(table.to_markdown() + "\n", "utf-8")


if __name__ == "__main__":
    main()
