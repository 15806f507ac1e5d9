"""Nothing is written before everything is checked, and nothing where it would be taken for something else."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from captum_kd.explain.out_folder import check_place, check_writable, default_folder
from tests.own_files import arguments, explain, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("own"))


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def test_a_folder_that_is_no_run_is_left_as_it_is(folder: Path) -> None:
    before = everything(folder)
    result = explain(folder / "photos")
    assert result.exit_code == 1
    assert "holds no run.json; is it the folder of a distillation run?" in result.output
    assert explain(folder / "nowhere").exit_code == 1
    assert everything(folder) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "CAM"}, "--method: methods: 'CAM' is unknown"),
        ({"label_encoder": "nowhere.safetensors"}, "--label-encoder: there is no file"),
        ({"label_encoder": ""}, "--label-encoder is empty"),
        ({"layer": "layer5"}, "--layer: SmallResNet has no layer"),
        ({"layer": ""}, "--layer is empty"),
        ({"base_layer": ""}, "--base-layer is empty"),
        ({"teacher_layer": " "}, "--teacher-layer is empty"),
        ({"images": ""}, "--images"),
        ({"mean": ""}, "--mean"),
        ({"mean": "0,0,0", "std": "0,1,1"}, "--std: every number must be above 0"),
        ({"mean": "nan,0,0"}, "--mean: .* finite"),
        ({"base": "nowhere.pt"}, "--base: There is no checkpoint"),
        ({"limit": 8, "images": "few"}, "few has 4 images that can be used"),
    ],
)
def test_bad_options_leave_no_folder(
    folder: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    if changed.get("images") == "few":
        changed["images"] = tmp_path / "few"
        (tmp_path / "few").mkdir()
        for name in ("Bag", "Coat"):
            (tmp_path / "few" / name).mkdir()
            for path in sorted((folder / "photos" / name).glob("[0-9]*.png"))[:2]:
                (tmp_path / "few" / name / path.name).symlink_to(path)
    before = everything(tmp_path)
    result = explain(*arguments(folder, tmp_path / "below" / "out", **changed))
    assert result.exit_code in (1, 2)
    assert re.search(message, result.output), result.output
    assert everything(tmp_path) == before


def test_a_report_among_the_images_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(folder)
    for out in (folder / "photos", folder / "photos" / "report", folder / "x" / ".." / "photos" / "report"):
        result = explain(*arguments(folder, out))
        assert f"is in the image folder {folder / 'photos'}, where the next call would take" in result.output
    monkeypatch.chdir(folder / "photos")
    given = arguments(folder, folder)
    result = explain(*[part for part in given if part not in ("--out", folder)])
    assert "--out: captum-kd-report is in the image folder" in result.output
    refused = explain(*arguments(folder, Path("there")), "--out", "")
    assert "Invalid value for '--out': the name is empty" in refused.output
    assert everything(folder) == before


def test_a_report_among_the_models_of_a_run_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for out in (run, run / "fold1", run / "fold1" / "base", run / "explained"):
        with pytest.raises(ValueError, match=r"among its models\. Choose a folder in .*explain, or"):
            check_place(out, images=None, run=run)
    for out in (run / "explain" / "fold1", run / "explain", tmp_path / "report"):
        check_place(out, images=None, run=run)
    with pytest.raises(ValueError, match="is in the image folder"):
        check_place(run / "explain" / "fold1", images=tmp_path, run=run)


def test_a_default_folder_that_leads_out_of_the_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run" / "explain" / "fold1").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    assert default_folder(tmp_path / "run", 1) == tmp_path / "run" / "explain" / "fold1"
    (tmp_path / "run" / "explain" / "fold1" / "figures").symlink_to(tmp_path / "outside")
    (tmp_path / "run" / "explain" / "fold2").symlink_to(tmp_path / "outside")
    for fold in (1, 2):
        with pytest.raises(ValueError, match="leads out of"):
            default_folder(tmp_path / "run", fold)


def test_folders_that_cannot_be_made_are_found_without_making_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"Could not write to .*: .*file is no folder. Choose another"):
        check_writable(tmp_path / "file" / "out")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="gone is no folder"):
        check_writable(tmp_path / "gone" / "out")
    check_writable(tmp_path / "new" / "out")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="no permission to write to"):
            check_writable(tmp_path / "closed" / "out")
    assert not (tmp_path / "new").exists()
