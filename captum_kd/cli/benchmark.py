"""The command ``captum-kd benchmark``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from captum_kd.cli.errors import explained_errors

if TYPE_CHECKING:
    from captum_kd.benchmark.localization.parts import Part
    from captum_kd.benchmark.scores.page import Relation

Command = Callable[..., Any]
GEOMETRY_NAMES = ("free", "grid", "sizes", "clutter", "two-cues", "tint")


def _out_option(contents: str) -> Callable[[Command], Command]:
    return click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("captum-kd-benchmark"),
        show_default=True,
        help=contents,
    )


def _root_option(use: str) -> Callable[[Command], Command]:
    return click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("data"),
        show_default=True,
        help=use,
    )


@click.group()
def benchmark() -> None:
    """Check maps against truth that is known by construction."""


@benchmark.command()
@_out_option("Folder for the tables, the figure and the numbers.")
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
@_root_option("Where Fashion-MNIST is, or is downloaded to.")
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

        from captum_kd.benchmark.localization.page import methods_of, separation_table, write_outcome
        from captum_kd.benchmark.localization.parts import small_part, write_part
        from captum_kd.benchmark.localization.summary import findings

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
        page = write_outcome(parts, out, _command())
    click.echo(separation_table(parts, findings(parts)).to_markdown())
    click.echo(f"\n{len(methods_of(parts))} methods, {time.perf_counter() - start:.0f} s. See {page}")


@benchmark.command()
@_out_option("Folder for sanity.json, sanity.md and sanity.png.")
@click.option(
    "--images", type=click.IntRange(16, 256), default=64, show_default=True, help="Images to explain."
)
@click.option(
    "--pool",
    type=click.IntRange(16, 256),
    default=256,
    show_default=True,
    help="Others to draw references from: of 8 samples up to half of the pool.",
)
def sanity(out: Path, images: int, pool: int) -> None:
    """Do maps depend on weights, labels, image and reference as they should? On the demo's embedded pair."""
    start = time.perf_counter()
    with explained_errors("The same command starts again."):
        out.mkdir(parents=True, exist_ok=True)
        import torch

        from captum_kd.benchmark.sanity.checks import REFERENCE_SIZES, check_maps, demo_subject
        from captum_kd.benchmark.sanity.deletion import check_deletion
        from captum_kd.benchmark.sanity.page import write_sanity
        from captum_kd.benchmark.sanity.retraining import check_retraining

        torch.set_num_threads(1)
        subject = demo_subject(images, pool)
        sizes = [size for size in REFERENCE_SIZES if 2 * size <= pool and size // 4 <= images]
        rows = check_maps(subject, sizes=sizes, report=click.echo)
        rows += check_retraining(subject, report=click.echo)
        rows += check_deletion(subject, report=click.echo)
        page = write_sanity(rows, out, _command())
    click.echo(f"{time.perf_counter() - start:.0f} s. See {page}")


@benchmark.command()
@_out_option("Folder for scores.json, scores.md and the figures.")
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Trained models of the localization benchmark: does RS predict what they do?",
)
@_root_option("Where Fashion-MNIST is, or is downloaded to; needed with --models.")
@click.option(
    "--subsets", type=click.IntRange(2), default=40, show_default=True, help="Random subsets of each size."
)
def scores(out: Path, models: Path | None, root: Path, subsets: int) -> None:
    """How do FSS and RS behave at small n, are they circular, and what do they predict?"""
    start = time.perf_counter()
    with explained_errors("The same command starts again."):
        out.mkdir(parents=True, exist_ok=True)
        import torch

        from captum_kd.benchmark.sanity.checks import demo_subject
        from captum_kd.benchmark.scores.page import write_scores
        from captum_kd.benchmark.scores.small_samples import circularity, score_sizes

        torch.set_num_threads(1)
        subject = demo_subject(256, 256)
        relation = None if models is None else _relation(models, root)
        sizes = score_sizes(subject, subsets=subsets, report=click.echo)
        page = write_scores(sizes, circularity(subject), relation, out, _command())
    click.echo(f"{time.perf_counter() - start:.0f} s. See {page}")


def _relation(models: Path, root: Path) -> Relation:
    from captum_kd.benchmark.scores.page import Relation
    from captum_kd.benchmark.scores.relation import coefficients, finished, relate
    from captum_kd.datasets.in_memory import read_fashion_mnist

    folders = finished(models)
    if not folders:
        raise ValueError(
            f"{models} has no geometry and seed whose models are all trained; "
            "captum-kd benchmark localization --size full trains them."
        )
    test = read_fashion_mnist(root)[1]
    rows, pairs = [], []
    for geometry, seed, folder in folders:
        click.echo(f"{geometry}, seed {seed}")
        of_models, of_pairs = relate(geometry, seed, folder, test.data, test.targets)
        rows += of_models
        pairs += of_pairs
    return Relation(rows, pairs, coefficients(rows, pairs))


def _command() -> str:
    return " ".join(["captum-kd", *sys.argv[1:]])


def full_parts(
    wanted: list[tuple[str, int]], out: Path, models: Path, root: Path, workers: int, resume: bool
) -> Iterator[Part]:
    """The parts in the order wanted, from an earlier run where that is asked for and they are there."""
    from captum_kd.benchmark.localization.parts import full_part, read_part

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

    from captum_kd.benchmark.localization.parts import full_part

    torch.set_num_threads(1)
    return full_part(geometry, seed, models, root, report=click.echo)
