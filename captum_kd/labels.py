"""Label embeddings: what the ground truth looks like to a distance."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import one_hot

_POOLINGS = ("pooler", "mean", "cls")
_METADATA = ("class_names", "model", "pooling")


@dataclass(frozen=True, eq=False)
class LabelEmbeddings:
    """One embedding for each class, and where the embeddings come from.

    Attributes:
        embeddings: The embeddings, floating point, of shape (num_classes, d).
        class_names: The class names in the order of the class indices.
        model: The language model's hub name or folder, or "one-hot".
        pooling: How the model's output became one vector: "pooler", "mean" or "cls"; "none" for
            embeddings that were not pooled.

    Raises:
        TypeError: ``embeddings`` is not a floating point tensor, or ``class_names`` are not strings.
        ValueError: ``embeddings`` is not (num_classes, d) or not finite, or a name is empty or
            occurs twice.

    Example:
        >>> colours = LabelEmbeddings(torch.eye(3), ("red", "green", "blue"), "hand-made", "none")
        >>> len(colours)
        3
    """

    embeddings: Tensor
    class_names: tuple[str, ...]
    model: str
    pooling: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", _checked_names(self.class_names))
        _check_embeddings(self.embeddings, "embeddings")
        if len(self.embeddings) != len(self.class_names):
            raise ValueError(
                f"embeddings has {len(self.embeddings)} rows but there are "
                f"{len(self.class_names)} class names; give one row for each class"
            )

    def __len__(self) -> int:
        return len(self.class_names)

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        class_names: Sequence[str],
        pooling: str = "pooler",
        *,
        device: torch.device | str | None = None,
        batch_size: int = 64,
        **options: Any,
    ) -> LabelEmbeddings:
        """Embed class names with a pre-trained language model.

        The names are lower-cased and otherwise left as they are, so replace underscores and spell out
        abbreviations beforehand. The paper's setting is
        ``"google-bert/bert-base-uncased"`` with its pooler output.

        Args:
            model: Any BERT-like model that ``transformers.AutoModel`` and ``AutoTokenizer`` load,
                as a name on the Hugging Face hub or a local folder.
            class_names: The names in the order of the class indices.
            pooling: "pooler" for the model's own pooler output; "mean" for the mean over the
                tokens of a name, padding left out; "cls" for the first token.
            device: The device that runs the model and holds the embeddings. None: the CPU.
            batch_size: The number of names that run through the model at once.
            **options: Passed to both ``from_pretrained`` functions of transformers, for example
                ``revision`` or ``local_files_only``.

        Returns:
            The embeddings, float32, of shape (num_classes, d).

        Raises:
            TypeError: ``class_names`` is not a sequence of strings.
            ValueError: A name is empty or occurs twice (capitals do not count), ``pooling`` is unknown,
                the model cannot be loaded, or it has no trained pooler.

        Example:
            >>> LabelEmbeddings.from_pretrained(
            ...     "google-bert/bert-base-uncased", ["cat", "dog"]
            ... )  # doctest: +SKIP
        """
        if pooling not in _POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(_POOLINGS)}, got {pooling!r}")
        names = _checked_names(class_names)
        lowered = _checked_names([name.lower() for name in names], "lower-cased class_names")
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or greater, got {batch_size}")
        source = os.fspath(model)
        # Imported here because it takes seconds.
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
            network, loading = AutoModel.from_pretrained(source, output_loading_info=True, **options)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the language model {source!r} could not be loaded; give the name of a BERT-like "
                "model on the Hugging Face hub (this needs a connection or a filled cache) or a "
                f"local folder with its configuration, weights and tokenizer. Cause: {error}"
            ) from error
        if pooling == "pooler" and any("pooler" in key for key in loading["missing_keys"]):
            raise ValueError(_no_pooler(source, "has no trained pooler in its weights"))

        network = network.eval().to(device or "cpu")
        rows = []
        with torch.no_grad():
            for start in range(0, len(lowered), batch_size):
                tokens = tokenizer(
                    list(lowered[start : start + batch_size]),
                    padding=True,
                    truncation=True,
                    return_tensors="pt",
                ).to(network.device)
                output = network(**tokens)
                if pooling == "pooler" and getattr(output, "pooler_output", None) is None:
                    raise ValueError(_no_pooler(source, "has no pooler"))
                rows.append(_pool(output, tokens["attention_mask"], pooling).float())
        return cls(torch.cat(rows), names, source, pooling)

    @classmethod
    def one_hot(cls, class_names: Sequence[str]) -> LabelEmbeddings:
        """Make embeddings that put all classes equally far from each other.

        Args:
            class_names: The names in the order of the class indices.

        Returns:
            The identity matrix as embeddings, of shape (num_classes, num_classes).

        Raises:
            TypeError: ``class_names`` is not a sequence of strings.
            ValueError: A name is empty or occurs twice.

        Example:
            >>> LabelEmbeddings.one_hot(["cat", "dog"]).embeddings
            tensor([[1., 0.],
                    [0., 1.]])
        """
        return cls(torch.eye(len(class_names)), _checked_names(class_names), "one-hot", "none")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embeddings as safetensors, with everything else in the file's metadata.

        Args:
            path: The file to write, usually ``*.safetensors``. It holds the model's name as given, so if
                that is a local folder, it holds its path.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     LabelEmbeddings.one_hot(["cat", "dog"]).save(f"{folder}/pets.safetensors")
            ...     LabelEmbeddings.load(f"{folder}/pets.safetensors").class_names
            ('cat', 'dog')
        """
        metadata = {key: json.dumps(getattr(self, key)) for key in _METADATA}
        save_file({"embeddings": self.embeddings.detach().contiguous()}, path, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LabelEmbeddings:
        """Read what :meth:`save` wrote. Nothing is ever unpickled.

        Args:
            path: The file to read.

        Returns:
            The embeddings, on the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not in the safetensors format, is damaged, or was not written
                by :meth:`save`.
        """
        name = os.fspath(path)
        if not os.path.isfile(name):
            raise FileNotFoundError(f"there is no file {name!r} to load label embeddings from")
        try:
            with safe_open(name, framework="pt") as file:
                metadata = file.metadata() or {}
                embeddings = file.get_tensor("embeddings")
            class_names, model, pooling = (json.loads(metadata[key]) for key in _METADATA)
            if (
                not isinstance(class_names, list)
                or not isinstance(model, str)
                or not isinstance(pooling, str)
            ):
                raise TypeError("class_names must be a list, model and pooling must be texts")
            return cls(embeddings, tuple(class_names), model, pooling)
        except (SafetensorError, OSError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{name!r} does not hold label embeddings; a safetensors file with a tensor "
                f"'embeddings' and the metadata {', '.join(_METADATA)} is needed, as "
                f"LabelEmbeddings.save writes it (other formats, such as pickled tensors, are not "
                f"read, because they can run code). Cause: {error}"
            ) from error


def embedding_rows(
    label_embeddings: LabelEmbeddings | Tensor | None, target: Tensor | Sequence[int]
) -> Tensor:
    """Look up the label embedding of each sample.

    Args:
        label_embeddings: The embeddings, or a tensor of shape (num_classes, d). None: one-hot over
            the classes in ``target``, so that equal labels have equal rows and all others are
            equally far apart. Such rows can be compared within one call only, so look up all
            samples together.
        target: The class index of each sample, integers of shape (n,).

    Returns:
        The rows, of shape (n, d), on the device of ``target``.

    Raises:
        TypeError: ``target`` does not have an integer dtype, or ``label_embeddings`` is something else.
        ValueError: ``label_embeddings`` is not (num_classes, d), not finite or has too few rows,
            or ``target`` is not (n,) or has a negative entry.

    Example:
        >>> embedding_rows(torch.tensor([[0.5, 1.0], [2.0, 3.0]]), torch.tensor([1, 0, 1]))
        tensor([[2.0000, 3.0000],
                [0.5000, 1.0000],
                [2.0000, 3.0000]])
        >>> embedding_rows(None, torch.tensor([7, 3, 7]))
        tensor([[0., 1.],
                [1., 0.],
                [0., 1.]])
    """
    target = torch.as_tensor(target)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(
            f"target must hold class indices in an integer dtype, got {target.dtype}; convert "
            "with target.long() if the values are class indices"
        )
    if target.ndim != 1:
        raise ValueError(
            f"target must be one class index per sample, of shape (n,), got {tuple(target.shape)}"
        )
    target = target.long()
    if (target < 0).any():
        raise ValueError(f"target must not be negative, but contains class {int(target.min())}")
    if label_embeddings is None:
        classes, index = torch.unique(target, return_inverse=True)
        return one_hot(index, max(len(classes), 1)).float()

    if isinstance(label_embeddings, LabelEmbeddings):
        embeddings = label_embeddings.embeddings
    else:
        embeddings = label_embeddings
        _check_embeddings(embeddings, "label_embeddings")
    highest = int(target.max()) if len(target) else -1
    if highest >= len(embeddings):
        raise ValueError(
            f"label_embeddings has {len(embeddings)} rows but target contains class {highest}; "
            f"give one row for each class, at least {highest + 1}"
        )
    return embeddings[target.to(embeddings.device)].to(target.device)


def _checked_names(class_names: Sequence[str], what: str = "class_names") -> tuple[str, ...]:
    if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
        raise TypeError(f"{what} must be a sequence of strings, got {class_names!r}")
    names = tuple(class_names)
    if not names:
        raise ValueError(f"{what} is empty; give the name of each class, in order")
    empty = [index for index, name in enumerate(names) if not name.strip()]
    if empty:
        raise ValueError(f"{what} must not be empty, but the name of class {empty[0]} is")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} must differ from each other, but these occur twice: {twice}")
    return names


def _check_embeddings(embeddings: Tensor, what: str) -> None:
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        given = embeddings.dtype if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"{what} must be a floating point tensor, got {given}")
    if embeddings.ndim != 2:
        raise ValueError(f"{what} must have the shape (num_classes, d), got {tuple(embeddings.shape)}")
    finite = torch.isfinite(embeddings).all(dim=1)
    if not finite.all():
        raise ValueError(
            f"{what} must be finite, but the row of class {int((~finite).nonzero()[0])} has NaN "
            "or infinite entries"
        )


def _no_pooler(source: str, what: str) -> str:
    return f"the language model {source!r} {what}; use pooling='mean' or pooling='cls'"


def _pool(output: Any, attention_mask: Tensor, pooling: str) -> Tensor:
    if pooling == "pooler":
        pooled: Tensor = output.pooler_output
        return pooled
    hidden: Tensor = output.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1)
