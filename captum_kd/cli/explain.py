"""The command ``captum-kd explain``."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from captum_kd.cli.errors import explained_errors
from captum_kd.explain.options import ExplainOptions, ModelOptions
from captum_kd.explain.out_folder import check_place, check_writable, default_folder

NEEDED = ("students", "base", "architectures", "images")


class _Folder(click.Path):
    """A folder; an empty name is an error, not the working folder."""

    def __init__(self) -> None:
        super().__init__(file_okay=False, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


_FOLDER = _Folder()


class _RecordedCommand(click.Command):
    """A command that keeps its arguments as they were typed, for the report."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["typed"] = shlex.join(["captum-kd", "explain", *args])
        return super().parse_args(ctx, args)


@click.command(cls=_RecordedCommand)
@click.argument("run", type=_Folder(), required=False)
@click.option(
    "--student",
    "students",
    multiple=True,
    metavar="CHECKPOINT",
    help="Checkpoint of a student: PATH, or NAME=PATH; PATH::PART takes one of several models in a file, "
    "by the key of its state dict (state_dict_ema) or the prefix of its keys (student). Can be repeated. "
    "With RUN: the name of a student of the run.  [default with RUN: all]",
)
@click.option(
    "--base",
    metavar="CHECKPOINT",
    help="Checkpoint of the base model: like the student, but trained without a teacher.",
)
@click.option(
    "--teacher", metavar="CHECKPOINT", help="Checkpoint of the teacher, to compare with it as well."
)
@click.option(
    "--architecture",
    "architectures",
    multiple=True,
    metavar="ARCH",
    help="Architecture of the student: a torchvision or timm name, or package.module:factory, whose code is "
    "imported and run: name only code that you trust. With several students, give one for all or one for "
    "each. With RUN: allow a factory that its run.json names; without this, no code of a run is run.",
)
@click.option(
    "--base-architecture",
    metavar="ARCH",
    help="Architecture of the base model.  [default: the student's]",
)
@click.option(
    "--teacher-architecture",
    metavar="ARCH",
    help="Architecture of the teacher.  [default: the student's]",
)
@click.option(
    "--images",
    metavar="SOURCE",
    help="A folder with a sub-folder per class, or with such folders for each split, of which test is taken, "
    "otherwise validation; a text file with a line 'path,class' per image; or the name "
    "of a torchvision data set, for instance CIFAR10 (its test split).",
)
@click.option(
    "--class-names",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the names of the models' outputs in their order: one per line, or JSON.  [default: the "
    "folders' names, sorted]",
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    help="Layer of the student; can be repeated, first to last.  [default: its stages]",
)
@click.option(
    "--base-layer",
    "base_layers",
    multiple=True,
    help="Layer of the base model, in the same order.  [default: the layers of the same names]",
)
@click.option(
    "--teacher-layer",
    "teacher_layers",
    multiple=True,
    help="Layer of the teacher, in the same order.  [default: the layers of the same names]",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Method of the maps; can be repeated.  [default: three methods]",
)
@click.option(
    "--label-encoder",
    default="one-hot",
    show_default=True,
    metavar="ENCODER",
    help="How class names become label embeddings: one-hot; a language model by hub name or folder; or a "
    "saved LabelEmbeddings file.",
)
@click.option(
    "--pooling",
    type=click.Choice(["pooler", "mean", "cls"]),
    default="pooler",
    show_default=True,
    help="How the language model's tokens become one embedding.",
)
@click.option(
    "--image-size",
    type=click.IntRange(8),
    default=224,
    show_default=True,
    help="Height and width of the images in pixels.",
)
@click.option(
    "--resize",
    type=click.IntRange(8),
    help="Length of the shorter side before the crop, in pixels.  [default: 256/224 of the image size]",
)
@click.option(
    "--mean",
    default="0.485,0.456,0.406",
    show_default=True,
    help="Mean of each channel in the models' normalisation.",
)
@click.option(
    "--std",
    default="0.229,0.224,0.225",
    show_default=True,
    help="Standard deviation of each channel in the models' normalisation.",
)
@click.option(
    "--limit", type=click.IntRange(8), default=512, show_default=True, help="Number of images to score."
)
@click.option(
    "--reference",
    type=click.IntRange(3),
    default=64,
    show_default=True,
    help="Number of further images, which are the reference of the maps.",
)
@click.option(
    "--shown",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="Number of images whose maps the report shows.",
)
@click.option(
    "--kept-share",
    type=click.FloatRange(0, 1, True, True),
    help="Also compute RS of images reduced to this share of their pixels by the maps, for instance 0.2.",
)
@click.option(
    "--fold",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="With RUN: the fold whose models are compared.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random."
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Device: auto, or for instance cpu, cuda, cuda:1 or mps.",
)
@click.option(
    "--precision",
    default="float32",
    show_default=True,
    help="Precision of models and images: float16, bfloat16, float32 or float64.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images per batch.")
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Number of processes that load images.",
)
@click.option(
    "--root",
    type=_FOLDER,
    default=Path("data"),
    show_default=True,
    help="Folder of named data sets; downloads are written here.",
)
@click.option(
    "--out",
    type=_FOLDER,
    help="Folder for the report.  [default: captum-kd-report, or RUN/explain/fold1]",
)
@click.option(
    "--resume/--restart",
    default=True,
    show_default=True,
    help="Resume an interrupted run of the same models, images and options, or start again.",
)
@click.pass_context
def explain(ctx: click.Context, /, run: Path | None, out: Path | None, resume: bool, **given: Any) -> None:
    """Explain what distillation changed: in a student beside its base model, or in a distillation RUN.

    \b
    captum-kd explain --student student.pt --base base.pt --architecture resnet18 --images photos
    captum-kd explain RUN
    """
    if run is None and not all(given[name] for name in NEEDED):
        raise click.UsageError(
            "Give --student, --base, --architecture and --images; or the folder RUN of a distillation run."
        )
    own_models = {field.name: given.pop(field.name) for field in dataclasses.fields(ModelOptions)}
    typed = [name for name in own_models if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    superfluous = [_option(ctx, name) for name in typed if name != "architectures"]
    if run is not None and superfluous:
        raise click.UsageError(f"RUN brings its own models and images: leave out {', '.join(superfluous)}.")
    with explained_errors("Choose another folder with --out."):
        if run is not None and not run.is_dir():
            raise ValueError(f"There is no folder {run}.")
        # Nothing is written before models, images and options are known to be good.
        folder = out or default_folder(run, given["fold"])
        check_writable(folder)
        options = ExplainOptions(**given)
        source = ModelOptions(**own_models) if run is None else run
        try:
            report, table = _explain(
                *(source, options, folder),
                factories=own_models["architectures"],
                command=ctx.meta["typed"],
                resume=resume,
            )
        except KeyboardInterrupt:
            message = f"\nStopped. Finished parts are kept in {folder}; the same command resumes."
            click.echo(message, err=True)
            raise
    click.echo(table)
    click.echo(f"Open the report: {report.resolve().as_uri()}")


def _option(ctx: click.Context, name: str) -> str:
    return next(parameter.opts[0] for parameter in ctx.command.params if parameter.name == name)


def _explain(
    source: ModelOptions | Path,
    options: ExplainOptions,
    out: Path,
    *,
    factories: Sequence[str],
    command: str,
    resume: bool,
) -> tuple[Path, str]:
    """Compare and write; returns the path of the report, and the scores as a table."""
    from captum_kd.explain.report import CACHE, compare_inputs, write_report

    if isinstance(source, Path):
        from captum_kd.explain.from_run import inputs_from_run

        inputs = inputs_from_run(source, options, factories)
    else:
        from captum_kd.explain.from_checkpoints import inputs_from_checkpoints

        inputs = inputs_from_checkpoints(source, options)
    check_place(out, images=inputs.images.folder, run=source if isinstance(source, Path) else None)
    for note in inputs.notes:
        click.echo(note, err=True)
    cache = out / CACHE
    if not resume:
        shutil.rmtree(cache, ignore_errors=True)
    comparison = compare_inputs(inputs, options, command=command, cache=cache, progress=sys.stderr.isatty())
    report = write_report(comparison, out)
    shutil.rmtree(cache, ignore_errors=True)
    return report, comparison.to_markdown()
