"""The record of a distillation run, as data that may come from anybody: checked before it is used."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captum_kd.distill.recipe import Recipe, stages
from captum_kd.distill.run_folder import MODEL_FILE, RUN_FILE, DataRecord, RunRecord, StageRecord, read_run
from captum_kd.distill.training import TrainingSettings
from captum_kd.explain.out_folder import require_inside
from captum_kd.records import check_record

_MOST_FOLDS = 1000
_LARGEST_IMAGE = 8192  # pixels
_WIDEST = 1024  # channels of the first layer of a small network
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class CheckedRun:
    """A run whose record holds what a run's can hold, and nothing that leads out of its folder.

    Attributes:
        folder: Folder of the run.
        recipe: What was trained.
        data: What the record says about the data set.
        stages: The finished models.
    """

    folder: Path
    recipe: Recipe
    data: DataRecord
    stages: list[StageRecord]

    def __post_init__(self) -> None:
        where = str(self.folder / RUN_FILE)
        if _CONTROL.search(self.recipe.data) or re.match(r"[\\/]{2}", self.recipe.data):
            raise ValueError(
                f"{where}: arguments.data must be a data set or a folder of this machine, got "
                f"{self.recipe.data!r}."
            )
        names = self.data["class_names"]
        if not names or len(set(names)) < len(names) or any(_CONTROL.search(name) for name in names):
            raise ValueError(
                f"{where}: data.class_names must be different names without control characters, got {names}."
            )
        for field, number, least, most in (
            ("arguments.folds", self.recipe.folds, 1, _MOST_FOLDS),
            ("arguments.seed", self.recipe.seed, 0, 2**32 - 1),
            ("arguments.image_size", self.recipe.image_size, 1, _LARGEST_IMAGE),
            ("arguments.limit", self.recipe.limit, 1, 2**62),
            ("data.training_images", self.data["training_images"], 0, 2**62),
            ("data.test_images", self.data["test_images"], 0, 2**62),
        ):
            if number is not None and not least <= number <= most:
                raise ValueError(f"{where}: {field} must be from {least} to {most}, got {number}.")
        for field in ("layers", "teacher_layers"):
            if not all(name.strip() for name in getattr(self.recipe, field)):
                raise ValueError(
                    f"{where}: arguments.{field} has an empty name, which would be the whole model."
                )
        self._check_stages(where)

    def _check_stages(self, where: str) -> None:
        """The finished models must be models of the recipe, so that their names are no paths."""
        known = {stage.name: stage for stage in stages(replace(self.recipe, folds=1))}
        seen = set()
        for i, record in enumerate(self.stages):
            field = f"{where}: stages[{i}]"
            stage = known.get(record["name"])
            if stage is None:
                raise ValueError(
                    f"{field}.name must be a model of the recipe ({', '.join(known)}), got "
                    f"{record['name']!r}."
                )
            if not 1 <= record["fold"] <= self.recipe.folds:
                raise ValueError(f"{field}.fold must be from 1 to {self.recipe.folds}, got {record['fold']}.")
            if (record["fold"], record["name"]) in seen:
                raise ValueError(f"{field}: fold {record['fold']} has {record['name']} twice.")
            seen.add((record["fold"], record["name"]))
            if record["architecture"] != stage.architecture:
                raise ValueError(
                    f"{field}.architecture must be the recipe's {stage.architecture!r}, got "
                    f"{record['architecture']!r}."
                )
            if not 0 <= record["test"].get("accuracy", -1) <= 1:
                raise ValueError(f"{field}.test.accuracy must be from 0 to 1.")

    def check_architectures(self, named: Sequence[str]) -> None:
        """Refuse code that only the record asks for.

        Args:
            named: The architectures that the user names.

        Raises:
            ValueError: An architecture of the run is a factory that the user does not name, or a network of
                absurd size; or the user names one that the run does not have.
        """
        recipe = self.recipe
        own = {"teacher": recipe.teacher, "student": recipe.student}
        own |= {f"assistants[{i}]": name for i, name in enumerate(recipe.assistants)}
        for name in named:
            if name not in own.values():
                listed = ", ".join(map(repr, dict.fromkeys(own.values())))
                raise ValueError(f"--architecture: the run has no {name!r}; its architectures are {listed}.")
        for field, name in own.items():
            where = f"{self.folder / RUN_FILE}: arguments.{field}"
            if ":" in name and name not in named:
                raise ValueError(
                    f"{where} is {name!r}, which names code to run, and a data file does not decide that. If "
                    f"you know this code and trust it, name it yourself: --architecture {shlex.quote(name)}"
                )
            small = re.fullmatch(r"small_[a-z]+(\d+)", name)
            if small and not 1 <= int(small[1][:9]) <= _WIDEST:
                raise ValueError(f"{where} must be at most {_WIDEST} channels wide, got {name!r}.")

    def check_paths(self, fold: int, names: Sequence[str]) -> None:
        """Refuse models that are not in the run's own folder.

        Args:
            fold: The fold whose models are needed.
            names: Their names.

        Raises:
            ValueError: A link leads out of the folder.
        """
        for name in names:
            require_inside(self.folder, self.folder / f"fold{fold}" / name / MODEL_FILE)


def read_checked_run(folder: Path) -> CheckedRun:
    """Read ``run.json`` and check all that it says.

    Args:
        folder: Folder of a run of ``captum-kd distill``.

    Returns:
        The run.

    Raises:
        ValueError: There is no ``run.json``, or it is damaged or holds something else than a run's; the
            message names the file and the field.
    """
    where = str(folder / RUN_FILE)
    require_inside(folder, folder / RUN_FILE)
    try:
        content: Any = read_run(folder)
    except (ValueError, RecursionError, OSError) as error:
        if str(folder) in str(error):
            raise
        raise ValueError(f"{where} is damaged: {error}.") from error
    check_record(content, RunRecord, where)
    check_record(content["arguments"], Recipe, where, "arguments")
    arguments: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in content["arguments"].items()
    }
    try:
        if "training" in arguments:
            arguments["training"] = TrainingSettings(**arguments["training"])
        recipe = Recipe(**arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: arguments: {error}") from error
    return CheckedRun(folder, recipe, content["data"], content["stages"])
