"""Files that appear whole, readable by whom the umask says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from captum_kd.atomic import write_whole


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o027])
def test_a_new_file_has_the_mode_that_open_gives(tmp_path: Path, umask: None, mask: int) -> None:
    os.umask(mask)
    (tmp_path / "opened").write_text("as usual")
    write_whole(tmp_path / "text", lambda path: path.write_text("whole"))
    # Another library writes it, in its own way.
    write_whole(tmp_path / "tensors", lambda path: save_file({"a": torch.zeros(1)}, path))
    assert {mode(path) for path in tmp_path.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("given", [0o600, 0o664])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, umask: None, given: int) -> None:
    os.umask(0o022)
    path = tmp_path / "text"
    path.write_text("before")
    path.chmod(given)
    write_whole(path, lambda temporary: temporary.write_text("after"))
    assert (path.read_text(), mode(path)) == ("after", given)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_is_interrupted_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "text"
    path.write_text("before")

    def write(temporary: Path) -> None:
        temporary.write_text("aft")
        raise error

    with pytest.raises(error):
        write_whole(path, write)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]
