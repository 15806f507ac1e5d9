"""Reading weights from safetensors files and from those of ``torch.save``, without running code in them."""

from __future__ import annotations

import difflib
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

_NAMED_KEYS = 3  # how many differing keys a message names
# What trainers call the state dict within a checkpoint, most common first.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "model_ema", "net", "student", "weights")


class Checkpoint(NamedTuple):
    """The content of a checkpoint file, as :func:`read_checkpoint` returns it.

    Attributes:
        path: The file that was read.
        weights: The tensors by key, on the CPU, with the prefixes that they have in the file.
        metadata: The metadata of a safetensors file; empty for other files.
    """

    path: Path
    weights: dict[str, Tensor]
    metadata: dict[str, str]

    def output_size(self, model: nn.Module) -> int | None:
        """Return the number of classes that the checkpoint distinguishes, where the weights show it.

        Args:
            model: The architecture, with any number of classes.

        Returns:
            The number of rows of the weight of the last linear or convolutional layer; None if the checkpoint
            lacks that weight, or holds several of different sizes.

        Example:
            >>> checkpoint = Checkpoint(Path("a.pt"), nn.Linear(2, 3).state_dict(prefix="head."), {})
            >>> checkpoint.output_size(nn.ModuleDict({"head": nn.Linear(2, 10)}))
            3
        """
        heads = [name for name, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        if not heads:
            return None
        key = f"{heads[-1]}.weight"
        sizes = {len(v) for name, v in self.weights.items() if name == key or name.endswith("." + key)}
        return sizes.pop() if len(sizes) == 1 else None

    def load_into(self, model: nn.Module, part: str = "") -> None:
        """Load the weights into a model; see :func:`load_weights`.

        Raises:
            ValueError: The weights do not fit the model; the message names the first keys that differ.
        """
        own = model.state_dict()
        found = _without_prefix(self.weights, own, part, self.path)
        differences = _differences(found, own)
        if differences:
            count = f"{len(differences)} key{'s differ' if len(differences) > 1 else ' differs'}"
            more = len(differences) - _NAMED_KEYS
            first = "; ".join(differences[:_NAMED_KEYS]) + (f"; and {more} more" if more > 0 else "")
            architecture = self.metadata.get("architecture")
            written = f" It was written for {architecture}." if architecture else ""
            raise ValueError(f"{self.path} does not fit {type(model).__name__}: {count}: {first}.{written}")
        model.load_state_dict(found)


def load_weights(model: nn.Module, path: str | os.PathLike[str], part: str = "") -> None:
    """Load a checkpoint's weights into a model.

    Prefixes that wrappers put before the keys ("module.", "_orig_mod.", or the attribute of a LightningModule
    that holds the network) are removed.

    Args:
        model: The model, changed in place.
        path: A safetensors file; or a file written by ``torch.save`` with a state dict or a Lightning
            checkpoint, read with ``weights_only=True``.
        part: The prefix of this model's keys, for instance "student", if the checkpoint holds several models
            that fit. Empty: the only prefix that fits.

    Raises:
        ValueError: The file is missing, cannot be read safely, holds no weights, or does not fit the model;
            the message names the first keys that differ.

    Example:
        >>> import tempfile
        >>> weights = {f"network.{key}": value for key, value in nn.Linear(2, 3).state_dict().items()}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": weights}, f"{folder}/last.ckpt")
        ...     load_weights(nn.Linear(2, 3), f"{folder}/last.ckpt")
        ...     load_weights(nn.Linear(5, 3), f"{folder}/last.ckpt")
        Traceback (most recent call last):
        ValueError: ...last.ckpt does not fit Linear: 1 key differs: weight (3 x 2 in the file, 3 x 5 in the
        model).
    """
    read_checkpoint(path).load_into(model, part)


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint file once, for all that is asked of it.

    Args:
        path: See :func:`load_weights`.

    Returns:
        The tensors by key, and the metadata of a safetensors file.

    Raises:
        ValueError: The file is missing, cannot be read safely or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _names_in(path.parent), n=3)
        hint = f" Did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
        raise ValueError(f"There is no checkpoint {path}.{hint}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                weights = {key: file.get_tensor(key) for key in sorted(file.keys())}
                return Checkpoint(path, weights, file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}.") from error
    return Checkpoint(path, _state_dict(_load_pickled(path), path), {})


def _load_pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"an object of {named[1]}" if named else "objects that are no tensors"
        raise ValueError(
            f"{path} holds {what}, and loading that could run code, so it is not loaded. Write the weights "
            "alone: torch.save(model.state_dict(), path), or safetensors.torch.save_file."
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable checkpoint: {reason}") from error


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in what was loaded."""
    if isinstance(content, Mapping):
        for key in _CONTAINERS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
                content = inner
                break
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        held = f"a dictionary with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"
    else:
        held = f"a {type(content).__name__}"
    raise ValueError(
        f"{path} holds {held}, but a state dict is needed, or a checkpoint with one in 'state_dict'."
    )


def _without_prefix(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], part: str, path: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The keys of one model, as that model calls them."""
    first = next(iter(own), "")
    prefixes = {key[: -len(first)] for key in weights if key.endswith("." + first)}
    fitting = sorted(
        prefix
        for prefix in prefixes
        if all(prefix + key in weights and weights[prefix + key].shape == own[key].shape for key in own)
    )
    if part:
        wanted = part.rstrip(".") + "."
        chosen = {key[len(wanted) :]: value for key, value in weights.items() if key.startswith(wanted)}
        if not chosen:
            listed = ", ".join(prefix.rstrip(".") for prefix in fitting) or "none"
            raise ValueError(f"{path} has no keys that begin with {wanted!r}; what fits in it: {listed}.")
        return chosen
    if any(key in weights for key in own):
        return dict(weights)
    if len(fitting) > 1:
        raise ValueError(
            f"{path} holds several models that fit: {', '.join(p.rstrip('.') for p in fitting)}. Say which "
            f"with part=, or ::{fitting[0].rstrip('.')} (or another of these) after the path."
        )
    # Where none fits, the one that fits most makes the message that helps most.
    ranked = sorted(prefixes, key=lambda prefix: -sum(prefix + key in weights for key in own))
    chosen_prefix = next(iter(fitting or ranked), "")
    return {k.removeprefix(chosen_prefix): v for k, v in weights.items() if k.startswith(chosen_prefix)}


def _differences(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from fitting, key by key, in the order of the model's keys."""
    differences = []
    for key, value in own.items():
        if key not in found:
            differences.append(f"{key} is missing from the file")
        elif found[key].shape != value.shape:
            differences.append(f"{key} ({_shape(found[key])} in the file, {_shape(value)} in the model)")
    return differences + [f"{key} is not in the model" for key in found if key not in own]


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a scalar"


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []
