"""The command ``captum-kd explain``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from captum_kd.cli.errors import explained_errors

NEEDED = ("students", "base", "architectures", "images")
# A run has its own, apart from the names of its students.
OF_THE_RUN = (
    *(*NEEDED[1:], "teacher", "base_architecture", "teacher_architecture", "class_names"),
    *("layers", "base_layers", "teacher_layers", "image_size", "resize", "mean", "std"),
)
_FOLDER = click.Path(file_okay=False, path_type=Path)


class _RecordedCommand(click.Command):
    """Keeps the arguments as they were typed, for the report."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["typed"] = shlex.join(["captum-kd", "explain", *args])
        return super().parse_args(ctx, args)


@click.command(cls=_RecordedCommand)
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option(
    "--student",
    "students",
    multiple=True,
    metavar="CHECKPOINT",
    help="PATH, or NAME=PATH; PATH::PART takes a part of a checkpoint with several models. Repeat it to "
    "compare several students. With RUN: a student of the run.  [default with RUN: all]",
)
@click.option("--base", metavar="CHECKPOINT", help="The base model: the student's like without a teacher.")
@click.option("--teacher", metavar="CHECKPOINT", help="Compare with the teacher, too.")
@click.option(
    "--architecture",
    "architectures",
    multiple=True,
    metavar="ARCH",
    help="Of the student: torchvision or timm name, or package.module:factory. Of several students one for "
    "all, or one each.",
)
@click.option("--base-architecture", metavar="ARCH", help="[default: the student's]")
@click.option("--teacher-architecture", metavar="ARCH", help="[default: the student's]")
@click.option(
    "--images",
    metavar="SOURCE",
    help="A folder with a folder per class; a text file with a line 'path,class' per image; or a data set of "
    "torchvision by name, for instance CIFAR10 (its test split).",
)
@click.option(
    "--class-names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Names of the models' outputs in their order: one a line, or JSON.  [default: the folders, sorted]",
)
@click.option("--layer", "layers", multiple=True, help="Repeat it, first to last.  [default: the stages]")
@click.option("--base-layer", "base_layers", multiple=True, help="[default: those of the same names]")
@click.option("--teacher-layer", "teacher_layers", multiple=True, help="[default: those of the same names]")
@click.option("--method", "methods", multiple=True, help="Of the maps; repeat it.  [default: three]")
@click.option(
    "--label-encoder",
    default="one-hot",
    show_default=True,
    metavar="ENCODER",
    help="one-hot; a language model by hub name or folder; or a saved LabelEmbeddings file.",
)
@click.option("--pooling", type=click.Choice(["pooler", "mean", "cls"]), default="pooler", show_default=True)
@click.option("--image-size", type=click.IntRange(8), default=224, show_default=True, help="In pixels.")
@click.option(
    "--resize", type=click.IntRange(8), help="Shorter side before the crop.  [default: 256/224 of it]"
)
@click.option("--mean", default="0.485,0.456,0.406", show_default=True, help="The models' normalisation.")
@click.option("--std", default="0.229,0.224,0.225", show_default=True)
@click.option("--limit", type=click.IntRange(8), default=512, show_default=True, help="Images to score.")
@click.option(
    "--reference", type=click.IntRange(3), default=64, show_default=True, help="Further images for the maps."
)
@click.option("--shown", type=click.IntRange(0), default=8, show_default=True, help="Images with maps.")
@click.option(
    "--kept-share",
    type=click.FloatRange(0, 1, True, True),
    help="For RS of what maps keep: 0.2, say.",
)
@click.option("--fold", type=click.IntRange(1), default=1, show_default=True, help="With RUN.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="For instance cpu, cuda, cuda:1, mps.")
@click.option("--precision", default="float32", show_default=True, help="float16, bfloat16 or float64.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that load images."
)
@click.option("--root", type=_FOLDER, default=Path("data"), show_default=True, help="Of named data sets.")
@click.option(
    "--out", type=_FOLDER, help="For the report.  [default: captum-kd-report, or RUN/explain/fold1]"
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Use what an interrupted run of the same models, images and options has left.",
)
@click.pass_context
def explain(ctx: click.Context, **given: Any) -> None:
    """Explain what distillation changed: in a student beside its base model, or in a distillation RUN.

    \b
    captum-kd explain --student student.pt --base base.pt --architecture resnet18 --images photos
    captum-kd explain RUN
    """
    run = given.pop("run")
    if run is None and not all(given[name] for name in NEEDED):
        raise click.UsageError(
            "Give --student, --base, --architecture and --images; or the folder RUN of a distillation run."
        )
    typed = [name for name in given if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if run is not None and (superfluous := [_option(ctx, name) for name in typed if name in OF_THE_RUN]):
        raise click.UsageError(f"RUN brings its models and images: leave out {', '.join(superfluous)}.")
    default = Path("captum-kd-report") if run is None else run / "explain" / f"fold{given['fold']}"
    out: Path = given.pop("out") or default
    with explained_errors(f"Could not write to {out}; choose another folder with --out."):
        out.mkdir(parents=True, exist_ok=True)  # now, not after the work
    with explained_errors("Choose another folder with --out."):
        try:
            report, table = _explain(run, out, ctx.meta["typed"], **given)
        except KeyboardInterrupt:
            click.echo(f"\nStopped. What was done is kept in {out}; the same command goes on.", err=True)
            raise
    click.echo(table)
    click.echo(f"Open the report: {report.resolve().as_uri()}")


def _option(ctx: click.Context, name: str) -> str:
    return next(parameter.opts[0] for parameter in ctx.command.params if parameter.name == name)


def _explain(
    run: Path | None,
    out: Path,
    typed: str,
    *,
    device: str,
    precision: str,
    batch_size: int,
    workers: int,
    limit: int,
    reference: int,
    shown: int,
    kept_share: float | None,
    methods: tuple[str, ...],
    resume: bool,
    fold: int,
    **options: Any,
) -> tuple[Path, str]:
    """The path of the report, and the scores as a table."""
    # Here, because --help does not need them.
    import dataclasses
    import shutil

    from captum_kd.attr.methods import resolve_methods
    from captum_kd.comparison.compare import DEFAULT_METHODS
    from captum_kd.explain.from_checkpoints import subject_of_checkpoints
    from captum_kd.explain.options import PRECISIONS, choose_device
    from captum_kd.explain.report import CACHE, Loading, compare_subject, write_report
    from captum_kd.explain.subject import encode_labels

    if precision not in PRECISIONS:
        raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    loading = Loading(choose_device(device), PRECISIONS[precision], batch_size, workers)
    try:
        resolve_methods(methods)
    except ValueError as error:
        raise ValueError(f"--method: {error}") from error
    if run is None:
        subject = subject_of_checkpoints(limit=limit + reference, **options)
    else:
        from captum_kd.explain.from_run import subject_of_run

        names = ("root", "students", "seed")
        chosen = {name: options[name] for name in names}
        subject = subject_of_run(run, fold=fold, limit=limit + reference, **chosen)
        encoder = encode_labels(options["label_encoder"], options["pooling"], subject.images.class_names)
        subject = subject._replace(label_embeddings=encoder)
    if not resume:
        shutil.rmtree(out / CACHE, ignore_errors=True)
    comparison = compare_subject(
        subject,
        loading,
        limit=limit,
        reference=reference,
        cache=out / CACHE,
        methods=methods or DEFAULT_METHODS,
        shown=shown,
        kept_share=kept_share,
        seed=options["seed"],
        progress=sys.stderr.isatty(),
    )
    settings = dataclasses.replace(comparison.settings, command=typed)
    comparison = dataclasses.replace(comparison, settings=settings)
    report = write_report(comparison, out)
    shutil.rmtree(out / CACHE, ignore_errors=True)
    return report, comparison.to_markdown()
