"""Saved comparisons that were damaged or altered: a ValueError that names the file and what is wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_kd.comparison.result import Comparison
from captum_kd.comparison.settings import Settings

ROW = {
    "quantity": "FSS",
    "value": 0.5,
    "low": 0.25,
    "high": math.nan,
    "null": 0.0,
    "null_high": 0.125,
    "p_value": math.nan,
    "samples": 9,
    "estimator": "biased",
}


def comparison() -> Comparison:
    settings = Settings(students=("one", "two"), layers=("layer1", "fc"), samples=9, positions=(0, 2))
    maps = (torch.rand(2, 1, 2, 2), torch.rand(2, 1, 3, 3))
    return Comparison(
        [{"student": s, "layer": layer, **ROW} for s in settings.students for layer in settings.layers],
        {"one": 0.5, "two": None, "base": 1},
        torch.rand(2, 3, 4, 4),
        torch.tensor([0, 1]),
        {"one": {"layer1": {"mine": maps}}, "two": {"layer1": {"mine": maps}}},
        {"mine": ("student", "base")},
        settings,
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "some pair.safetensors"
    comparison().save(path)
    return path


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


def alter(path: Path, change: Change) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content = json.loads(metadata["comparison"])
    change(content, tensors)
    save_file(tensors, path, {**metadata, "comparison": json.dumps(content)})


def put(*keys: Any, value: Any) -> Change:
    """Set what the keys lead to in the text of the file."""

    def change(content: Any, tensors: dict[str, Tensor]) -> None:
        *path, last = keys
        for key in path:
            content = content[key]
        content[last] = value

    return change


def drop(*keys: Any) -> Change:
    def change(content: Any, tensors: dict[str, Tensor]) -> None:
        *path, last = keys
        for key in path:
            content = content[key]
        del content[last]

    return change


def tensor(name: str, value: Tensor | None) -> Change:
    def change(content: Any, tensors: dict[str, Tensor]) -> None:
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


ALTERED: dict[str, tuple[Change, str]] = {
    **{
        f"no {name}": (drop(name), f"it has no '{name}'")
        for name in ("rows", "accuracy", "sides", "settings", "layers_with_maps", "numbered_maps")
    },
    "another field": (put("code", value="print()"), "it has an unknown 'code'"),
    "rows of text": (put("rows", value="rows"), "it: rows must be .*got 'rows'"),
    "rows as a mapping": (put("rows", value={}), "it: rows must be"),
    "a row of text": (put("rows", 1, value="row"), "it: rows must be"),
    "an empty row": (put("rows", 1, value={}), "row 1 has no 'estimator'"),
    "a row without a value": (drop("rows", 2, "value"), "row 2 has no 'value'"),
    "a row with more": (put("rows", 0, "more", value=1), "row 0 has an unknown 'more'"),
    "a value of text": (put("rows", 0, "value", value="0.5"), "row 0: value must be float, got '0.5'"),
    "no value": (put("rows", 0, "value", value=None), "row 0: value must be float, got None"),
    "a value that is true": (put("rows", 0, "value", value=True), "row 0: value must be float, got True"),
    "a value too long": (put("rows", 0, "low", value=10**400), "row 0: low must be float"),
    "samples in halves": (put("rows", 0, "samples", value=8.5), "row 0: samples must be int, got 8.5"),
    "samples below 0": (put("rows", 0, "samples", value=-8), "row 0: samples or p_value is out of range"),
    "a p-value of 7": (put("rows", 3, "p_value", value=7), "row 3: samples or p_value is out of range"),
    "an estimator": (put("rows", 0, "estimator", value="fair"), "row 0: estimator must be .*got 'fair'"),
    "an unknown student": (put("rows", 0, "student", value="six"), "row 0: student: 'six' is unknown"),
    "an unknown layer": (put("rows", 0, "layer", value="six"), "row 0: layer: 'six' is unknown"),
    "a score twice": (put("rows", 0, "layer", value="fc"), "rows: .*'fc'.* comes twice"),
    "accuracies as a list": (put("accuracy", value=[0.5]), "accuracy must be"),
    "an accuracy of text": (put("accuracy", "one", value="high"), "accuracy must be"),
    "an accuracy of 3": (put("accuracy", "one", value=3.0), "accuracy: that of 'one' must be from 0 to 1"),
    "an accuracy of nobody": (put("accuracy", "six", value=0.5), "accuracy: 'six' is unknown"),
    "one side": (put("sides", "mine", value=["student"]), "sides must be"),
    "sides of text": (put("sides", "mine", value="ab"), "sides must be"),
    "no sides": (put("sides", value=None), "sides must be"),
    "a method without sides": (put("sides", value={}), "numbered_maps must name each method.*'mine'"),
    "a method without maps": (put("sides", "other", value=["a", "b"]), "numbered_maps must.*'other'"),
    "settings as a list": (put("settings", value=[]), "settings must be"),
    "layers of numbers": (put("settings", "layers", value=[1, 2]), "settings: layers must be"),
    "layers of text": (put("settings", "layers", value="layer1"), "settings: layers must be"),
    "no layers": (put("settings", "layers", value=[]), "settings: layers is empty"),
    "a student twice": (put("settings", "students", value=["one", "one"]), "'one' comes twice"),
    "a student called base": (put("settings", "students", value=["base", "two"]), "'base' is no name for"),
    "confidence of text": (put("settings", "confidence", value="high"), "settings: confidence must be float"),
    "confidence of 95": (put("settings", "confidence", value=95), "settings: confidence must be between"),
    "fewer than no samples": (put("settings", "samples", value=-1), "settings: samples must not be negative"),
    "versions as a list": (put("settings", "versions", value=["torch"]), "settings: versions must be"),
    "skipped files of text": (put("settings", "skipped", value=["a.png"]), "settings: skipped must be"),
    "notes of notes": (put("settings", "notes", value=[["note"]]), "settings: notes must be"),
    "positions of text": (put("settings", "positions", value=["0"]), "settings: positions must be"),
    "maps of nobody": (put("layers_with_maps", "six", value=[]), "layers_with_maps: 'six' is unknown"),
    "a student left out": (drop("layers_with_maps", "two"), "layers_with_maps: students: 'two' is unknown"),
    "maps of no layer": (put("layers_with_maps", "one", value=["six"]), "of 'one': 'six' is unknown"),
    "maps of a layer twice": (put("layers_with_maps", "one", value=["layer1"] * 2), "'layer1' comes twice"),
    "maps as a number": (put("layers_with_maps", "one", value=3), "layers_with_maps must be"),
    "numbers of nothing": (put("numbered_maps", value=[["one", "layer1"]]), "numbered_maps must be"),
    "fewer numbers": (drop("numbered_maps", 0), "numbered_maps must name"),
    "another name": (put("numbered_maps", 0, 1, value="fc"), "numbered_maps must name"),
    "no images": (tensor("images", None), "the tensor 'images' is missing"),
    "no labels": (tensor("labels", None), "the tensor 'labels' is missing"),
    "a map missing": (tensor("maps.1.0", None), "the tensor 'maps.1.0' is missing"),
    "another tensor": (tensor("weights", torch.zeros(1)), "the tensor 'weights' is unexpected"),
    "images of bytes": (tensor("images", torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), "images must be float"),
    "flat images": (tensor("images", torch.zeros(2, 48)), r"images must be .*\(2, 48\)"),
    "labels of floats": (tensor("labels", torch.zeros(2)), "labels must be a class index"),
    "a label missing": (tensor("labels", torch.zeros(1, dtype=torch.long)), "each of the 2 images"),
    "a label below 0": (tensor("labels", torch.tensor([0, -1])), "labels must be a class index"),
    "fewer images": (tensor("images", torch.rand(1, 3, 4, 4)), "labels must be .* of the 1 images"),
    "a map of another": (tensor("maps.0.1", torch.rand(3, 1, 2, 2)), r"maps.0.1 must be .*\(2, 1, h, w\)"),
    "a map of channels": (tensor("maps.0.1", torch.rand(2, 3, 2, 2)), "maps.0.1 must be"),
    "a map without positions": (tensor("maps.0.1", torch.rand(2, 1, 0, 2)), "maps.0.1 is empty"),
    "a map of integers": (tensor("maps.0.1", torch.zeros(2, 1, 2, 2, dtype=torch.int32)), "maps.0.1 must be"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_file_is_refused(saved: Path, name: str) -> None:
    change, message = ALTERED[name]
    alter(saved, change)
    with pytest.raises(ValueError, match=f"some pair.safetensors' is damaged or was altered: .*{message}"):
        Comparison.load(saved)


DAMAGED_TEXT = {
    "no JSON": "{",
    "no object": "[1, 2]",
    "nothing": "null",
    "nested without end": "[" * 100_000 + "]" * 100_000,
    "nested in a field": '{"rows": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "a number too long": '{"rows": ' + "9" * 10_000 + "}",
}


@pytest.mark.parametrize("name", DAMAGED_TEXT)
def test_a_damaged_text_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "pair.safetensors"
    metadata = {"format": "captum-kd comparison 1", "comparison": DAMAGED_TEXT[name]}
    save_file({"images": torch.zeros(1)}, path, metadata)
    with pytest.raises(ValueError, match=r"pair\.safetensors' is damaged or was altered"):
        Comparison.load(path)
    save_file({"images": torch.zeros(1)}, path, {"format": metadata["format"]})
    with pytest.raises(ValueError, match=r"pair.safetensors' is damaged or was altered: .*got None"):
        Comparison.load(path)


@pytest.mark.parametrize("part", ["students", "layers"])
def test_settings_that_lack_what_has_no_default_are_refused(saved: Path, part: str) -> None:
    alter(saved, drop("settings", part))
    with pytest.raises(ValueError, match=f"some pair.safetensors' was saved by another version.*'{part}'"):
        Comparison.load(saved)


def test_a_file_that_was_cut_off_is_refused(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    for count in (0, 4, 100, len(content) - 1):
        saved.write_bytes(content[:count])
        with pytest.raises(ValueError, match=r"some pair\.safetensors' is not a safetensors file"):
            Comparison.load(saved)
    with pytest.raises(ValueError, match="is not a safetensors file"):
        Comparison.load(tmp_path)


def test_it_may_be_saved_to_where_it_was_read_from(saved: Path) -> None:
    loaded = Comparison.load(saved)
    images = loaded.images.clone()
    loaded.save(saved)
    assert torch.equal(loaded.images, images)
    assert torch.equal(Comparison.load(str(saved)).images, images)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_what_is_as_it_was_saved_is_read(saved: Path) -> None:
    """Also what is not a number where a score may be so, accuracies that are not known, and old settings."""
    for name in ("left_out", "positions", "decisions"):
        alter(saved, drop("settings", name))
    loaded, original = Comparison.load(saved), comparison()
    assert repr(loaded.rows) == repr(original.rows)
    assert loaded.accuracy == original.accuracy
    assert loaded.settings == Settings(students=("one", "two"), layers=("layer1", "fc"), samples=9)
    assert loaded.sides == original.sides
    assert loaded.maps["two"]["layer1"]["mine"][1].shape == (2, 1, 3, 3)
