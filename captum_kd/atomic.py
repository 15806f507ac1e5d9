"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that appears whole or not at all, whatever interrupts the writing.

    The file may be read and written by whom ``open`` would let: a new one by the umask, one that is
    replaced by whom it was before.

    Args:
        path: Path of the file; its folder must exist.
        write: Writes the contents to the path that it is called with.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_whole(Path(folder, "note.txt"), lambda path: path.write_text("whole"))
        ...     os.listdir(folder)
        ['note.txt']
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    # The system takes the umask off. To ask for it, one would have to change it for all threads.
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    os.close(handle)
    try:
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        write(temporary)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
