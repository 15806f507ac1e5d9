"""Do the intervals of distance correlation hold the truth as often as they say?

    python benchmarks/interval_coverage.py [--trials 300] [--resamples 300]

For Gaussian pairs of 5 features with correlation rho, prints how often a nominal 95 % interval holds the true
distance correlation (estimated from 20 sets of 2,000 samples), for the half-sample interval of
``bootstrap_interval`` and for the ordinary bootstrap (percentile and basic), which repeats samples. The
unbiased estimator throughout.
"""

from __future__ import annotations

import click
import torch
from torch import Tensor
from tqdm import tqdm

from captum_kd.functional import pairwise_distances
from captum_kd.functional.correlation import correlation_from_distances
from captum_kd.functional.resampling import bootstrap_interval_from_distances


def distances(n: int, rho: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x, noise = torch.randn(2, n, 5, generator=generator)
    return pairwise_distances(x), pairwise_distances(rho * x + (1 - rho**2) ** 0.5 * noise)


def with_replacement(d_x: Tensor, d_y: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    index = torch.randint(len(d_x), (resamples, len(d_x)), generator=generator)
    x, y = (d[index[:, :, None], index[:, None, :]] for d in (d_x, d_y))
    return correlation_from_distances(x, y).quantile(torch.tensor([0.025, 0.975]).to(x))


@click.command()
@click.option("--trials", default=300, show_default=True)
@click.option("--resamples", default=300, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(trials: int, resamples: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    print(f"coverage of nominal 95 % intervals, {trials} trials, {resamples} resamples")
    print(f"{'rho':>5s} {'n':>5s} {'truth':>7s} {'half-sample':>12s} {'percentile':>12s} {'basic':>8s}")
    for rho in (0.0, 0.5, 0.9):
        large = [correlation_from_distances(*distances(2000, rho, generator)).item() for _ in range(20)]
        truth = sum(large) / len(large)
        for n in (32, 128):
            held = {"half": 0, "percentile": 0, "basic": 0}
            for _ in tqdm(range(trials), leave=False):
                d_x, d_y = distances(n, rho, generator)
                interval = bootstrap_interval_from_distances(
                    d_x, d_y, resamples=resamples, generator=generator
                )
                low, high = with_replacement(d_x, d_y, resamples, generator).tolist()
                estimate = interval.estimate.item()
                held["half"] += interval.low <= truth <= interval.high
                held["percentile"] += low <= truth <= high
                held["basic"] += 2 * estimate - high <= truth <= 2 * estimate - low
            half, percentile, basic = (count / trials for count in held.values())
            print(f"{rho:5.1f} {n:5d} {truth:7.3f} {half:12.3f} {percentile:12.3f} {basic:8.3f}", flush=True)


if __name__ == "__main__":
    main()
