"""Features of batches on disk, so that an interrupted comparison resumes where it left off."""

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

from captum_kd._version import versions
from captum_kd._warn import warn
from captum_kd.atomic import write_whole
from captum_kd.comparison.batches import Batch, HeldOut
from captum_kd.comparison.features import BatchFeatures, layer_features
from captum_kd.comparison.settings import Settings
from captum_kd.models.fingerprint import UnknownStateError, fingerprint
from captum_kd.models.side import Side


def feature_cache(
    folder: str | os.PathLike[str],
    models: Mapping[str, Side[nn.Module]],
    settings: Settings,
    held_out: HeldOut,
) -> FeatureCache | None:
    """The cache of a comparison.

    Args:
        folder: The folder of the files; it is made if need be.
        models: The models with their layers.
        settings: The settings of the comparison.
        held_out: The reference.

    Returns:
        The cache; None if what a model depends on cannot be told.

    Raises:
        OSError: The folder cannot be made.

    Warns:
        UserWarning: There is no cache.
    """
    given = [v for batch in held_out for v in (batch if isinstance(batch, tuple) else (batch,))]
    if given:
        # Whether a reshape_transform is the same can only be told by what it does.
        reshaped = [side for side in models.values() if side.reshape_transform is not None]
        image = given[0][:1]
        given += [v for side in reshaped for v in layer_features(side, image, settings.pool)[0]]
    options = {"pool": settings.pool, "kept_share": settings.kept_share, "seed": settings.seed}
    try:
        return FeatureCache(folder, models, options, given)
    except UnknownStateError as error:
        warn(
            f"cache is not used, and everything is computed anew: {error} So features that were kept could "
            "be those of another model. Remove it from the model, or do without the cache."
        )
        return None


class FeatureCache:
    """Keeps the features of each batch, and gives them back if nothing has changed.

    Each file holds a digest of the models (:func:`captum_kd.models.fingerprint.fingerprint`), the layers, the
    options and the batch itself, and one of what it holds, so features of anything else, or altered ones, are
    never used: they are computed anew.

    Args:
        folder: The folder of the files; it is made if need be.
        models: The models with their layers.
        options: What else the features depend on, as JSON can hold it.
        reference: Tensors that the features depend on.

    Raises:
        OSError: The folder cannot be made.
        UnknownStateError: What a model depends on cannot be told.
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
        sides = [(name, _layer_names(side), fingerprint(side.model)) for name, side in models.items()]
        self._fixed = _digest([json.dumps([versions(), dict(options), sides])], reference)

    def __call__(self, index: int, batch: Batch, compute: Callable[[], BatchFeatures]) -> BatchFeatures:
        """The features of a batch: those that are kept, else computed and kept.

        Args:
            index: The number of the batch.
            batch: The batch.
            compute: A function that computes its features.

        Returns:
            The features.
        """
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


def _layer_names(side: Side[nn.Module]) -> list[str]:
    names = {module: name for name, module in side.model.named_modules()}
    return [names.get(layer, "") for layer in side.layers]


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
    described = json.dumps(content)
    save_file(own, path, {"digest": digest, "content": described, "whole": _whole(described, own)})


def _whole(content: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of all that a file holds."""
    names = sorted(tensors)
    return _digest([json.dumps([content, names])], [tensors[name] for name in names])


def _read(path: Path, digest: str) -> BatchFeatures | None:
    """What a file holds; None if there is no file, or it is damaged or belongs to something else."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("digest") != digest:
                return None
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.get("whole") != _whole(metadata["content"], tensors):
            return None
        content = json.loads(metadata["content"])
        features = {
            name: [tensors[f"features.{name}.{i}"] for i in range(len(dimensions))]
            for name, dimensions in content["dimensions"].items()
        }
        extra = {tuple(key): tensors[f"extra.{i}"] for i, key in enumerate(content["extra"])}
    # Whatever someone put there, it is not what was kept.
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    right = {key.removeprefix("right."): v for key, v in tensors.items() if key.startswith("right.")}
    return BatchFeatures(features, content["dimensions"], right, extra)
