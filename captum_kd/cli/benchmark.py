"""The command ``captum-kd benchmark``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click

from captum_kd.cli.errors import explained_errors

GEOMETRY_NAMES = ("free", "grid", "sizes", "clutter", "two-cues", "tint")

Command = TypeVar("Command", bound=Callable[..., None])


def _folder_option(name: str, default: str, use: str) -> Callable[[Command], Command]:
    return click.option(
        name,
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help=use,
    )


def _out_option(contents: str) -> Callable[[Command], Command]:
    return _folder_option("--out", "captum-kd-benchmark", f"Folder to write {contents} to.")


def _root_option(note: str = "") -> Callable[[Command], Command]:
    return _folder_option("--root", "data", f"Folder of Fashion-MNIST; downloaded if it is not there{note}.")


@click.group()
def benchmark() -> None:
    """Check maps and scores against truth that is known by construction."""


@benchmark.command()
@_out_option("the tables, the figures and the numbers")
@click.option(
    "--size",
    type=click.Choice(["small", "full"]),
    default="small",
    show_default=True,
    help="small: the demo's embedded pair, in under a minute. full: train every model that is missing.",
)
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the trained models.  [default: the folder models in --out]",
)
@click.option(
    "--geometry",
    "geometries",
    multiple=True,
    type=click.Choice(GEOMETRY_NAMES),
    help="Geometry to measure; repeat the option for several.  [default: all]",
)
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    type=click.IntRange(0),
    default=[0, 1],
    show_default=True,
    help="Seed of training and images; repeat the option for several.",
)
@_root_option()
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Number of processes.")
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
    """Do maps point where knowledge went?

    Planted-cue images in several geometries, models of several seeds. Trained models are always kept. If
    interrupted, training resumes where it left off.
    """
    start = time.perf_counter()
    hint = f"Finished models and parts are intact in {out}; run the command again with --resume to continue."
    with _results_in(out, hint):
        from captum_kd.benchmark.localization.page import methods_of, separation_table, write_outcome
        from captum_kd.benchmark.localization.parts import full_parts, small_part, write_part
        from captum_kd.benchmark.localization.summary import findings

        folders = out, models or out / "models", root
        wanted = [(geometry, seed) for seed in seeds for geometry in geometries or GEOMETRY_NAMES]
        parts = []
        for part in (
            [small_part(click.echo)]
            if size == "small"
            else full_parts(wanted, *folders, workers=workers, resume=resume, report=click.echo)
        ):
            write_part(out, part)
            parts.append(part)
        page = write_outcome(parts, out, _command())
        click.echo(separation_table(parts, findings(parts)).to_markdown())
        click.echo(f"\n{len(methods_of(parts))} methods. {_took(start, page)}")


@benchmark.command()
@_out_option("sanity.json, sanity.md and sanity.png")
@click.option(
    "--images",
    type=click.IntRange(16, 256),
    default=64,
    show_default=True,
    help="Number of images to explain.",
)
@click.option(
    "--pool",
    type=click.IntRange(16, 256),
    default=256,
    show_default=True,
    help="Number of other images for references, which have from 8 samples up to half of these.",
)
def sanity(out: Path, images: int, pool: int) -> None:
    """Do maps depend on weights, labels, image and reference as they should?

    The checks run on the demo's embedded pair.
    """
    start = time.perf_counter()
    with _results_in(out, "Run the same command again; it starts from the beginning."):
        from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
        from captum_kd.benchmark.sanity.checks import REFERENCE_SIZES, check_maps
        from captum_kd.benchmark.sanity.deletion import check_deletion
        from captum_kd.benchmark.sanity.page import write_sanity
        from captum_kd.benchmark.sanity.retraining import check_retraining

        checked = checked_demo_pair(images, pool)
        sizes = [size for size in REFERENCE_SIZES if 2 * size <= pool and size // 4 <= images]
        rows = check_maps(checked, sizes=sizes, report=click.echo)
        rows += check_retraining(checked, report=click.echo)
        rows += check_deletion(checked, report=click.echo)
        click.echo(_took(start, write_sanity(rows, out, _command())))


@benchmark.command()
@_out_option("scores.json, scores.md and the figures")
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the models that the localization benchmark trained: does RS predict what they do?",
)
@_root_option("; needed with --models only")
@click.option(
    "--subsets",
    type=click.IntRange(2),
    default=40,
    show_default=True,
    help="Number of random subsets of each size.",
)
def scores(out: Path, models: Path | None, root: Path, subsets: int) -> None:
    """How do FSS and RS behave at small n, are they circular, and what do they predict?"""
    start = time.perf_counter()
    with _results_in(out, "Run the same command again; it starts from the beginning."):
        from captum_kd.benchmark.pairs.checked_pair import checked_demo_pair
        from captum_kd.benchmark.scores.page import write_scores
        from captum_kd.benchmark.scores.relation import relate_finished
        from captum_kd.benchmark.scores.small_samples import circularity, score_sizes

        checked = checked_demo_pair(256, 256)
        relation = None if models is None else relate_finished(models, root, click.echo)
        sizes = score_sizes(checked, subsets=subsets, report=click.echo)
        page = write_scores(sizes, circularity(checked), relation, out, _command())
        click.echo(_took(start, page))


@contextmanager
def _results_in(out: Path, hint: str) -> Iterator[None]:
    """Explain expected errors, make the folder before any work is done, and use one thread."""
    with explained_errors(hint):
        out.mkdir(parents=True, exist_ok=True)
        import torch

        # The operations are so small that on a busy machine a second thread slows them down severalfold.
        torch.set_num_threads(1)
        yield


def _command() -> str:
    return " ".join(["captum-kd", *sys.argv[1:]])


def _took(start: float, page: Path) -> str:
    return f"{time.perf_counter() - start:.0f} s. See {page}"
