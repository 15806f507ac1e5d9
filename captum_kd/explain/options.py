"""The options of ``captum-kd explain``, as the command line gives them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from captum_kd.attr.methods import resolve_methods

PRECISIONS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


# Options that can be repeated, whose fields are in the plural.
_OPTIONS = {
    "students": "student",
    "methods": "method",
    "architectures": "architecture",
    "layers": "layer",
    "base_layers": "base-layer",
    "teacher_layers": "teacher-layer",
}


@dataclass(frozen=True)
class ModelOptions:
    """A user's own models and images; a distillation run has its own.

    Each field is the option of that name, several of them in the plural.

    Raises:
        ValueError: A text is empty.
    """

    base: str
    teacher: str | None
    architectures: tuple[str, ...]
    base_architecture: str | None
    teacher_architecture: str | None
    images: str
    class_names: Path | None
    layers: tuple[str, ...]
    base_layers: tuple[str, ...]
    teacher_layers: tuple[str, ...]
    image_size: int
    resize: int | None
    mean: str
    std: str

    def __post_init__(self) -> None:
        _refuse_empty(self)


@dataclass(frozen=True)
class ExplainOptions:
    """What is compared and how, for a user's own models and for a distillation run alike.

    Each field is the option of that name, several of them in the plural.

    Raises:
        ValueError: A text is empty, or the precision, the device or a method does not exist.
    """

    students: tuple[str, ...]
    methods: tuple[str, ...]
    label_encoder: str
    pooling: str
    limit: int
    reference: int
    shown: int
    kept_share: float | None
    fold: int
    seed: int
    device: str
    precision: str
    batch_size: int
    workers: int
    root: Path

    def __post_init__(self) -> None:
        _refuse_empty(self)
        if self.precision not in PRECISIONS:
            raise ValueError(f"--precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        self.torch_device()
        try:
            resolve_methods(self.methods)
        except ValueError as error:
            raise ValueError(f"--method: {error}") from error

    @property
    def dtype(self) -> torch.dtype:
        """The data type of models and images."""
        return PRECISIONS[self.precision]

    @property
    def drawn(self) -> int:
        """How many images to draw: those to score and the reference."""
        return self.limit + self.reference

    def torch_device(self) -> torch.device:
        """Return the device; "auto" takes a CUDA GPU, then Apple's GPU, then the CPU.

        Raises:
            ValueError: The device cannot be used.
        """
        name = self.device
        if name == "auto":
            mps = getattr(torch.backends, "mps", None)
            name = "cuda" if torch.cuda.is_available() else "mps" if mps and mps.is_available() else "cpu"
        try:
            device = torch.device(name)
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"--device: {name} cannot be used: {reason}. --device auto takes what is there."
            ) from error
        return device


def _refuse_empty(options: ModelOptions | ExplainOptions) -> None:
    """Refuse texts that are empty, as an unset variable of a shell leaves them.

    An empty path would be the working folder, and an empty layer the whole model.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if any(
            isinstance(text, str) and not text.strip()
            for text in (value if isinstance(value, tuple) else [value])
        ):
            option = _OPTIONS.get(field.name, field.name.replace("_", "-"))
            raise ValueError(f"--{option} is empty. Give a value, or leave the option out.")
