"""Compare the models, and write the result into a folder."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from captum_kd.atomic import write_whole
from captum_kd.comparison.batches import SMALLEST_REFERENCE, SMALLEST_SCORED
from captum_kd.comparison.compare import DEFAULT_METHODS, compare
from captum_kd.comparison.result import Comparison
from captum_kd.explain.images import ExplainedImages
from captum_kd.explain.inputs import ComparisonInputs
from captum_kd.explain.options import ExplainOptions
from captum_kd.models.activations import ReshapeTransform, layer_activations
from captum_kd.models.layers import find_layer
from captum_kd.models.tokens import channels_last, tokens_to_image
from captum_kd.report.page import png

CACHE = ".features"
_LONGEST_NAME = 180  # bytes of a file name; most systems allow 255, and temporary files add some
OF_TOKENS = (
    "The layers give tokens (images, tokens, channels). They are laid out as a square image in their order; "
    "class tokens and registers, which come before them, are left out. How faithful maps of transformers are "
    "has not been measured."
)


def compare_inputs(
    inputs: ComparisonInputs,
    options: ExplainOptions,
    *,
    command: str,
    cache: Path | None = None,
    progress: bool = False,
) -> Comparison:
    """Run :func:`captum_kd.compare` on what the command loaded.

    The first images are the reference of the maps and are not scored: as many as the options say, or a
    quarter of the images if there are too few.

    Args:
        inputs: Models and images; the models are moved to the device.
        options: How they are compared.
        command: The command, for the report.
        cache: See ``compare``.
        progress: Show progress bars.

    Returns:
        The comparison; its settings include command, data, names and notes.

    Raises:
        ValueError: There are too few images; and all that ``compare`` raises.
    """
    device = options.torch_device()
    for model, _ in inputs.models():
        model.to(device, options.dtype)
    dataset, count = inputs.images.dataset, len(inputs.images.names)
    reference = options.reference
    if count < options.drawn:
        reference = min(reference, max(SMALLEST_REFERENCE, count // 4))
    if count - reference < SMALLEST_SCORED:
        raise ValueError(
            f"{inputs.images.name} has {count} images that can be used, but at least "
            f"{SMALLEST_REFERENCE + SMALLEST_SCORED} are needed: {SMALLEST_SCORED} to score, others as the "
            "reference of the maps. Hundreds make narrow intervals."
        )
    held_out = list(_Batches(dataset, range(reference), options))
    reshape_transform = _reshape_transform(inputs, held_out[0][0][:1].to(device))
    comparison = compare(
        inputs.students,
        inputs.base,
        inputs.layers,
        _Batches(dataset, range(reference, count), options),
        base_layers=inputs.base_layers,
        teacher=inputs.teacher,
        teacher_layers=inputs.teacher_layers,
        label_embeddings=inputs.label_embeddings,
        reference=held_out,
        reshape_transform=reshape_transform,
        methods=options.methods or DEFAULT_METHODS,
        shown=options.shown,
        kept_share=options.kept_share,
        seed=options.seed,
        device=device,
        cache=cache,
        progress=progress,
    )
    shown = [inputs.images.names[reference + position] for position in comparison.settings.positions]
    notes = [*inputs.notes, *([] if reshape_transform is None else [OF_TOKENS])]
    return _described(comparison, inputs.images, shown, notes, command)


def _described(
    comparison: Comparison, images: ExplainedImages, shown: list[str], notes: list[str], command: str
) -> Comparison:
    """The comparison with what only this command knows about it."""
    settings = dataclasses.replace(
        comparison.settings,
        command=command,
        reference_source="drawn at random from the same images, not scored",
        class_names=tuple(images.class_names),
        image_names=tuple(shown),
        data=images.name,
        skipped=tuple(images.skipped),
        notes=tuple(notes),
    )
    return dataclasses.replace(comparison, settings=settings)


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write the page, the scores, the comparison and its figures.

    Args:
        comparison: The comparison.
        out: The folder; it is made if need be.

    Returns:
        The path of the page.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "comparison.safetensors", comparison.save)
    texts = {"scores.csv": comparison.to_csv(), "scores.json": comparison.to_json()}
    texts["report.html"] = comparison.to_html()
    for name, text in texts.items():
        write_whole(out / name, partial(Path.write_text, data=text, encoding="utf-8"))
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    taken: set[str] = set()
    for student in comparison.students:
        figure, _ = comparison.plot_scores(students=[student])
        _write_figure(figures, file_name(["scores", student], taken), figure)
        for layer in comparison.maps[student]:
            figure, _ = comparison.plot_maps(layer, student)
            _write_figure(figures, file_name(["maps", student, layer], taken), figure)
    return out / "report.html"


def _reshape_transform(inputs: ComparisonInputs, image: Tensor) -> ReshapeTransform | None:
    """The transform that lays tokens out as images, if any layer gives tokens."""
    for model, names in inputs.models():
        modules = [find_layer(model, name) for name in names]
        # As they come, without the warning that some look like tokens.
        given = layer_activations(model, modules, image, reshape_transform=lambda value: value).activations
        if any(value.dim() == 3 or channels_last(value) for value in given):
            return tokens_to_image
    return None


def file_name(words: Sequence[str], taken: set[str]) -> str:
    """Make a name for a file that no other has.

    Args:
        words: What is in the file.
        taken: The names that are taken, without regard to case; the new one is added.

    Returns:
        The words without what not every system allows; a number follows where the name is taken.

    Example:
        >>> taken = set()
        >>> [file_name(["maps", student], taken) for student in ("a b", "a?b", "A b")]
        ['maps-a_b', 'maps-a_b-2', 'maps-A_b-3']
    """
    plain = re.sub(r"[^\w.-]+", "_", "-".join(words))
    while len(plain.encode()) > _LONGEST_NAME:
        plain = plain[:-1]
    name, number = plain, 1
    while unicodedata.normalize("NFKC", name).casefold() in taken:
        number += 1
        name = f"{plain}-{number}"
    taken.add(unicodedata.normalize("NFKC", name).casefold())
    return name


def _write_figure(folder: Path, name: str, figure: Figure) -> None:
    write_whole(folder / f"{name}.png", lambda path: path.write_bytes(png(figure)))


class _Batches:
    """Batches of some images, in the models' precision."""

    def __init__(
        self, dataset: Dataset[tuple[Tensor, int]], indices: Sequence[int], options: ExplainOptions
    ) -> None:
        some = Subset(dataset, indices)
        self.loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            some, options.batch_size, num_workers=options.workers
        )
        self.dtype = options.dtype

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, target in self.loader:
            yield images.to(self.dtype), target
