"""Names of the classes and their label embeddings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from captum_kd.labels import LabelEmbeddings


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line, or from a JSON list or mapping of indices to names.

    Raises:
        ValueError: The file cannot be read, holds no names, or one of them is empty or no text.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "names.json").write_text('{"0": "cat", "1": "dog"}')
        ...     read_class_names(Path(folder, "names.json"))
        ('cat', 'dog')
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--class-names: {path} cannot be read: {error}.") from error
    if text.lstrip().startswith(("[", "{")):
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"--class-names: {path} is damaged JSON: {error}.") from error
        if isinstance(content, dict):
            try:
                content = [content[str(i)] for i in range(len(content))]
            except KeyError as error:
                raise ValueError(
                    f"--class-names: {path} maps {len(content)} keys to names, but not {error}; the keys "
                    "must be the class indices from 0."
                ) from error
        # ImageNet's usual index file has pairs of WordNet id and name.
        entries = [entry[-1] if isinstance(entry, list) and entry else entry for entry in content]
        if wrong := [entry for entry in entries if not isinstance(entry, (str, int)) or entry is True]:
            raise ValueError(f"--class-names: {path} holds {wrong[0]!r}, which is no name.")
        names = [str(entry).strip() for entry in entries]
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not names:
        raise ValueError(f"--class-names: {path} holds no names; write one per line.")
    if "" in names:
        raise ValueError(
            f"--class-names: name {names.index('') + 1} of {path} is empty. Each line is the name of one "
            "output, so an empty one would shift those behind it; remove it, or write a name."
        )
    return tuple(names)


def encode_labels(encoder: str, pooling: str, class_names: Sequence[str]) -> LabelEmbeddings | None:
    """Embed the class names.

    Args:
        encoder: "one-hot", a file that :meth:`LabelEmbeddings.save` wrote, or a language model by hub name or
            folder.
        pooling: See :meth:`LabelEmbeddings.from_pretrained`.
        class_names: Names in the order of the class indices.

    Returns:
        The embeddings; None for one-hot.

    Raises:
        ValueError: The file or model cannot be loaded, or the file has fewer embeddings than there are
            classes.
    """
    if encoder == "one-hot":
        return None
    try:
        if encoder.endswith(".safetensors"):
            embeddings = LabelEmbeddings.load(encoder)
        else:
            names = [name.replace("_", " ") for name in class_names]
            embeddings = LabelEmbeddings.from_pretrained(encoder, names, pooling)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"--label-encoder: {error}.") from error
    if len(embeddings) < len(class_names):
        raise ValueError(
            f"--label-encoder: {encoder} has {len(embeddings)} embeddings, but there are {len(class_names)} "
            f"classes. Its names: {', '.join(embeddings.class_names[:5])}, ...; the classes': "
            f"{', '.join(class_names[:5])}, ..."
        )
    return embeddings
