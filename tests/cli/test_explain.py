"""The command captum-kd explain: what it writes, how it resumes, and what can be wrong with its options."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.own_files import arguments, explain, write_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def explained(folder: Path) -> tuple[Path, str]:
    out = folder / "report"
    teacher = {"teacher": folder / "teacher.pt", "teacher_architecture": "small_resnet24"}
    result = explain(*arguments(folder, out, **teacher))
    assert result.exit_code == 0, result.output
    return out, result.output


def test_the_folder_of_a_report(explained: tuple[Path, str]) -> None:
    out, output = explained
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {
        *("report.html", "scores.csv", "scores.json", "comparison.safetensors"),
        *("figures/scores-student.png", "figures/maps-student-layer3.png"),
    }
    assert (out / "report.html").resolve().as_uri() in output
    settings = json.loads((out / "scores.json").read_text())["settings"]
    assert settings["command"].startswith("captum-kd explain --student ")
    assert settings["skipped"][0]["file"] == "Bag/broken <b>.png"
    assert (settings["samples"], settings["reference"], settings["data"]) == (80, 40, "photos")
    assert "broken <b>" not in (out / "report.html").read_text("utf-8")


def test_an_interrupted_run_goes_on_and_gives_the_same(
    folder: Path, explained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captum_kd.comparison import features

    calls, real = 0, features.layer_features

    def counted(*given: object) -> object:
        nonlocal calls
        calls += 1
        if stop_after is not None and calls > stop_after:
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "layer_features", counted)
    stop_after: int | None = 5
    given = arguments(folder, tmp_path, batch_size=16)
    stopped = explain(*given)
    assert stopped.exit_code != 0
    assert "the same command resumes" in stopped.output
    assert not (tmp_path / "report.html").exists()

    calls, stop_after = 0, None
    assert explain(*given).exit_code == 0
    # Two models and five batches of 16, of which two were done.
    assert calls == 2 * 3
    resumed = json.loads((tmp_path / "scores.json").read_text())["rows"]
    whole = {
        (r["layer"], r["quantity"]): r for r in json.loads((explained[0] / "scores.json").read_text())["rows"]
    }
    for row in resumed:
        assert row["value"] == pytest.approx(whole[row["layer"], row["quantity"]]["value"], abs=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"student": "nowhere.pt"}, r"--student: There is no checkpoint nowhere\.pt"),
        (
            {"architecture": "small_resnet8"},
            r"--student: .*student\.pt does not fit SmallResNet: 6\d keys",
        ),
        ({"base_architecture": "resnet18"}, r"--base: .*base\.pt does not fit ResNet"),
        (
            {"architecture": "small_resnet"},
            "No classifier is called 'small_resnet'. Near matches: small_re",
        ),
        (
            {"layer": "layer5"},
            "--layer: SmallResNet has no layer 'layer5'. Did you mean 'layer",
        ),
        ({"base_layer": "layerX"}, "--base-layer: SmallResNet has no layer"),
        ({"images": "nothing"}, "--images: 'nothing' is no folder"),
        ({"method": "CAM"}, "--method: methods: 'CAM' is unknown. Valid names are 'Grad-CAM'"),
        ({"precision": "half"}, "--precision must be one of float16"),
        ({"device": "cuda:99"}, "--device: cuda:99 cannot be used"),
        ({"mean": "a,b,c"}, "--mean: the models take images of 3 channels, so 3 comma-separated numbers are"),
        ({"label_encoder": "nowhere.safetensors"}, "--label-encoder: there is no file"),
        ({"base": None}, "Give --student, --base, --architecture and --images"),
    ],
)
def test_bad_options(folder: Path, tmp_path: Path, changed: dict[str, str], message: str) -> None:
    result = explain(*arguments(folder, tmp_path, **changed))
    assert result.exit_code in (1, 2)
    assert re.search(message, re.sub(r"\s+", " ", result.output)), result.output
    assert "Traceback" not in result.output
