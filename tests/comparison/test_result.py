"""Comparison: every form that it takes holds the same numbers."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from captum_kd.comparison.compare import compare
from captum_kd.comparison.result import Comparison
from captum_kd.comparison.scores import COLUMNS, MAIN_QUANTITIES
from captum_kd.comparison.settings import Settings
from captum_kd.labels import LabelEmbeddings
from captum_kd.visualization import scores_figure
from tests.networks import Network, classes, images, pair

LAYERS = ("first_relu", "second_relu", "head")
NASTY = 'a,"b" | <i>c'


def made(students: Any, base: Any, **options: Any) -> Comparison:
    options = {"shown": 3, "permutations": 9, "progress": False, **options}
    embeddings = LabelEmbeddings.one_hot(["red", "green", "<b>blue", "grey"])
    return compare(
        students, base, LAYERS, [(images(40), classes(40))], label_embeddings=embeddings, **options
    )


@pytest.fixture(scope="module")
def single() -> Comparison:
    return made(*pair(), teacher=Network(channels=8).eval(), kept_share=0.3)


@pytest.fixture(scope="module")
def several() -> Comparison:
    student, base = pair()
    return made({"one": student, NASTY: Network(seed=9).eval()}, base)


def test_csv_parses_back(several: Comparison) -> None:
    read = list(csv.DictReader(io.StringIO(several.to_csv())))
    assert len(read) == len(several.rows) == 2 * 3 * 7
    for text, row in zip(read, several.rows, strict=True):
        assert tuple(text) == COLUMNS == tuple(row)
        assert text["student"] == row["student"]
        assert all(float(text[k]) == row[k] for k in ("value", "low", "high", "null", "null_high", "p_value"))
        assert int(text["samples"]) == row["samples"] == 30


def test_json_parses_back(single: Comparison) -> None:
    read = json.loads(single.to_json())
    assert (read["accuracy"], read["rows"]) == (single.accuracy, single.rows)
    assert Settings.from_json(read["settings"]) == single.settings
    assert list(read["settings"]) == list(asdict(single.settings))
    assert (read["settings"]["layers"], read["settings"]["samples"]) == (list(LAYERS), 30)


def test_markdown_parses_back(single: Comparison) -> None:
    tables = [block for block in single.to_markdown().split("\n\n") if block.startswith("|")]
    accuracy, scores = ([line.strip("| ").split(" | ") for line in t.splitlines()] for t in tables)
    assert {name: float(value) for name, value in accuracy[2:]} == pytest.approx(single.accuracy, abs=1e-4)
    assert scores[0] == ["quantity", *LAYERS]
    for quantity, *cells in scores[2:]:
        for layer, cell in zip(LAYERS, cells, strict=False):
            if cell:
                score = single.score(quantity, layer)
                numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", cell)]
                assert numbers == pytest.approx(
                    [score.value, score.low, score.high, score.null], abs=0.0050001
                )
                assert numbers[::3] == pytest.approx([score.value, score.null], abs=0.0005001)
    # The head has no positions, so nothing is kept there.
    (kept,) = (row for row in scores if row[0] == "RS kept by distilled maps")
    assert len([cell for cell in kept[1:] if cell]) == 2


def test_several_students_are_beside_each_other(several: Comparison) -> None:
    markdown = several._repr_markdown_()
    assert markdown in several.to_markdown()
    lines = [line for line in markdown.splitlines() if line.startswith("| one, second_relu")]
    values = [float(v) for v in lines[0].strip("| ").split(" | ")[1:]]
    assert values == pytest.approx(
        [several.score(q, "second_relu", "one").value for q in MAIN_QUANTITIES], abs=1e-4
    )


def test_repr_is_short(single: Comparison) -> None:
    assert repr(single) == (
        "Comparison(student with base at first_relu, second_relu, head: 30 images scored, 3 shown)"
    )
    assert len(single._repr_markdown_().splitlines()) == 2 + 2 + len(LAYERS)


def test_a_data_frame_has_the_records(several: Comparison) -> None:
    pandas = pytest.importorskip("pandas")
    frame = several.to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.to_dict("records") == several.rows


def test_without_pandas_the_error_says_what_else_there_is(
    single: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas.*to_csv"):
        single.to_dataframe()


def test_saved_and_loaded_it_is_the_same(several: Comparison, tmp_path: Path) -> None:
    several.save(tmp_path / "pair.safetensors")
    loaded = Comparison.load(tmp_path / "pair.safetensors")
    assert loaded.rows == several.rows
    assert loaded.accuracy == several.accuracy
    assert loaded.settings == several.settings
    assert loaded.sides == several.sides
    assert torch.equal(loaded.images, several.images)
    assert torch.equal(loaded.labels, several.labels)
    assert list(loaded.maps) == list(several.maps)
    for student, layers in several.maps.items():
        assert list(loaded.maps[student]) == list(layers) == list(LAYERS[:2])
        for layer, methods in layers.items():
            assert list(loaded.maps[student][layer]) == list(methods)
            for method, two in methods.items():
                for a, b in zip(loaded.maps[student][layer][method], two, strict=True):
                    assert torch.equal(a, b)
    assert loaded.to_markdown() == several.to_markdown()
    assert loaded.to_html() == several.to_html()


def test_without_maps_it_is_saved_too(tmp_path: Path) -> None:
    comparison = made(*pair(), shown=0)
    comparison.save(tmp_path / "scores.safetensors")
    loaded = Comparison.load(tmp_path / "scores.safetensors")
    assert loaded.rows == comparison.rows
    assert loaded.images.shape == (0, 3, 12, 12)
    assert 'id="viewer"' not in loaded.to_html()
    with pytest.raises(ValueError, match="no maps to plot"):
        loaded.plot_maps()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file"):
        Comparison.load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        Comparison.load(tmp_path / "text")
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not a comparison saved by"):
        Comparison.load(tmp_path / "weights.safetensors")


def test_a_file_of_a_later_version_is_refused(
    several: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pair.safetensors"
    monkeypatch.setattr("captum_kd.comparison.file.asdict", lambda settings: {**asdict(settings), "new": 1})
    several.save(path)
    with pytest.raises(ValueError, match=r"pair.safetensors' was saved by another version.*'new'"):
        Comparison.load(path)


def test_the_page_needs_no_other_file_and_escapes_names(several: Comparison) -> None:
    page = several.to_html()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "{{" not in page
    assert "<i>c" not in page
    assert "&lt;i&gt;c" in page
    for row in several.rows:
        assert f"<td>{round(row['value'], 3) + 0.0:.3f}<small>" in page


def test_the_figure_of_scores_shows_the_scores(single: Comparison) -> None:
    _, axes = single.plot_scores()
    assert [t.get_text() for t in axes.get_xticklabels()] == list(LAYERS)
    drawn = [container[0].get_ydata().tolist() for container in axes.containers]
    assert drawn == [[single.score(q, layer).value for layer in LAYERS] for q in MAIN_QUANTITIES]
    nulls = [list(line.get_ydata()) for line in axes.lines if line.get_label() == "_null"]
    assert nulls == [[single.score(q, layer).null_high for layer in LAYERS] for q in MAIN_QUANTITIES]


def test_the_figure_of_several_students(several: Comparison) -> None:
    _, axes = several.plot_scores()
    assert axes.get_ylabel() == "RS distilled"
    assert axes.get_legend_handles_labels()[1] == ["one: RS distilled", f"{NASTY}: RS distilled"]
    _, axes = several.plot_scores(students=["one"], quantities=["FSS"])
    assert axes.get_title() == "one"
    with pytest.raises(ValueError, match="1 to 8 series apart, got 10"):
        several.plot_scores(quantities=MAIN_QUANTITIES)
    with pytest.raises(ValueError, match="got 0"):
        scores_figure({}, LAYERS)


def test_the_figure_of_maps(several: Comparison) -> None:
    figure, axes = several.plot_maps(student="one")
    assert axes.shape == (3, 1 + 2 * 3)
    assert figure.get_suptitle() == "one, first_relu"
    assert [panel.get_ylabel() for panel in axes[:, 0]] == ["<b>blue", "grey", "red"]
    titles = [panel.get_title() for panel in axes[0, 1:]]
    assert titles[:2] == ["Grad-CAM\ndifference\ndistilled", "Grad-CAM\ndifference\nresidual"]
    # Both sides of a method share a scale.
    for row in axes:
        limits = [panel.images[0].get_clim() for panel in row[1:]]
        assert limits[0::2] == limits[1::2]


@pytest.mark.parametrize("channels", [1, 2])
def test_images_of_other_channels_have_a_figure(single: Comparison, channels: int) -> None:
    values = {name: getattr(single, name) for name in single.__dataclass_fields__}
    values["images"] = single.images[:, :channels]
    figure, _ = Comparison(**values).plot_maps()
    figure.canvas.draw()


def test_unknown_names(single: Comparison, several: Comparison) -> None:
    for call, message in (
        (lambda: several.score("FSS", "head"), "student is needed, one of 'one'"),
        (lambda: several.score("FSS", "head", "two"), "student must be one of 'one'.*got 'two'"),
        (lambda: single.score("FSS", "tail"), "layer must be one of 'first_relu'.*got 'tail'"),
        (lambda: single.score("RS", "head"), "quantity must be one of 'FSS', 'RS student'"),
        (lambda: single.score("RS kept by distilled maps", "head"), "was not computed at 'head'"),
        (lambda: single.plot_maps("head"), "layer must be one of 'first_relu', 'second_relu', got 'head'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
