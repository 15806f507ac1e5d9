"""Compare a subject's models, and write what was found into a folder."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from captum_kd.atomic import write_whole
from captum_kd.comparison.batches import SMALLEST_REFERENCE, SMALLEST_SCORED
from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from captum_kd.explain.subject import Subject
from captum_kd.models.activations import ReshapeTransform, layer_activations
from captum_kd.models.layers import find_layer
from captum_kd.models.tokens import channels_last, tokens_to_image
from captum_kd.report.page import png

CACHE = ".features"
OF_TOKENS = (
    "The layers give tokens (images, tokens, channels). They are laid out as a square image, in the order in "
    "which they come; class tokens and registers, which come before them, are left out. How far maps of "
    "transformers can be believed has not been measured."
)


class Loading(NamedTuple):
    """How images reach the models."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    batch_size: int = 32
    workers: int = 0


def compare_subject(
    subject: Subject, loading: Loading, *, limit: int, reference: int, cache: Path | None, **options: Any
) -> Comparison:
    """Run :func:`captum_kd.compare` on a subject.

    Args:
        subject: What is explained; its models are moved to the device.
        loading: Device, precision and batches.
        limit: How many images to score.
        reference: How many more, the first, are the maps' reference and not scored; where there are not so
            many images, a quarter of them.
        cache: See ``compare``.
        **options: Of ``compare``.

    Returns:
        The comparison; its settings also say what the images are called.

    Raises:
        ValueError: Too few images, and all that ``compare`` raises.
    """
    for model in subject.models():
        model.to(loading.device, loading.dtype)
    count = len(subject.images.names)
    first = reference if count >= limit + reference else min(reference, max(SMALLEST_REFERENCE, count // 4))
    if count - first < SMALLEST_SCORED:
        raise ValueError(
            f"{subject.images.name} has {count} images that can be used, but at least "
            f"{SMALLEST_REFERENCE + SMALLEST_SCORED} are needed: {SMALLEST_SCORED} to score, others as the "
            "reference of the maps. Hundreds make narrow intervals."
        )
    indices = range(count)
    held_out = list(_loader(subject.images.dataset, indices[:first], loading))
    reshape_transform = _reshape_transform(subject, held_out[0][0][:1].to(loading.device))
    comparison = compare(
        subject.students,
        subject.base,
        subject.layers,
        _loader(subject.images.dataset, indices[first:], loading),
        base_layers=subject.base_layers,
        teacher=subject.teacher,
        teacher_layers=subject.teacher_layers,
        label_embeddings=subject.label_embeddings,
        reference=held_out,
        reshape_transform=reshape_transform,
        device=loading.device,
        cache=cache,
        **options,
    )
    settings = dataclasses.replace(
        comparison.settings,
        reference_source="drawn at random from the same images, not scored",
        class_names=tuple(subject.images.class_names),
        image_names=tuple(subject.images.names[first : first + len(comparison.images)]),
        data=subject.images.name,
        skipped=tuple(subject.images.skipped),
        notes=(*subject.notes, *(() if reshape_transform is None else (OF_TOKENS,))),
    )
    return dataclasses.replace(comparison, settings=settings)


def write_report(comparison: Comparison, out: Path) -> Path:
    """Write the page, the scores, the comparison and its figures.

    Args:
        comparison: What was found.
        out: An existing folder.

    Returns:
        The path of the page.
    """
    write_whole(out / "comparison.safetensors", comparison.save)
    texts = {"scores.csv": comparison.to_csv(), "scores.json": comparison.to_json()}
    texts["report.html"] = comparison.to_html()
    for name, text in texts.items():
        write_whole(out / name, partial(Path.write_text, data=text, encoding="utf-8"))
    figures = out / "figures"
    figures.mkdir(exist_ok=True)
    for student in comparison.students:
        figure, _ = comparison.plot_scores(students=[student])
        _write_figure(figures, ["scores", student], figure)
        for layer in comparison.maps[student]:
            figure, _ = comparison.plot_maps(layer, student)
            _write_figure(figures, ["maps", student, layer], figure)
    return out / "report.html"


def _reshape_transform(subject: Subject, image: Tensor) -> ReshapeTransform | None:
    """What makes images of tokens, if any layer gives them."""
    layers = subject.layers
    pairs = [(model, layers) for model in subject.students.values()]
    pairs.append((subject.base, subject.base_layers or layers))
    if subject.teacher is not None:
        pairs.append((subject.teacher, subject.teacher_layers or layers))
    for model, names in pairs:
        modules = [find_layer(model, name) for name in names]
        # As they come, without the warning that some look like tokens.
        given = layer_activations(model, modules, image, reshape_transform=lambda value: value).activations
        if any(value.dim() == 3 or channels_last(value) for value in given):
            return tokens_to_image
    return None


def _write_figure(folder: Path, words: Sequence[str], figure: Any) -> None:
    name = re.sub(r"[^\w.-]+", "_", "-".join(words))
    write_whole(folder / f"{name}.png", lambda path: path.write_bytes(png(figure)))


def _loader(dataset: Dataset[Any], indices: Sequence[int], loading: Loading) -> _Batches:
    loader = DataLoader(Subset(dataset, indices), loading.batch_size, num_workers=loading.workers)
    return _Batches(loader, loading.dtype)


class _Batches:
    """The batches of a DataLoader with images in the models' precision."""

    def __init__(self, loader: DataLoader[Any], dtype: torch.dtype) -> None:
        self.loader, self.dtype = loader, dtype

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, target in self.loader:
            yield images.to(self.dtype), target
