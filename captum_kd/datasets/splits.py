"""Seeded splits in which every class keeps its share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor


def class_splits(
    labels: Tensor, folds: int, seed: int, class_names: Sequence[str] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Split items into training and validation parts, each class in proportion.

    Stratified k-fold cross-validation with shuffling, as in scikit-learn's ``StratifiedKFold``: the
    validation parts are disjoint and together hold every item.

    Args:
        labels: Class of each item, integers, ``(n,)``.
        folds: Number of splits. 1 gives a single split whose validation part is one fifth of the items: the
            first of five folds.
        seed: Seed of the shuffling, 0 to 2**32 - 1. The same arguments give the same splits.
        class_names: Names for error messages; without them a class is named by its index.

    Returns:
        For each fold, the indices of its training items and of its validation items: both int64, ascending.

    Raises:
        TypeError: ``labels`` are not integers, or ``folds`` is not an integer.
        ValueError: ``labels`` are not one-dimensional, ``folds`` or ``seed`` is out of range, or a class has
            fewer items than there are folds (with ``folds=1``, fewer than five).

    Example:
        >>> train, validation = class_splits(torch.tensor([0] * 8 + [1] * 12), folds=4, seed=0)[0]
        >>> len(train), len(validation)
        (15, 5)
        >>> torch.tensor([0] * 8 + [1] * 12)[validation]
        tensor([0, 0, 1, 1, 1])
    """
    _check_labels(labels)
    if isinstance(folds, bool) or not isinstance(folds, int):
        raise TypeError(f"folds is {folds!r}; an integer of at least 1 needed")
    if folds < 1:
        raise ValueError(f"folds is {folds}; at least 1 needed")
    check_seed(seed)
    parts = 5 if folds == 1 else folds
    classes, counts = torch.unique(labels, return_counts=True)
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        if count < parts:
            name = f"{class_names[label]!r}" if class_names else str(label)
            what = "one fifth of each class is held out" if folds == 1 else f"there are {folds} folds"
            raise ValueError(
                f"class {name} has {count} image{'s' * (count != 1)}, but at least {parts} are needed, "
                f"since {what}; add images, leave the class out or use fewer folds"
            )
    kfold = StratifiedKFold(parts, shuffle=True, random_state=seed)
    # The features do not matter to the split; the labels stand in for them.
    splits = [
        (torch.from_numpy(train), torch.from_numpy(validation))
        for train, validation in kfold.split(labels.cpu().numpy(), labels.cpu().numpy())
    ]
    return splits[:folds]


def balanced_indices(labels: Tensor, limit: int, seed: int) -> Tensor:
    """Choose at most ``limit`` items at random, as many of one class as of another.

    If a class has too few items, the others make up for it, each by the same number.

    Args:
        labels: Class of each item, integers, ``(n,)``.
        limit: How many items to keep, at least one of each class.
        seed: Seed of the choice.

    Returns:
        Indices of the chosen items, int64, ascending.

    Raises:
        TypeError: ``labels`` or ``limit`` are not integers.
        ValueError: ``labels`` are not one-dimensional, or ``limit`` is below the number of classes.

    Example:
        >>> labels = torch.tensor([0] * 10 + [1] * 3 + [2] * 10)
        >>> labels[balanced_indices(labels, limit=9, seed=0)].bincount()
        tensor([3, 3, 3])
        >>> labels[balanced_indices(labels, limit=13, seed=0)].bincount()
        tensor([5, 3, 5])
    """
    _check_labels(labels)
    check_seed(seed)
    classes = torch.unique(labels)
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit is {limit!r}; an integer needed")
    if limit < len(classes):
        raise ValueError(
            f"limit is {limit}; at least {len(classes)} needed, one image for each of the "
            f"{len(classes)} classes"
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty_like(labels, dtype=torch.int64)  # how many of its class come before an item
    for label in classes:
        of_class = order[labels[order] == label]
        rank[of_class] = torch.arange(len(of_class))
    return order[rank[order].argsort(stable=True)[:limit]].sort().values


def check_seed(seed: int) -> None:
    """Raise a ValueError unless ``seed`` is an integer that PyTorch and scikit-learn accept."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed!r}; an integer from 0 to 2**32 - 1 needed")


def _check_labels(labels: Tensor) -> None:
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels have dtype {labels.dtype}; integer class indices needed")
    if labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels have shape {tuple(labels.shape)}; (n,) with n >= 1 needed")
