"""Batches of images as ``compare`` reads them, and the samples that it holds out as the reference."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from tqdm import tqdm

from captum_kd._warn import warn
from captum_kd.attr.reference import Reference, read_reference
from captum_kd.metrics.copies import row_digests

SET_ASIDE = 64  # samples for the reference; a quarter of the data if there are fewer than four times as many
SMALLEST_REFERENCE = 3
SMALLEST_SCORED = 8
SHARED = (
    "reference and data hold the same images. Maps need a reference that is disjoint from what is "
    "scored: split the data set first, or pass reference=None to set a part of the data aside."
)

# Batches (images, target); a DataLoader gives them as lists.
Data: TypeAlias = Iterable[tuple[Tensor, Tensor] | list[Tensor]]
# Batches of images, with their target where it is known.
HeldOut: TypeAlias = Sequence[Tensor | tuple[Tensor, Tensor]]


class Batch(NamedTuple):
    """Images ``(n, c, h, w)`` and the class index of each."""

    images: Tensor
    target: Tensor


def read_batches(data: Data, device: torch.device, progress: bool = False) -> Iterator[Batch]:
    """Check each batch and move it to the device.

    Args:
        data: Batches ``(images, target)``.
        device: The device of the models.
        progress: Show a progress bar.

    Yields:
        The batches that hold images.

    Raises:
        TypeError: ``data`` is not iterable, or a target does not hold integers.
        ValueError: A batch is not ``(images, target)``, or the images differ in size.
    """
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise TypeError(
            "data must be a DataLoader, or another iterable of batches (images, target); got "
            f"{type(data).__name__}. Put tensors into a list, data=[(images, target)], and a Dataset into a "
            "DataLoader."
        )
    size = None
    for item in tqdm(data, "images", unit="batch", leave=False, disable=not progress):
        batch = _read_batch(item, device)
        size = size or batch.images.shape[1:]
        if batch.images.shape[1:] != size:
            raise ValueError(
                f"data must have images of one size, got {tuple(size)} and {tuple(batch.images.shape[1:])}."
            )
        if len(batch.images):
            yield batch


class DistinctBatches:
    """Batches without the images that came before, or that are in the reference.

    Images are the same if they are equal bit for bit. Rows are dropped before a model sees them, so a cache
    of features sees the same batches whenever the data are the same.

    Args:
        batches: The data.
        held_out: The reference, if it is not a part of the data.

    Attributes:
        positions: Where in the data each image is that was kept, counted from 0.
        copies: How many images were left out since they came before.
        contradictory: How many of these came with another target than the first time.
        shared: How many images were left out since they are in the reference.

    Example:
        >>> image = torch.randn(3, 3, 4, 4)
        >>> data = [Batch(image, torch.arange(3)), Batch(image[[1, 1]] + 1, torch.ones(2, dtype=torch.long))]
        >>> distinct = DistinctBatches(data, [image[:1]])
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     [len(batch.target) for batch in distinct], distinct.positions
        ([2, 1], [1, 2, 3])
    """

    def __init__(self, batches: Iterable[Batch], held_out: HeldOut = ()) -> None:
        self.batches = batches
        self.positions: list[int] = []
        self.copies = self.contradictory = self.shared = 0
        self._held_out = set(reference_digests(held_out))

    @property
    def left_out(self) -> int:
        """How many images were left out."""
        return self.copies + self.shared

    def __iter__(self) -> Iterator[Batch]:
        """Read the data once.

        Raises:
            ValueError: All images are in the reference.

        Warns:
            UserWarning: At the end, if images were left out.
        """
        targets: dict[bytes, int] = {}
        count = 0
        for batch in self.batches:
            new = []
            rows = zip(row_digests(batch.images), batch.target.tolist(), strict=True)
            for row, (digest, target) in enumerate(rows):
                if digest in self._held_out:
                    self.shared += 1
                elif digest in targets:
                    self.copies += 1
                    self.contradictory += target != targets[digest]
                else:
                    targets[digest] = target
                    new.append(row)
            self.positions += [count + row for row in new]
            count += len(batch.target)
            if len(new) == len(batch.target):
                yield batch
            elif new:
                yield Batch(*(value[new] for value in batch))
        if count and not targets:
            raise ValueError(SHARED)
        self._warn(count)

    def _warn(self, count: int) -> None:
        if self.copies:
            other = f" {self.contradictory} of them came with another target, which was ignored."
            warn(
                f"{self.copies} of the {count} images of data are identical to earlier ones and were left "
                "out, so that each is scored once. A sampler with replacement makes such copies: turn it "
                "off. Copies that are scored as often as they come make chance look like a finding."
                + (other if self.contradictory else "")
            )
        if self.shared:
            warn(
                f"{self.shared} of the {count} images of data are in the reference and were not scored. "
                "Split the data set first, or pass reference=None."
            )


def set_aside(batches: Iterable[Batch]) -> tuple[list[Batch], Iterator[Batch]]:
    """Split off the first samples as the reference: 64, or a quarter if there are fewer than 256.

    Args:
        batches: The data. At most 256 samples and one batch are held in memory.

    Returns:
        The reference, and the other batches.

    Raises:
        ValueError: There are too few samples for a reference and for scores.

    Warns:
        UserWarning: The reference holds one class only.

    Example:
        >>> batches = [Batch(torch.zeros(20, 3, 4, 4), torch.arange(20)) for _ in range(2)]
        >>> reference, others = set_aside(batches)
        >>> [len(b.target) for b in reference], [len(b.target) for b in others]
        ([10], [10, 20])
    """
    remaining, held, count = iter(batches), [], 0
    for batch in remaining:
        held.append(batch)
        count += len(batch.target)
        if count >= 4 * SET_ASIDE:
            break
    size = min(SET_ASIDE, max(SMALLEST_REFERENCE, count // 4))
    if count and count - size < SMALLEST_SCORED:
        raise ValueError(
            f"data has {count} images, but at least {SMALLEST_REFERENCE + SMALLEST_SCORED} are needed: "
            f"{SMALLEST_SCORED} to score, and others as the reference of the maps. Pass more images, or a "
            "reference."
        )
    reference, others = [], []
    for batch in held:
        taken = min(size, len(batch.target))
        size -= taken
        if taken:
            reference.append(Batch(*(value[:taken] for value in batch)))
        if taken < len(batch.target):
            others.append(Batch(*(value[taken:] for value in batch)))
    if reference and all((b.target == reference[0].target[0]).all() for b in reference):
        warnings.warn(
            "The samples set aside as the reference are all of one class; the data seem to be sorted by "
            "class. Shuffle them, or pass a reference of all classes.",
            stacklevel=3,  # the caller of compare
        )
    return reference, itertools.chain(others, remaining)


def given_reference(
    reference: Reference, data: Data, batches: Iterator[Batch], device: torch.device
) -> tuple[HeldOut, Iterator[Batch]]:
    """Move the user's reference to the device, unless it plainly is the data.

    Images that it shares with the data later on are for :class:`DistinctBatches` to leave out.

    Args:
        reference: The reference as :class:`~captum_kd.UniCAM` takes it.
        data: The data as given.
        batches: The batches of the data.
        device: The device of the models.

    Returns:
        The reference, and all batches of the data.

    Raises:
        ValueError: ``reference`` is ``data`` or begins with the same images, or a sample of it has several
            inputs.

    Warns:
        UserWarning: The reference holds an image more than once.
    """
    if reference is data:
        raise ValueError(SHARED)
    read = read_reference(reference)
    if any(len(batch.inputs) != 1 for batch in read):
        raise ValueError("reference must hold one tensor of images per batch, got several inputs.")
    moved = [(b.inputs[0].to(device), None if b.target is None else b.target.to(device)) for b in read]
    first = next(batches, None)
    if first is not None:
        count = min(len(first.images), len(moved[0][0]))
        if torch.equal(first.images[:count], moved[0][0][:count]):
            raise ValueError(SHARED)
        batches = itertools.chain([first], batches)
    held_out: HeldOut = [images if target is None else (images, target) for images, target in moved]
    digests = reference_digests(held_out)
    copies = len(digests) - len(set(digests))
    if copies:
        warn(
            f"{copies} of the {len(digests)} images of the reference are identical to others in it, and so "
            "count more than once in every map. Take each image once."
        )
    return held_out, batches


def reference_digests(held_out: HeldOut) -> list[bytes]:
    """A digest of each image of a reference."""
    batches = [batch[0] if isinstance(batch, tuple) else batch for batch in held_out]
    return [digest for images in batches for digest in row_digests(images)]


def reference_size(held_out: HeldOut) -> int:
    """Count the samples of a reference."""
    return sum(len(batch[0] if isinstance(batch, tuple) else batch) for batch in held_out)


def check_scorable(target: Tensor) -> None:
    """Check that scores can be computed.

    Args:
        target: The class index of each sample.

    Raises:
        ValueError: There are fewer than 8 samples, or one class only.
    """
    if len(target) < SMALLEST_SCORED:
        raise ValueError(
            f"Scores with intervals need at least {SMALLEST_SCORED} images, got {len(target)}; for narrow "
            "intervals pass several hundred."
        )
    if (target == target[0]).all():
        raise ValueError(
            f"All {len(target)} scored images are of class {int(target[0])}, so relevance has nothing to "
            "follow. Pass images of several classes."
        )


def _read_batch(item: Any, device: torch.device) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) != 2 or not isinstance(item[0], Tensor):
        given = (
            f"a {type(item).__name__} of {len(item)} ({', '.join(type(v).__name__ for v in item)})"
            if isinstance(item, (tuple, list))
            else type(item).__name__
        )
        raise ValueError(
            f"Every batch of data must be a pair (images, target) that begins with a tensor, got {given}."
        )
    images, target = item
    if images.dim() != 4 or not images.is_floating_point():
        raise ValueError(
            "The images of a batch must be a floating point tensor of shape (n, c, h, w), got "
            f"{images.dtype} of shape {tuple(images.shape)}. Put a Dataset into a DataLoader first."
        )
    target = torch.as_tensor(target)
    if target.shape != (len(images),):
        raise ValueError(
            f"The target of a batch must be one class index per image: got shape {tuple(target.shape)} for "
            f"{len(images)} images."
        )
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"The target of a batch must hold integer class indices, got {target.dtype}.")
    return Batch(images.to(device), target.long().to(device))
