"""Files that a kill, a full disk or a bad sector damaged: found when they are read, and set aside."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from captum_kd._warn import warn
from captum_kd.atomic import write_whole


class DamagedFileError(ValueError):
    """A file of a run that is not what was written.

    Args:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}.")
        self.path = path
        self.reason = reason


def set_aside(paths: Sequence[Path], why: str, then: str) -> None:
    """Rename files, or folders in their place, and say so in a warning.

    Args:
        paths: What to rename; what is not there is left out.
        why: What is wrong, as the beginning of a sentence.
        then: What happens instead, as the end of one.

    Example:
        >>> import tempfile, warnings
        >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        ...     warnings.simplefilter("always")
        ...     Path(folder, "a.json").touch()
        ...     set_aside([Path(folder, "a.json")], "a.json is empty", "is written again")
        ...     print(os.listdir(folder), said[0].message)
        ['a.json.damaged'] a.json is empty. a.json was set aside as a.json.damaged and is written again.
    """
    moved = []
    for path in paths:
        if os.path.lexists(path):
            target, count = path.with_name(f"{path.name}.damaged"), 1
            while os.path.lexists(target):
                count += 1
                target = path.with_name(f"{path.name}.damaged-{count}")
            path.rename(target)
            moved.append(f"{path.name} was set aside as {target.name}")
    warn(f"{why}. {', '.join(moved)} and {then}.")


def is_stray(path: Path, names: Sequence[str]) -> bool:
    """Whether a file is what a kill leaves of :func:`~captum_kd.atomic.write_whole` of one of these names."""
    wanted = "|".join(map(re.escape, names))
    return re.fullmatch(rf"\.({wanted})\.([0-9a-f]{{16}}|[a-z0-9_]{{8}})", path.name) is not None


def write_bytes(path: Path, contents: bytes) -> None:
    """Write a file that appears whole or not at all, even if the power fails.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder, "a.bin"), b"whole")
        ...     Path(folder, "a.bin").read_bytes()
        b'whole'
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(contents)
        flush_to_disk(temporary)

    write_whole(path, write)


def flush_to_disk(path: Path) -> None:
    """Wait until the contents of a file are on the disk, so that a later renaming cannot overtake them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def digest_of_text(value: object) -> str:
    """SHA-256 of a value of JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def digest_of_weights(weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of tensors with their names and metadata, in hexadecimal.

    Not of a file's bytes, because safetensors writes metadata in any order.

    Example:
        >>> weights = {"a": torch.ones(2), "b": torch.tensor(1)}
        >>> same = digest_of_weights(dict(reversed(weights.items())), {})
        >>> digest_of_weights(weights, {}) == same, digest_of_weights(weights, {"a": "b"}) == same
        (True, False)
    """
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinite values.

    Example:
        >>> not_finite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": torch.tensor(3)})
        ['b']
    """
    return [
        name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()
    ]
