"""Reading weights from safetensors files and from those of ``torch.save``, without running code in them."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from captum_kd._warn import warn
from captum_kd.models.pickled import load_pickled

_NAMED_KEYS = 3  # how many differing keys a message names
# What trainers call the state dict of the model that they train, most common first. Where a file holds one of
# these, it is taken before averages of it (ema), and before teachers and others, which have to be named.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "module")
_DEEPEST = 4  # how deep within a file state dicts are looked for
_NOT_WEIGHTS = re.compile(r"optim|sched|scaler|callback|loops|rng", re.IGNORECASE)


class LoadedPart(NamedTuple):
    """Which of the models in a checkpoint was loaded.

    Attributes:
        part: The part, as ``::PART`` names it; empty for a file that holds one model and nothing else.
        others: Other parts with weights.
        fitting: Those of them that fit the model, too.
    """

    part: str
    others: tuple[str, ...]
    fitting: tuple[str, ...]

    def note(self, path: Path) -> str:
        """Say which part was loaded and which others there are; empty if there are no others.

        Example:
            >>> LoadedPart("state_dict", ("state_dict_ema",), ("state_dict_ema",)).note(Path("last.pth"))
            "Of last.pth, the part 'state_dict' was loaded; it also holds state_dict_ema. ..."
        """
        if not self.others:
            return ""
        first = (self.fitting or self.others)[0]
        own = repr(self.part) if self.part else "at the top"
        return (
            f"Of {path}, the part {own} was loaded; it also holds {', '.join(self.others)}. To load another, "
            f"write it after the path: {path.name}::{first}"
        )


class Checkpoint(NamedTuple):
    """The content of a checkpoint file, as :func:`read_checkpoint` returns it.

    Attributes:
        path: The file that was read.
        weights: The tensors by key, on the CPU, with the prefixes that they have in the file; of a file with
            several state dicts, those of the first by the order in which trainers' names are known.
        metadata: The metadata of a safetensors file; empty for other files.
        part: The key that leads to these weights within the file, for instance "state_dict".
        others: The weights of the file's other state dicts, by the keys that lead to them.
    """

    path: Path
    weights: Mapping[str, Tensor]
    metadata: dict[str, str]
    part: str = ""
    others: Mapping[str, Mapping[str, Tensor]] = {}

    def output_size(self, model: nn.Module, part: str = "") -> int | None:
        """Return the number of classes that the checkpoint distinguishes, where the weights show it.

        Args:
            model: The architecture, with any number of classes.
            part: See :func:`load_weights`.

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
        weights = next((weights for _, weights in self._named(part)), self.weights)
        sizes = {len(v) for name, v in weights.items() if name == key or name.endswith("." + key)}
        return sizes.pop() if len(sizes) == 1 else None

    def load_into(self, model: nn.Module, part: str = "") -> LoadedPart:
        """Load the weights into a model; see :func:`load_weights`.

        Returns:
            Which part was loaded, and which others there are.

        Raises:
            ValueError: The weights do not fit the model, or several that no trainer's name ranks do; the
                message names the first keys that differ, or the parts.
        """
        own: Mapping[str, Tensor] = model.state_dict()
        container, found = self._choose(own, part)
        differences = _differences(found, own)
        if differences:
            count = f"{len(differences)} key{'s differ' if len(differences) > 1 else ' differs'}"
            more = len(differences) - _NAMED_KEYS
            first = "; ".join(differences[:_NAMED_KEYS]) + (f"; and {more} more" if more > 0 else "")
            architecture = self.metadata.get("architecture", "")
            # Anybody may have written it, so no more than a name is shown.
            written = (
                f" It was written for {architecture}." if re.fullmatch(r"[\w.:-]{1,80}", architecture) else ""
            )
            if self.others:
                where = repr(container) if container else "at the top"
                written += f" This is its part {where}; it also holds {', '.join(self._others(container))}."
            raise ValueError(f"{self.path} does not fit {type(model).__name__}: {count}: {first}.{written}")
        versions = getattr(found, "_metadata", None) or getattr(own, "_metadata", None)
        if versions:
            # Keys and shapes are the model's, so where a file has no versions of modules, the model's hold.
            found._metadata = versions  # type: ignore[attr-defined]
        model.load_state_dict(found)
        parts = self._parts()
        others = self._others(container)
        fitting = tuple(name for name in others if _fitting(parts[name], own))
        return LoadedPart(part or container, others, fitting)

    def _parts(self) -> dict[str, Mapping[str, Tensor]]:
        return {self.part: self.weights, **self.others}

    def _others(self, container: str) -> tuple[str, ...]:
        return tuple(name for name in self._parts() if name and name != container)

    def _named(self, part: str) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """The state dicts that a part names, with the keys that lead to them."""
        part = part.rstrip(".")
        if not part:
            return
        parts = self._parts()
        if part in parts:
            yield part, parts[part]
            return
        below = [name for name in parts if name.startswith(part + ".")]
        usual = [name for name in below if name.rpartition(".")[2] in _CONTAINERS]
        for name in (below if len(below) == 1 else usual)[:1]:
            yield name, parts[name]
            return
        for name, weights in parts.items():
            inner = part.removeprefix(name + ".") if name else part
            for prefix in dict.fromkeys((inner, part)):
                chosen = _below(weights, prefix + ".")
                if chosen:
                    yield name, chosen
                    break

    def _choose(self, own: Mapping[str, Tensor], part: str) -> tuple[str, OrderedDict[str, Tensor]]:
        """The state dict to load, under the model's own keys, and the key that leads to it."""
        parts = self._parts()
        fits = {name: _fitting(weights, own) for name, weights in parts.items()}
        if part:
            named = next(self._named(part), None)
            if named is None:
                known = [
                    _joined(name if name != self.part else "", p) for name in parts for p in fits[name]
                ] + list(self.others)
                listed = ", ".join(dict.fromkeys(word for word in known if word)) or "none"
                raise ValueError(
                    f"{self.path} has no keys that begin with {part.rstrip('.') + '.'!r}; what fits in it: "
                    f"{listed}."
                )
            container, weights = named
            if part.rstrip(".") != container and not container.startswith(part.rstrip(".") + "."):
                return container, weights if isinstance(weights, OrderedDict) else OrderedDict(weights)
            return container, _without_prefix(weights, own, self.path, container)
        container = self.part
        ranked = _is_usual(container)
        if not (ranked and fits[container]):
            others = [name for name in parts if fits[name]]
            if len(others) > 1:
                raise _several(self.path, others)
            container = others[0] if others else container
        return container, _without_prefix(
            parts[container], own, self.path, container if container != self.part else ""
        )


def load_weights(model: nn.Module, path: str | os.PathLike[str], part: str = "") -> None:
    """Load a checkpoint's weights into a model.

    Prefixes that wrappers put before the keys ("module.", "_orig_mod.", or the attribute of a LightningModule
    that holds the network) are removed.

    Args:
        model: The model, changed in place.
        path: A safetensors file; or a file written by ``torch.save`` with a state dict or a Lightning
            checkpoint, read with ``weights_only=True``.
        part: Which model of a file that holds several: the key of its state dict, for instance
            "state_dict_ema"; the prefix of its keys, for instance "student"; or both: "state_dict_ema.net".
            Empty: the state dict of the trained model where trainers' names tell which it is, otherwise the
            only one that fits. If others fit as well, a warning names them.

    Raises:
        ValueError: The file is missing, cannot be read safely, holds no weights, or does not fit the model;
            the message names the first keys that differ.

    Example:
        >>> import tempfile, torch
        >>> weights = {f"network.{key}": value for key, value in nn.Linear(2, 3).state_dict().items()}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": weights}, f"{folder}/last.ckpt")
        ...     load_weights(nn.Linear(2, 3), f"{folder}/last.ckpt")
        ...     load_weights(nn.Linear(5, 3), f"{folder}/last.ckpt")
        Traceback (most recent call last):
        ValueError: ...last.ckpt does not fit Linear: 1 key differs: weight (3 x 2 in the file, 3 x 5 in the
        model).
    """
    checkpoint = read_checkpoint(path)
    loaded = checkpoint.load_into(model, part)
    if loaded.fitting and not part:
        warn(loaded.note(checkpoint.path))


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
    return _checkpoint(load_pickled(path), path)


def _checkpoint(content: Any, path: Path) -> Checkpoint:
    """Find the state dicts of a loaded file, which may be inside containers."""
    if not isinstance(content, Mapping):
        held = f"a {type(content).__name__}"
    else:
        parts = dict(_state_dicts(content, "", _DEEPEST))
        own = parts.pop("", None)
        known = sorted(filter(_is_usual, parts), key=lambda name: _CONTAINERS.index(name.split(".")[0]))
        # Counters and the like may be tensors beside the state dict.
        if own is not None and not known:
            return Checkpoint(path, own, {}, "", _models(parts))
        if parts:
            first = next(iter([*known, *_models(parts), *parts]))
            return Checkpoint(path, parts.pop(first), {}, first, _models(parts))
        held = f"a dictionary with {', '.join(map(repr, list(content)[:5])) or 'nothing in it'}"
    raise ValueError(
        f"{path} holds {held}, but a state dict is needed, or a checkpoint with one in 'state_dict'."
    )


def _state_dicts(content: Any, name: str, deep: int) -> Iterator[tuple[str, OrderedDict[str, Tensor]]]:
    """Every mapping of texts to tensors, by the keys that lead to it."""
    if isinstance(content, argparse.Namespace):
        return
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        return
    tensors = OrderedDict((str(key), value) for key, value in content.items() if isinstance(value, Tensor))
    if tensors:
        tensors._metadata = _versions(content, "")  # type: ignore[attr-defined]
        yield name, tensors
    for key, value in content.items():
        if deep and not _NOT_WEIGHTS.search(str(key)):
            yield from _state_dicts(value, _joined(name, str(key)), deep - 1)


def _models(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """Those that look like the weights of a model."""
    return {
        name: weights
        for name, weights in parts.items()
        if any(key.rpartition(".")[2] in ("weight", "bias") for key in weights)
    }


def _is_usual(name: str) -> bool:
    """Whether a trainer's names tell that a part is the model that was trained; the top always is."""
    return not name or all(word in _CONTAINERS for word in name.split("."))


def _joined(*words: str) -> str:
    return ".".join(word.rstrip(".") for word in words if word)


def _versions(weights: object, prefix: str) -> OrderedDict[str, Any]:
    """The versions of modules that PyTorch keeps with a state dict, of those below a prefix."""
    found = getattr(weights, "_metadata", None)
    versions: OrderedDict[str, Any] = OrderedDict()
    if isinstance(found, Mapping):
        for key, value in found.items():
            if isinstance(key, str) and isinstance(value, Mapping) and (key + ".").startswith(prefix):
                versions[(key + ".").removeprefix(prefix).rstrip(".")] = value
    return versions


def _below(weights: Mapping[str, Tensor], prefix: str) -> OrderedDict[str, Tensor]:
    """The weights whose keys begin with a prefix, without it."""
    chosen = OrderedDict((k.removeprefix(prefix), v) for k, v in weights.items() if k.startswith(prefix))
    chosen._metadata = _versions(weights, prefix)  # type: ignore[attr-defined]
    return chosen


def _prefixes(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> set[str]:
    first = next(iter(own), "")
    return {key[: -len(first)] for key in weights if key.endswith("." + first)}


def _fitting(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """The prefixes, also the empty one, under which weights have all keys and shapes of a model."""
    return sorted(
        prefix
        for prefix in {"", *_prefixes(weights, own)}
        if all(prefix + key in weights and weights[prefix + key].shape == own[key].shape for key in own)
    )


def _without_prefix(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path, container: str
) -> OrderedDict[str, Tensor]:
    """Return the weights of one model under the model's own keys."""
    if any(key in weights for key in own):
        return _below(weights, "")
    fitting = _fitting(weights, own)
    if len(fitting) > 1:
        raise _several(path, [_joined(container, prefix) for prefix in fitting])
    # If none fits, the prefix that fits most keys leads to the most helpful message.
    ranked = sorted(_prefixes(weights, own), key=lambda prefix: -sum(prefix + key in weights for key in own))
    return _below(weights, next(iter(fitting or ranked), ""))


def _several(path: Path, parts: list[str]) -> ValueError:
    named = [part or "the top" for part in parts]
    example = next(part for part in parts if part)
    return ValueError(
        f"{path} holds several models that fit: {', '.join(named)}. Say which with part=, or ::{example} (or "
        "another of these) after the path."
    )


def _differences(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Say what keeps weights from fitting, key by key, in the order of the model's keys."""
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
