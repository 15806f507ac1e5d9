"""The record of a run as data from anybody: what it may hold, and that nothing in it is run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from captum_kd.distill.recipe import Recipe, stages
from captum_kd.explain.run_file import read_checked_run
from captum_kd.models.small import small_resnet
from tests.own_files import explain


def record_of(data: str = "photos", **changed: Any) -> dict[str, Any]:
    recipe = Recipe(data, "small_resnet6", "small_resnet4", folds=1, **changed)
    return {
        "arguments": json.loads(json.dumps(dataclasses.asdict(recipe))),
        "versions": {"captum_kd": "0.1.0"},
        "data": {
            "name": "photos",
            "class_names": ["cat", "dog"],
            "training_images": 8,
            "test_images": 2,
            "image_size": 32,
            "fingerprint": "0" * 64,
            "skipped": [],
        },
        "stages": [
            {**stage._asdict(), "num_classes": 2, "test": {"accuracy": 0.5}, "epochs": [{"loss": 1.5}]}
            for stage in stages(recipe)
        ],
        "explain": "captum-kd explain run",
    }


def write(folder: Path, record: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_the_record_of_a_run_is_read(tmp_path: Path) -> None:
    run = read_checked_run(write(tmp_path, record_of(layers=("layer3",), weights={"response": 1})))
    assert run.recipe == Recipe(
        *("photos", "small_resnet6", "small_resnet4"), folds=1, layers=("layer3",), weights={"response": 1}
    )
    assert [stage["name"] for stage in run.stages] == ["teacher", "base", "student-response"]
    older = record_of()
    del older["arguments"]["skip_unreadable"], older["arguments"]["training"]["workers"]
    assert read_checked_run(write(tmp_path, older)).recipe == Recipe(
        "photos", "small_resnet6", "small_resnet4", folds=1
    )


def _set(*path: str | int, to: object) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        record[path[-1]] = to

    return change


def _delete(*path: str) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        for key in path[:-1]:
            record = record[key]
        del record[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("stages", 2, "name", to="student-x/../../../outside"), r"stages\[2\]\.name must be a model of"),
        (_set("stages", 2, "name", to="/etc/student-x"), r"stages\[2\]\.name must be a model of"),
        (_set("stages", 2, "name", to="student-response\0"), r"stages\[2\]\.name must be a model of"),
        (_set("stages", 2, "name", to="C:student-x"), r"stages\[2\]\.name must be a model of"),
        (_set("stages", 2, "fold", to="../1"), r"stages\[2\]\.fold must be a whole number, got '\.\./1'"),
        (_set("stages", 2, "fold", to=True), r"stages\[2\]\.fold must be a whole number, got True"),
        (_set("stages", 2, "fold", to=2), r"stages\[2\]\.fold must be from 1 to 1, got 2"),
        (_set("stages", 2, "architecture", to="evil:factory"), r"architecture must be the recipe's 'small_r"),
        (
            _set("stages", 2, "test", "accuracy", to=float("nan")),
            r"accuracy must be a finite number",
        ),
        (_set("stages", 2, "test", "accuracy", to=7), r"accuracy must be from 0 to 1"),
        (_set("stages", 2, "epochs", to={}), r"stages\[2\]\.epochs must be a list, got dict"),
        (_set("stages", 1, to="base"), r"stages\[1\] must be a mapping, got 'base'"),
        (_set("stages", 1, "name", to="teacher"), r"stages\[1\]: fold 1 has teacher twice"),
        (_set("arguments", "folds", to=10**9), r"arguments\.folds must be from 1 to 1000"),
        (_set("arguments", "image_size", to=10**6), r"arguments\.image_size must be from 1 to 8192"),
        (_set("arguments", "seed", to=-1), r"arguments: seed must be at least 0"),
        (_set("arguments", "student", to=["resnet18"]), r"arguments\.student must be a text, got list"),
        (_set("arguments", "layers", to=[""]), r"arguments\.layers has an empty name"),
        (
            _set("arguments", "techniques", to=["magic"]),
            r"techniques\[0\] must be one of 'response',",
        ),
        (_set("arguments", "weights", to={"response": 1e999}), r"response must be a finite number"),
        (
            _set("arguments", "weights", to={"response": 10**400}),
            r"response must be a finite number",
        ),
        (_set("arguments", "training", "epochs", to=0), r"arguments: epochs must be at least 1"),
        (
            _set("arguments", "data", to="//server/share"),
            r"arguments\.data must be a data set or a folder",
        ),
        (_set("arguments", "data", to="photos\0"), r"arguments\.data must be a data set or a folder"),
        (
            _set("arguments", "import", to="os"),
            r"'arguments\.import' is no known field; known are data",
        ),
        (_set("hook", to="evil:run"), r"'hook' is no known field; known are arguments"),
        (_set("data", "class_names", to=["cat", "cat"]), r"data\.class_names must be different names"),
        (_set("data", "class_names", to=["cat", "\x1b[2J"]), r"data\.class_names must be different names"),
        (_set("data", "class_names", to=[1, 2]), r"data\.class_names\[0\] must be a text, got 1"),
        (_delete("arguments", "teacher"), r"the field 'arguments\.teacher' is missing"),
        (_delete("stages"), r"must be an object with .*stages"),
    ],
)
def test_other_records_are_refused_by_file_and_field(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    record = record_of()
    change(record)
    with pytest.raises(ValueError, match=rf"run\.json(: .*|: | is damaged: .*){message}"):
        read_checked_run(write(tmp_path, record))


@pytest.mark.parametrize(
    "content",
    [b"[]", b"null", b"{", b"\xff\xfe\x00", b"[" * 100_000, b'{"arguments": ' + b"9" * 5000 + b"}"],
)
def test_files_that_hold_no_record_are_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_checked_run(tmp_path)


def evil_run(folder: Path, field: str) -> Path:
    """A run beside a module that leaves a trace if it is imported, as an archive might hold both."""
    record = record_of()
    record["arguments"][field] = ["evil:factory"] if field == "assistants" else "evil:factory"
    for stage in record["stages"]:
        if (stage["name"] == "teacher") == (field == "teacher") and field != "assistants":
            stage["architecture"] = "evil:factory"
    if field == "assistants":
        record["stages"] = [s for s in record["stages"] if s["name"] != "student-response"]
    (folder / "evil.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
        "from captum_kd.models.small import small_resnet\n"
        "def factory(num_classes):\n    return small_resnet(4, num_classes)\n"
    )
    return write(folder / "run", record)


@pytest.mark.parametrize("field", ["student", "teacher", "assistants"])
def test_code_that_a_record_names_is_not_run(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = explain(evil_run(tmp_path, field))
    assert result.exit_code == 1
    assert f"run.json: arguments.{field}" in result.output
    assert "is 'evil:factory', which names code to run" in result.output
    assert "--architecture evil:factory" in result.output
    assert not Path("ran").exists()
    assert sorted(path.name for path in Path("run").rglob("*")) == ["run.json"]


def test_a_factory_is_allowed_by_its_exact_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = read_checked_run(evil_run(tmp_path, "student"))
    run.check_architectures(["evil:factory"])
    for other in ("evil:factory2", "evil", "resnet18"):
        with pytest.raises(ValueError, match=f"--architecture: the run has no '{other}'; .*'evil:factory'"):
            run.check_architectures([other])
    # The next thing that is missing is the data set, so the factory was let through.
    assert "unknown data 'photos'" in explain("run", "--architecture", "evil:factory").output


def test_networks_of_absurd_size_are_refused(tmp_path: Path) -> None:
    record = record_of()
    record["arguments"]["teacher"] = record["stages"][0]["architecture"] = "small_resnet99999999"
    run = read_checked_run(write(tmp_path, record))
    with pytest.raises(ValueError, match=r"arguments\.teacher must be at most 1024 channels wide"):
        run.check_architectures([])


def test_links_that_lead_out_of_the_run_are_refused(tmp_path: Path) -> None:
    run = read_checked_run(write(tmp_path / "run", record_of()))
    (tmp_path / "outside").mkdir()
    save_file(small_resnet(4, 2).state_dict(), tmp_path / "outside" / "model.safetensors")
    (run.folder / "fold1" / "base").mkdir(parents=True)
    (run.folder / "fold1" / "base" / "model.safetensors").symlink_to(
        tmp_path / "outside" / "model.safetensors"
    )
    (run.folder / "fold1" / "student-response").symlink_to(tmp_path / "outside")
    for name in ("base", "student-response"):
        with pytest.raises(ValueError, match=rf"{name}.* leads out of .*run, to .*outside"):
            run.check_paths(1, [name])
    (run.folder / "fold1" / "here").mkdir()
    torch.save({}, run.folder / "fold1" / "here" / "model.pt")
    (run.folder / "fold1" / "teacher").symlink_to(run.folder / "fold1" / "here")
    run.check_paths(1, ["teacher"])
    (run.folder / "run.json").rename(tmp_path / "run.json")
    (run.folder / "run.json").symlink_to(tmp_path / "run.json")
    with pytest.raises(ValueError, match="leads out of"):
        read_checked_run(run.folder)
