"""The command captum-kd distill: whole runs on a small folder in the layout of a real data set."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from captum_kd.cli.main import main
from tests.pets import write_pets

# What is left out is checked where images are read and in run.json.
pytestmark = pytest.mark.filterwarnings("ignore:left out")

OPTIONS = [
    *("--teacher", "small_resnet6", "--student", "small_resnet4", "--image-size", "24"),
    *("--epochs", "2", "--batch-size", "8", "--learning-rate", "0.01", "--accelerator", "cpu"),
]


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pets(tmp_path_factory.mktemp("pets"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def finished(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every technique and an assistant, two folds."""
    out = tmp_path_factory.mktemp("run") / "new" / "run"
    techniques = [word for t in ("response", "attention", "overhaul") for word in ("--technique", t)]
    result = run(
        *("distill", "--data", "asirra", "--root", str(pets), "--folds", "2", "--out", str(out)),
        *OPTIONS,
        *techniques,
        *("--assistant", "small_resnet5", "--weight", "attention=10"),
    )
    assert result.exit_code == 0, result.output
    return out, result.output


def test_a_run_holds_everything(finished: tuple[Path, str]) -> None:
    out, output = finished
    record = json.loads((out / "run.json").read_text())
    names = ["teacher", "base"]
    for technique in ("response", "attention", "overhaul"):
        names += [f"assistant1-{technique}", f"student-{technique}"]
    assert [(s["fold"], s["name"]) for s in record["stages"]] == [(f, n) for f in (1, 2) for n in names]
    for stage in record["stages"]:
        assert len(stage["epochs"]) == 2
        assert 0 <= stage["test"]["accuracy"] <= 1
        folder = out / f"fold{stage['fold']}" / stage["name"]
        assert (folder / "model.safetensors").exists()
        assert not (folder / "resume.ckpt").exists()
    assert record["arguments"]["weights"] == {"attention": 10.0}
    assert {"torch", "lightning", "captum"} <= set(record["versions"])
    assert len(record["data"]["skipped"]) == 2
    assert record["data"]["class_names"] == ["Cat", "Dog"]
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    splits = load_file(out / "splits.safetensors")
    for fold in (1, 2):
        train, validation = (set(splits[f"fold{fold}.{part}"].tolist()) for part in ("train", "validation"))
        assert not train & validation
        assert len(train | validation) == record["data"]["training_images"] == 48
    assert record["data"]["test_images"] == 12
    assert re.search(r"student-overhaul +0\.\d{4} \+- 0\.\d{4} over 2 folds", output)
    assert f"captum-kd explain {out}" in output


def test_folds_have_teachers_of_their_own_and_students_start_where_the_base_does(
    finished: tuple[Path, str],
) -> None:
    out, _ = finished
    first, second = (load_file(out / f"fold{i}" / "teacher" / "model.safetensors") for i in (1, 2))
    assert not torch.equal(first["fc.weight"], second["fc.weight"])
    weights = [load_file(p)["fc.weight"] for p in sorted(out.glob("fold1/student-*/model.safetensors"))]
    assert len(weights) == 3
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def test_a_finished_run_is_not_trained_again(finished: tuple[Path, str], pets: Path) -> None:
    out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.glob("fold*/*/model.safetensors")}
    techniques = [word for t in ("response", "attention", "overhaul") for word in ("--technique", t)]
    arguments = [*OPTIONS, *techniques, "--assistant", "small_resnet5", "--weight", "attention=10"]
    common = ["distill", "--data", "asirra", "--root", str(pets), "--out", str(out)]
    assert run(*common, "--folds", "2", *arguments).exit_code == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("fold*/*/model.safetensors")}
    result = run(*common, "--folds", "3", "--seed", "1", *arguments)
    assert result.exit_code == 1
    assert "folds was 2 and is now 3; seed was 0 and is now 1" in result.output


def test_of_few_test_images_a_quarter_is_the_reference(
    finished: tuple[Path, str], pets: Path, tmp_path: Path
) -> None:
    out, _ = finished
    given = ["explain", str(out), "--student", "student-attention", "--fold", "2", "--root", str(pets)]
    result = run(*given, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "scores.json").read_text())["settings"]
    assert (settings["samples"], settings["reference"]) == (9, 3)


def test_a_killed_run_ends_as_an_unbroken_one(pets: Path, tmp_path: Path) -> None:
    """The process is killed, as by a power cut, in the middle of the base model."""
    folder = pets / "PetImages"
    for name in ("666.jpg", "11702.jpg"):
        for path in folder.rglob(name):
            assert path.exists()
    command = [
        *("distill", "--data", str(folder), "--skip-unreadable", "--folds", "1", *OPTIONS),
        *("--technique", "attention", "--weight", "attention=10", "--schedule", "cosine"),
    ]
    command[command.index("--epochs") + 1] = "6"
    assert run(*command, "--out", str(tmp_path / "whole")).exit_code == 0
    program = [sys.executable, "-c", "from captum_kd.cli.main import main; main()"]
    process = subprocess.Popen(
        [*program, *command, "--out", str(tmp_path / "cut")], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "fold1" / "base" / "resume.ckpt").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "fold1" / "base" / "stage.json").exists()
    assert run(*command, "--out", str(tmp_path / "cut")).exit_code == 0
    for name in ("teacher", "base", "student-attention"):
        whole, cut = (
            load_file(tmp_path / kind / "fold1" / name / "model.safetensors") for kind in ("whole", "cut")
        )
        assert all(torch.equal(whole[key], cut[key]) for key in whole), name
    whole_run, cut_run = (json.loads((tmp_path / k / "run.json").read_text()) for k in ("whole", "cut"))
    assert [s["epochs"] for s in whole_run["stages"]] == [s["epochs"] for s in cut_run["stages"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--technique", "magic"], "'response', 'attention', 'overhaul'"),
        (["--student", "resnt18"], "Near matches: .*resnet18"),
        (["--data", "cifar11"], "(?s)cifar10.*fashion-mnist.*planted-cue.*asirra.*plant-village"),
        (["--weight", "response"], "--weight must be like response=0.3, got 'response'"),
        (["--weight", "overhaul=1"], "weights are given for .'overhaul'., which this recipe does not train"),
        (["--technique", "attention", "--layers", "layer9"], "layer9"),
        (
            ["--technique", "overhaul", "--layers", "layer2", "--teacher-layers", "layer3"],
            r"student layer2 \(8, 6, 6\) with teacher layer3 \(24, 3, 3\)",
        ),
        (["--weight", "response=0.3", "--weight", "response=0.5"], "--weight names response twice"),
        (["--weight", "respose=0.3"], "weights are given for .'respose'., .*it trains by response"),
        (["--technique", "attention", "--temperature", "4"], "temperature is given, but no student"),
        (["--layers", "layer9"], "layer9"),
        (["--teacher-layers", "layer9"], "layer9"),
        (["--layers", "layer3", "--layers", "layer3"], "layers must name each pair once"),
        (["--assistant", "resnt18"], "Near matches: .*resnet18"),
        (["--assistant", "alexnet", "--image-size", "16"], "alexnet cannot take images of 16 x 16 pixels"),
        (["--limit", "2"], "needed"),
        (["--precision", "31"], "--precision 31"),
        (["--pretrained"], "has no pre-trained weights"),
        (["--nesterov", "--momentum", "0"], "nesterov is for optimizer='sgd' with a momentum above 0"),
        (["--folds", "99"], "99"),
        (["--teacher-checkpoint", "none.safetensors"], "There is no checkpoint none.safetensors"),
    ],
)
def test_bad_arguments(pets: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    data = [] if "--data" in arguments else ["--data", str(pets / "PetImages"), "--skip-unreadable"]
    folds = [] if "--folds" in arguments else ["--folds", "1"]
    quick = [*OPTIONS, "--epochs", "1", *data, *folds, "--out", str(tmp_path / "run")]
    result = run("distill", *quick, *arguments)
    assert result.exit_code != 0
    assert re.search(message, result.output), result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists(), "so that the corrected command runs"


NUMBERS = [
    *((option, bad) for option in ("--learning-rate", "--temperature") for bad in ("nan", "inf", "0", "-1")),
    *(("--momentum", bad) for bad in ("nan", "5", "1", "-0.1")),
    *(("--weight-decay", bad) for bad in ("nan", "inf", "-1")),
    *(("--weight", f"response={bad}") for bad in ("nan", "inf", "-1", "2")),
]


@pytest.mark.parametrize(("option", "value"), NUMBERS)
def test_numbers_out_of_range(tmp_path: Path, option: str, value: str) -> None:
    result = run("distill", "--data", "cifar10", *OPTIONS, "--out", str(tmp_path / "run"), option, value)
    assert result.exit_code == 1
    assert f"({option})" in result.output
    assert f"got {float(value.rpartition('=')[2])}" in result.output
    assert not (tmp_path / "run").exists()


SMALLEST = [
    *("--teacher", "small_resnet2", "--student", "small_resnet2", "--image-size", "16", "--folds", "1"),
    *("--epochs", "1", "--batch-size", "8", "--accelerator", "cpu", "--skip-unreadable"),
]


def test_training_that_diverges_ends_with_its_name_and_no_model(pets: Path, tmp_path: Path) -> None:
    command = ["distill", "--data", str(pets / "PetImages"), *SMALLEST, "--out", str(tmp_path / "run")]
    result = run(*command, "--learning-rate", "1e30")
    assert result.exit_code == 1
    assert re.search("The training of fold 1, teacher diverged in epoch 1, .*--learning-rate", result.output)
    assert "accuracy" not in result.output
    assert not [path for path in tmp_path.rglob("*") if path.name in ("stage.json", "model.safetensors")]
    result = run(*command, "--learning-rate", "0.01")
    assert result.exit_code == 0, result.output


def test_an_empty_resume_file_is_named_and_the_model_starts_again(pets: Path, tmp_path: Path) -> None:
    command = ["distill", "--data", str(pets / "PetImages"), *SMALLEST, "--out", str(tmp_path)]
    assert run(*command).exit_code == 0
    base = tmp_path / "fold1" / "base"
    before = load_file(base / "model.safetensors")
    for name in ("stage.json", "model.safetensors"):
        (base / name).unlink()
    (base / "resume.ckpt").touch()
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert f"Warning: {base / 'resume.ckpt'} cannot be resumed from: " in result.output
    assert "set aside as resume.ckpt.damaged and the training of fold 1, base starts again." in result.output
    assert all(value.equal(before[key]) for key, value in load_file(base / "model.safetensors").items())
    assert (base / "resume.ckpt.damaged").exists()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [
        name for name in sys.modules if name.startswith(("captum_kd.distill.", "captum_kd.explain"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lightning", None)
    for command in (["distill", "--data", "cifar10", *OPTIONS], ["explain", str(tmp_path)]):
        result = run(*command)
        assert result.exit_code == 1
        assert "needs the extra 'distill'" in result.output
        assert "pip install 'captum-kd[distill]'" in result.output


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    result = run("distill", "--data", "cifar10", *OPTIONS, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "is not empty and holds no run" in result.output
    assert "holds no run.json" in run("explain", str(tmp_path)).output
    (tmp_path / "run.json").write_text("{")
    assert "is damaged" in run("explain", str(tmp_path)).output
