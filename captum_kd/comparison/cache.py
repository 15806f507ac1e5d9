"""Features of batches on disk, so that an interrupted comparison goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captum_kd._version import __version__
from captum_kd.atomic import write_whole
from captum_kd.comparison.features import Batch, BatchFeatures
from captum_kd.models.side import Side


class FeatureCache:
    """Keeps what was computed of each batch, and gives it back where nothing has changed.

    Each file holds a digest of the models' weights, the layers, the options, and the batch itself, so what
    belongs to something else is never used; it is computed anew.

    Args:
        folder: Where files are kept; made if need be.
        models: The models with their layers.
        options: Whatever else features depend on, as JSON can hold it.
        reference: Tensors that features depend on.

    Raises:
        OSError: The folder cannot be made.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        models: Mapping[str, Side[nn.Module]],
        options: Mapping[str, Any],
        reference: Iterable[Tensor],
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = [__version__, dict(options)]
        parts = [(name, *_describe(explained)) for name, explained in models.items()]
        weights = (v for explained in models.values() for v in explained.model.state_dict().values())
        self._fixed = _digest([json.dumps([facts, parts])], [*weights, *reference])

    def __call__(self, index: int, batch: Batch, compute: Callable[[], BatchFeatures]) -> BatchFeatures:
        """What is kept of the batch with this number; if there is nothing, compute it and keep it."""
        path = self.folder / f"{index:06d}.safetensors"
        digest = _digest([self._fixed], batch)
        found = _read(path, digest)
        if found is not None:
            place = batch.images.device
            return BatchFeatures(
                {name: [value.to(place) for value in layers] for name, layers in found.features.items()},
                found.dimensions,
                {name: value.to(place) for name, value in found.right.items()},
                {key: value.to(place) for key, value in found.extra.items()},
            )
        result = compute()
        write_whole(path, lambda temporary: _write(temporary, digest, result))
        return result


def _describe(explained: Side[nn.Module]) -> tuple[str, list[str], list[str]]:
    """What features depend on besides weights. A hook's text tells whether it is the same."""
    names = {module: name for name, module in explained.model.named_modules()}
    hooks = [repr(hook) for hook in explained.model._forward_pre_hooks.values()]
    return type(explained.model).__name__, [names.get(layer, "") for layer in explained.layers], hooks


def _digest(texts: Iterable[str], tensors: Iterable[Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(text.encode())
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        # As bytes, since bfloat16 has no other way into a buffer.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _write(path: Path, digest: str, result: BatchFeatures) -> None:
    tensors = {f"features.{m}.{i}": v for m, layers in result.features.items() for i, v in enumerate(layers)}
    tensors |= {f"right.{name}": value for name, value in result.right.items()}
    tensors |= {f"extra.{i}": value for i, value in enumerate(result.extra.values())}
    content = {"dimensions": result.dimensions, "extra": list(result.extra)}
    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    save_file(own, path, {"digest": digest, "content": json.dumps(content)})


def _read(path: Path, digest: str) -> BatchFeatures | None:
    """What a file holds, None if there is none, or it is damaged or of something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("digest") != digest:
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        return None
    content = json.loads(metadata["content"])
    features = {
        name: [tensors[f"features.{name}.{i}"] for i in range(len(dimensions))]
        for name, dimensions in content["dimensions"].items()
    }
    right = {key.removeprefix("right."): v for key, v in tensors.items() if key.startswith("right.")}
    extra = {tuple(key): tensors[f"extra.{i}"] for i, key in enumerate(content["extra"])}
    return BatchFeatures(features, content["dimensions"], right, extra)
