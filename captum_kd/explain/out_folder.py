"""The folder of a report: where it may be, found out before anything is written."""

from __future__ import annotations

import os
from pathlib import Path

RUN_REPORTS = "explain"  # the folder within a run that reports belong in


def check_writable(folder: Path) -> None:
    """Find out whether a folder can be made and written to, without making it.

    Args:
        folder: The folder; it need not exist.

    Raises:
        ValueError: It cannot be made or written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    reason = ""
    if not there.is_dir():
        reason = f"{there} is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"there is no permission to write to {there}"
    if reason:
        raise ValueError(f"Could not write to {folder}: {reason}. Choose another folder with --out.")


def check_place(folder: Path, *, images: Path | None, run: Path | None) -> None:
    """Refuse a folder in which a report would be taken for something else later.

    Args:
        folder: The folder of the report; it need not exist.
        images: The folder of images, if they are in one.
        run: The folder of the distillation run, if one is explained.

    Raises:
        ValueError: The folder is in the images' folder, or in the run's among its models.
    """
    real = Path(os.path.realpath(folder))
    if images is not None and real.is_relative_to(os.path.realpath(images)):
        raise ValueError(
            f"--out: {folder} is in the image folder {images}, where the next call would take it for a "
            "class. Choose another folder with --out."
        )
    if run is None or not real.is_relative_to(os.path.realpath(run)):
        return
    if not real.is_relative_to(Path(os.path.realpath(run), RUN_REPORTS)):
        raise ValueError(
            f"--out: {folder} is in the run {run}, among its models. Choose a folder in {run / RUN_REPORTS}, "
            "or elsewhere."
        )


def default_folder(run: Path | None, fold: int) -> Path:
    """The folder of a report where none is named.

    Args:
        run: The folder of the distillation run, if one is explained.
        fold: Its fold.

    Raises:
        ValueError: Links in the run lead the report out of it.
    """
    if run is None:
        return Path("captum-kd-report")
    folder = run / RUN_REPORTS / f"fold{fold}"
    for path in (folder, folder / "figures", folder / ".features"):
        require_inside(run, path)
    return folder


def require_inside(folder: Path, path: Path) -> None:
    """Refuse a path that leads out of a folder, by its name or by links.

    Args:
        folder: The folder.
        path: A path that should be below it; it need not exist.

    Raises:
        ValueError: It is elsewhere.
    """
    real, own = os.path.realpath(path), os.path.realpath(folder)
    if not Path(real).is_relative_to(own):
        raise ValueError(
            f"{path} leads out of {folder}, to {real}. Replace the link by a copy of what it should be."
        )
