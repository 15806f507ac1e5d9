"""The file from which a stopped training goes on: written whole, and checked before it is trusted."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from captum_kd.distill.damage import not_finite, write_bytes

RESUME_FILE = "resume.ckpt"
_PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "epoch", "history")


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written beside their target and renamed.

    Lightning's own way writes them in the temporary folder and moves them, which copies them if that is on
    another file system, and a kill then leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; ``storage_options`` must be None."""
        if storage_options is not None:
            raise TypeError(f"{type(self).__name__} takes no storage_options, got {storage_options!r}.")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        contents = io.BytesIO()
        # In memory first: torch.save to a full disk raises a RuntimeError that does not say so.
        torch.save(checkpoint, contents)
        write_bytes(target, contents.getvalue())


def resume_problem(path: Path, weights: Mapping[str, Tensor], run: str) -> str | None:
    """Say why a training cannot go on from a file.

    Args:
        path: The file.
        weights: The state dict of what is trained, for names and shapes.
        run: The identity of the training that wrote it; see
            :func:`~captum_kd.distill.training.train_classifier`.

    Returns:
        What is wrong; None if the file is whole and of this training.

    Raises:
        PermissionError: The file may not be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # PyTorch does not compare the checksums when it reads.
            altered = archive.testzip()
        if altered is not None:
            return f"its part {altered} is not what was written"
        content = torch.load(path, "cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # whatever a reader of damaged bytes comes upon
        return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if not isinstance(content, dict) or (missing := [part for part in _PARTS if part not in content]):
        return f"it lacks {', '.join(missing)}" if isinstance(content, dict) else "it is no checkpoint"
    if content.get("run", "") != run:
        return "it is of a training with other arguments, data or teacher"
    shapes, own = (
        {name: value.shape for name, value in state.items()} for state in (content["state_dict"], weights)
    )
    if shapes != own:
        return "its weights do not fit the model"
    if names := not_finite(content["state_dict"]):
        return f"its weights hold NaN or infinite values ({', '.join(names[:3])})"
    if len(content["history"]) != content["epoch"] + 1:
        return f"it has {len(content['history'])} records of {content['epoch'] + 1} epochs"
    return None
