"""The command ``captum-kd benchmark``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import click

from captum_kd.errors import explained_errors

if TYPE_CHECKING:
    from captum_kd.benchmark.parts import Part

GEOMETRY_NAMES = ("free", "grid", "sizes", "clutter", "two-cues", "tint")


@click.group()
def benchmark() -> None:
    """Check maps against truth that is known by construction."""


@benchmark.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("captum-kd-benchmark"),
    show_default=True,
    help="Folder for the tables, the figure and the numbers.",
)
@click.option(
    "--size",
    type=click.Choice(["small", "full"]),
    default="small",
    show_default=True,
    help="small: the demo's embedded pair, under a minute. full: trains every model that is missing.",
)
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the trained models.  [default: models within --out]",
)
@click.option(
    "--geometry",
    "geometries",
    multiple=True,
    type=click.Choice(GEOMETRY_NAMES),
    help="Only this one; repeat it.  [default: all]",
)
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0), default=[0, 1], show_default=True)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Where Fashion-MNIST is, or is downloaded to.",
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--resume", is_flag=True, help="Keep the parts that an earlier run finished in --out.")
def localization(
    out: Path,
    size: str,
    models: Path | None,
    geometries: tuple[str, ...],
    seeds: tuple[int, ...],
    root: Path,
    workers: int,
    resume: bool,
) -> None:
    """Do maps point where knowledge went? Planted-cue images in several geometries, models of several seeds.

    Trained models are always kept, and a stopped training goes on.
    """
    hint = f"Models and parts that were finished are intact in {out}; the same command goes on."
    start = time.perf_counter()
    with explained_errors(hint):
        out.mkdir(parents=True, exist_ok=True)
        import torch

        from captum_kd.benchmark.outcome import methods_of, separation_table, write_outcome
        from captum_kd.benchmark.parts import small_part, write_part
        from captum_kd.benchmark.summary import findings

        # Its operations are so small that on a busy machine a second thread slows them down severalfold.
        torch.set_num_threads(1)
        parts: list[Part] = []
        found = (
            [small_part(click.echo)]
            if size == "small"
            else full_parts(
                [(geometry, seed) for seed in seeds for geometry in geometries or GEOMETRY_NAMES],
                out,
                models or out / "models",
                root,
                workers,
                resume,
            )
        )
        for part in found:
            write_part(out, part)
            parts.append(part)
            page = write_outcome(parts, out, " ".join(["captum-kd", *sys.argv[1:]]))
    click.echo(separation_table(parts, findings(parts)).to_markdown())
    click.echo(f"\n{len(methods_of(parts))} methods, {time.perf_counter() - start:.0f} s. See {page}")


def full_parts(
    wanted: list[tuple[str, int]], out: Path, models: Path, root: Path, workers: int, resume: bool
) -> Iterator[Part]:
    """The parts in the order wanted, from an earlier run where that is asked for and they are there."""
    from captum_kd.benchmark.parts import full_part, read_part

    kept = {key: part for key in wanted if resume and (part := read_part(out, *key)) is not None}
    missing = [key for key in wanted if key not in kept]
    if workers == 1:
        for key in wanted:
            yield kept[key] if key in kept else full_part(*key, models, root, report=click.echo)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = {key: pool.submit(_in_process, *key, models, root) for key in missing}
        for key in wanted:
            yield kept[key] if key in kept else futures[key].result()


def _in_process(geometry: str, seed: int, models: Path, root: Path) -> Part:
    import torch

    from captum_kd.benchmark.parts import full_part

    torch.set_num_threads(1)
    return full_part(geometry, seed, models, root, report=click.echo)
