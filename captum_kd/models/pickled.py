"""Reading what ``torch.save`` wrote, of which nothing is ever run."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals


def load_pickled(path: Path) -> Any:
    """Read a file of ``torch.save`` without running code in it.

    Besides tensors and plain Python objects, the types that trainers save as settings beside the weights are
    allowed: ``argparse.Namespace``, paths, dates, and NumPy scalars.

    Args:
        path: The file.

    Returns:
        What was saved, on the CPU.

    Raises:
        ValueError: The file is damaged, or holds anything else.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"epoch": 3, "options": argparse.Namespace(lr=0.1)}, f"{folder}/last.pth")
        ...     load_pickled(Path(folder, "last.pth"))
        {'epoch': 3, 'options': Namespace(lr=0.1)}
    """
    if _is_scripted(path):
        raise ValueError(
            f"{path} is a TorchScript archive, which holds code, so it is not loaded. Write the weights "
            "alone: torch.save(torch.jit.load(path).state_dict(), 'weights.pt')"
        )
    try:
        return _load_plain(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"an object of {named[1]}" if named else "objects that are no tensors"
        raise ValueError(
            f"{path} holds {what}, and loading that could run code, so it is not loaded. Write the weights "
            "alone: torch.save(model.state_dict(), path), or safetensors.torch.save_file."
        ) from error
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "weights_only" in reason:  # PyTorch's advice is to run the code in the file
            reason = (
                "it is of a kind that cannot be read without running code in it. Write the weights alone."
            )
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error


def _load_plain(path: Path) -> Any:
    """Read a file; if need be, with the harmless types that trainers put beside the weights."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        # Only now, because what is allowed is allowed in the whole process while the file is read.
        with safe_globals(list(_HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True)


def _is_scripted(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.search(r"(^|/)(constants\.pkl$|code/)", name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return False  # other formats, and files that are damaged


class _NumpyType:
    """The type of a NumPy scalar in a checkpoint. NumPy's own would take any memory layout from the file."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1] if state[1] in ("<", ">") else "="


def _numpy_scalar(kind: _NumpyType, content: bytes) -> Any:
    if not re.fullmatch(r"[biufc]\d+", kind.code):
        raise pickle.UnpicklingError(f"a NumPy scalar of type {kind.code!r}")
    return np.frombuffer(content, np.dtype(kind.order + kind.code), count=1)[0]


def _harmless() -> Iterator[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Types that hold settings beside the weights, and that run nothing whatever they are given."""
    yield argparse.Namespace
    yield from (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone)
    for module in ("pathlib", "pathlib._local"):  # Python 3.13 has them in another place
        # A path of another system cannot be made here, and all that is needed is that it does no harm.
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            yield getattr(pathlib, "Pure" + name.removeprefix("Pure")), f"{module}.{name}"
        yield pathlib.PurePath, f"{module}.PurePath"
        yield pathlib.PurePath, f"{module}.Path"
    for place in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield _numpy_scalar, f"{place}.scalar"
    yield _NumpyType, "numpy.dtype"
    yield from (
        np.bool_,
        np.float16,
        np.float32,
        np.float64,
        np.int8,
        np.int16,
        np.int32,
        np.int64,
        np.uint8,
    )


_HARMLESS = tuple(_harmless())
