"""Files of a run that are cut, altered or replaced: each is noticed, set aside, and made again."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import TensorDataset

from captum_kd.atomic import write_whole
from captum_kd.distill import run_folder
from captum_kd.distill.damage import DamagedFileError, is_stray, set_aside
from captum_kd.distill.recipe import Stage
from captum_kd.distill.resume import RESUME_FILE, WholeCheckpoints, resume_problem
from captum_kd.distill.run_folder import MODEL_FILE, STAGE_FILE, Finished, finish_stage, finished_stages
from captum_kd.distill.stages import load_stage
from captum_kd.distill.training import TrainingSettings, train_classifier
from captum_kd.models.small import small_resnet

STAGE = Stage(1, "base", "small_resnet2")
HISTORY = [{"train_loss": 0.5, "train_accuracy": 0.5, "validation_accuracy": 0.25}]
DATA = TensorDataset(torch.randn(8, 3, 16, 16), torch.arange(8) % 2)
QUICK = TrainingSettings(epochs=2, batch_size=4, accelerator="cpu")


def cuts(path: Path) -> Iterator[bytes]:
    """The contents cut at several lengths, and with a byte altered at several places."""
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        yield whole[:length]
    for place in range(0, len(whole), max(len(whole) // 40, 1)):
        yield whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    finish_stage(tmp_path, STAGE, small_resnet(2, 3), 3, HISTORY, {"accuracy": 0.5}, run="a run")
    return tmp_path / "fold1" / "base"


def write_run(own: Path) -> None:
    record = {"arguments": {}, "versions": {}, "data": {"fingerprint": ""}, "stages": [], "explain": ""}
    (own.parent.parent / "run.json").write_text(json.dumps(record))


def read(own: Path) -> Finished | DamagedFileError:
    return finished_stages(own.parent.parent, [STAGE], 3, "a run")[STAGE]


def test_a_whole_stage_is_read_as_it_was_written(finished: Path) -> None:
    found = read(finished)
    assert isinstance(found, Finished)
    assert found.record["epochs"] == HISTORY
    assert found.record["test"] == {"accuracy": 0.5}
    assert load_stage(finished.parent.parent, 1, "base", "small_resnet2", 3)


@pytest.mark.parametrize("name", [STAGE_FILE, MODEL_FILE])
def test_every_alteration_of_a_finished_model_is_noticed(finished: Path, name: str) -> None:
    """Or changes nothing, as a space between two words of JSON does."""
    before, path, noticed = read(finished), finished / name, 0
    for contents in list(cuts(path)):
        path.write_bytes(contents)
        found = read(finished)
        noticed += isinstance(found, DamagedFileError)
        assert found == before or (isinstance(found, DamagedFileError) and found.path == path)
        if name == MODEL_FILE and isinstance(found, DamagedFileError):
            with pytest.raises(ValueError, match=r"model.safetensors is damaged: "):
                load_stage(finished.parent.parent, 1, "base", "small_resnet2", 3)
    assert noticed > 35
    path.unlink()
    path.mkdir()
    assert isinstance(read(finished), DamagedFileError)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["test"].update(accuracy=0.9), "its digest differs"),
        (lambda r: r["epochs"].append(dict(HISTORY[0])), "its digest differs"),
        (lambda r: r.update(chocks=r.pop("checks")), "it must be an object with architecture, epochs"),
        (lambda r: r["checks"].pop("weights"), "its digests are incomplete"),
        (lambda r: r.update(name="teacher"), "it is not of this model (name differ)"),
        (lambda r: r.update(epochs=3), "its results are no numbers"),
        (lambda r: r.update(test={}), "it lacks an accuracy"),
        (lambda r: r.pop("test"), "it must be an object with architecture, epochs"),
    ],
)
def test_records_that_are_json_but_not_what_was_written(
    finished: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    record = json.loads((finished / STAGE_FILE).read_text())
    change(record)
    (finished / STAGE_FILE).write_text(json.dumps(record))
    found = read(finished)
    assert isinstance(found, DamagedFileError)
    assert reason in str(found)


def test_records_without_digests_are_of_an_earlier_version(finished: Path) -> None:
    record = json.loads((finished / STAGE_FILE).read_text())
    del record["checks"]
    (finished / STAGE_FILE).write_text(json.dumps(record))
    (finished.parent.parent / "run.json").write_text("{")
    with pytest.raises(ValueError, match="Nothing else says which arguments base of fold 1 was trained with"):
        read(finished)
    write_run(finished)
    with pytest.warns(UserWarning, match="is of an earlier version and has no digests"):
        found = read(finished)
    assert isinstance(found, Finished)
    assert (found.run, found.teacher) == (None, None)


def test_models_of_another_run_are_refused(finished: Path) -> None:
    with pytest.raises(ValueError, match="is of a run with other arguments, data or folds"):
        finished_stages(finished.parent.parent, [STAGE], 3, "another run")


def test_a_model_with_nan_is_not_finished(tmp_path: Path) -> None:
    model = small_resnet(2, 3)
    with torch.no_grad():
        model.fc.bias[0] = torch.nan
    with pytest.raises(ValueError, match=r"The weights of base of fold 1 hold NaN .*\(fc.bias\), so it"):
        finish_stage(tmp_path, STAGE, model, 3, [], {"accuracy": 0.5})
    assert not list(tmp_path.rglob("*.*"))


def test_a_disk_that_is_full_for_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(run_folder, "save_file", full)
    with pytest.raises(OSError, match=r"model.safetensors could not be written: .*No space left on device"):
        finish_stage(tmp_path, STAGE, small_resnet(2, 3), 3, [], {"accuracy": 0.5})
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def resumable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A training of two epochs that has ended, and its weights."""
    folder = tmp_path_factory.mktemp("resumable")
    torch.manual_seed(0)
    model = small_resnet(2, 2)
    train_classifier(model, 2, DATA, DATA, QUICK, folder, run="this", title="fold 1, base")
    return folder / RESUME_FILE, model.state_dict()


def own_weights() -> dict[str, torch.Tensor]:
    return nn.ModuleDict({"model": small_resnet(2, 2)}).state_dict()


def test_every_alteration_of_a_resume_file_is_noticed(
    resumable: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    path, own, noticed = resumable[0], own_weights(), 0
    assert resume_problem(path, own, "this") is None
    whole = torch.load(path, weights_only=True)
    altered = tmp_path / RESUME_FILE
    for contents in cuts(path):
        altered.write_bytes(contents)
        if resume_problem(altered, own, "this") is not None:
            noticed += 1
            continue
        again = torch.load(altered, weights_only=True)
        assert all(again["state_dict"][key].equal(value) for key, value in whole["state_dict"].items())
        assert str(again["optimizer_states"]) == str(whole["optimizer_states"])
        assert again["history"] == whole["history"]
    assert noticed > 25
    altered.unlink()
    altered.mkdir()
    assert "directory" in str(resume_problem(altered, own, "this"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("history"), "it lacks history"),
        (lambda c: c.update(run="another"), "it is of a training with other arguments, data or teacher"),
        (lambda c: c.update(epoch=5), "it has 2 records of 6 epochs"),
        (lambda c: c["state_dict"].pop("model.fc.bias"), "its weights do not fit the model"),
        (
            lambda c: c["state_dict"]["model.fc.bias"].fill_(torch.inf),
            r"NaN or infinite values (model.fc.bias)",
        ),
    ],
)
def test_resume_files_that_can_be_read_but_not_used(
    resumable: tuple[Path, dict[str, torch.Tensor]],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    reason: str,
) -> None:
    content = torch.load(resumable[0], weights_only=True)
    change(content)
    torch.save(content, tmp_path / RESUME_FILE)
    assert reason in str(resume_problem(tmp_path / RESUME_FILE, own_weights(), "this"))
    torch.save([1], tmp_path / RESUME_FILE)
    assert resume_problem(tmp_path / RESUME_FILE, own_weights(), "this") == "it is no checkpoint"


@pytest.mark.parametrize("kind", ["empty", "folder"])
def test_a_training_starts_again_where_it_cannot_be_resumed(
    resumable: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, kind: str
) -> None:
    path, stray = tmp_path / RESUME_FILE, tmp_path / f".{RESUME_FILE}.abcd_123"
    path.mkdir() if kind == "folder" else path.touch()
    stray.touch()
    torch.manual_seed(0)
    model = small_resnet(2, 2)
    message = "resume.ckpt cannot be resumed from: .*damaged and the training of fold 1, base starts again"
    with pytest.warns(UserWarning, match=message):
        train_classifier(model, 2, DATA, DATA, QUICK, tmp_path, run="this", title="fold 1, base")
    assert all(value.equal(model.state_dict()[key]) for key, value in resumable[1].items())
    assert (tmp_path / f"{RESUME_FILE}.damaged").exists()
    assert not stray.exists()


def test_checkpoints_are_written_beside_their_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def full(path: Path, contents: bytes) -> int:
        seen.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / RESUME_FILE).write_text("the last epoch")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            WholeCheckpoints().save_checkpoint({"epoch": 1}, tmp_path / RESUME_FILE)
    assert seen[0].parent == tmp_path
    assert is_stray(seen[0], [RESUME_FILE])
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the last epoch"]
    WholeCheckpoints().save_checkpoint({"epoch": 1}, tmp_path / RESUME_FILE)
    assert torch.load(tmp_path / RESUME_FILE) == {"epoch": 1}
    with pytest.raises(TypeError, match="takes no storage_options"):
        WholeCheckpoints().save_checkpoint({}, tmp_path / RESUME_FILE, {})


def test_training_writes_checkpoints_that_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    real = Trainer.__init__

    def watched(self: Trainer, *arguments: Any, **options: Any) -> None:
        given.extend(options.get("plugins", ()))
        real(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "__init__", watched)
    train_classifier(small_resnet(2, 2), 2, DATA, DATA, QUICK, tmp_path)
    assert [type(plugin) for plugin in given] == [WholeCheckpoints]


def test_only_our_own_temporary_files_are_strays(tmp_path: Path) -> None:
    names: list[str] = []
    write_whole(tmp_path / STAGE_FILE, lambda path: names.append(path.name))
    assert is_stray(tmp_path / names[0], [MODEL_FILE, STAGE_FILE])
    for name in (STAGE_FILE, f".{STAGE_FILE}", f".{STAGE_FILE}.bak", ".other.json.abcd1234", "a.abcd1234"):
        assert not is_stray(tmp_path / name, [MODEL_FILE, STAGE_FILE])


def test_nothing_that_was_set_aside_is_written_over(tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        (tmp_path / "a").write_text(text)
        with pytest.warns(UserWarning, match=r"It is short. a was set aside as a.damaged.* and comes again."):
            set_aside([tmp_path / "a", tmp_path / "missing"], "It is short", "comes again")
    texts = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert texts == {"a.damaged": "first", "a.damaged-2": "second", "a.damaged-3": "third"}
