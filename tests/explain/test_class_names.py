"""Class names from files, and their embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from captum_kd.explain.class_names import encode_labels, read_class_names
from captum_kd.labels import LabelEmbeddings


def test_class_names_from_files(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\ufefftench\ngoldfish \n\n")
    (tmp_path / "imagenet.json").write_text('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}')
    (tmp_path / "list.json").write_text('["tench", "goldfish"]')
    for name in ("names.txt", "imagenet.json", "list.json"):
        assert read_class_names(tmp_path / name) == ("tench", "goldfish")
    for content, message in (
        ("[", "damaged JSON"),
        ("", "no names"),
        ('{"1": "x"}', "but not '0'"),
        ("tench\n\ngoldfish", "name 2 of .* is empty"),
        ('["tench", " "]', "name 2 of .* is empty"),
        ('["tench", null]', "holds None, which is no name"),
        ('["tench", [[]]]', "holds \\[\\], which is no name"),
    ):
        (tmp_path / "bad").write_text(content)
        with pytest.raises(ValueError, match=f"--class-names: .*{message}"):
            read_class_names(tmp_path / "bad")


def test_label_encoders(tmp_path: Path) -> None:
    assert encode_labels("one-hot", "mean", ["a", "b"]) is None
    embeddings = LabelEmbeddings(torch.eye(2), ("a", "b"), "mine", "none")
    embeddings.save(tmp_path / "labels.safetensors")
    found = encode_labels(str(tmp_path / "labels.safetensors"), "mean", ["a", "b"])
    assert found is not None
    torch.testing.assert_close(found.embeddings, torch.eye(2))
    with pytest.raises(ValueError, match=r"--label-encoder: .* has 2 embeddings, but there are 3 classes"):
        encode_labels(str(tmp_path / "labels.safetensors"), "mean", ["a", "b", "c"])
    with pytest.raises(ValueError, match="--label-encoder: there is no file"):
        encode_labels(str(tmp_path / "other.safetensors"), "mean", ["a"])
