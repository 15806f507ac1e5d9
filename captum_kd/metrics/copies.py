"""Samples that occur more than once.

A sampler with replacement, or copies in the data, give pairs at distance zero whose labels agree. Chance
alone then looks like a relation: the more copies, the smaller the p-values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from captum_kd._warn import warn

# Rows on the CPU at a time.
_ROWS = 256
# Rows of fewer bytes may repeat by chance.
_TELLING_BYTES = 8


def row_digests(*values: Tensor) -> list[bytes]:
    """A digest of each sample, equal for samples that are equal bit for bit.

    Args:
        *values: What each sample consists of, tensors ``(n, ...)`` on any device.

    Returns:
        ``n`` digests of 16 bytes.

    Example:
        >>> one, two, again = row_digests(torch.tensor([[0.5, 1.0], [0.5, 2.0], [0.5, 1.0]]))
        >>> one == again, one == two
        (True, False)
    """
    digests = [hashlib.blake2b(digest_size=16) for _ in range(len(values[0]))]
    for value in values:
        for start in range(0, len(value), _ROWS):
            # As bytes, since bfloat16 has no other way into a buffer.
            rows = _flat(value[start : start + _ROWS]).cpu().contiguous().view(torch.uint8).numpy()
            for digest, row in zip(digests[start:], rows, strict=False):
                digest.update(row.data)
    return [digest.digest() for digest in digests]


def first_of_each(keys: Sequence[Hashable]) -> list[int]:
    """The indices at which a key comes for the first time.

    Example:
        >>> first_of_each("abac")
        [0, 1, 3]
    """
    first: dict[Hashable, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    return list(first.values())


def warn_of_repeated_rows(features: Tensor, *others: Tensor) -> bool:
    """Warn if some samples seem to be there more than once, and return whether they are.

    Features alone do not tell for sure, so this warns only where most rows are unique and those that repeat
    cannot do so by chance: a silent layer, counts, and classes repeat all the time.

    Args:
        features: Features ``(n, ...)``.
        *others: Others of the same samples; a sample repeats if its row in each of them does.

    Example:
        >>> warn_of_repeated_rows(torch.zeros(8, 4))
        False
    """
    repeated = _repeated_rows(features, others)
    if repeated:
        warn(
            f"{repeated} of {len(features)} samples have exactly the features of an earlier one. If they are "
            "copies, as a sampler with replacement makes them, take each sample once: copies make chance "
            "look like a finding."
        )
    return repeated > 0


def _repeated_rows(features: Tensor, others: Sequence[Tensor]) -> int:
    rows = _flat(features)
    if rows.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or not rows.numel():
        return 0
    if rows.shape[1] * rows.element_size() < _TELLING_BYTES:
        return 0
    telling = ((rows != rows[:, :1]).any(dim=1) & (rows != rows.round()).any(dim=1)).cpu()
    kinds = torch.stack([_kind(value) for value in (features, *others)], dim=1)
    distinct, kind = torch.unique(kinds, dim=0, return_inverse=True)
    if 2 * len(distinct) <= len(rows):
        return 0
    return int(telling.sum()) - len(torch.unique(kind[telling]))


def _kind(values: Tensor) -> Tensor:
    """A number for each row, the same for equal rows."""
    rows = _flat(values)
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    kinds: Tensor = torch.unique(rows, dim=0, return_inverse=True)[1]
    return kinds.cpu()


def _flat(values: Tensor) -> Tensor:
    return values.detach().reshape(len(values), values.shape[1:].numel())
