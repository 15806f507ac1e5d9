"""The modules behind a function."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from captum_kd.models.functions import modules_of

GLOBAL = nn.Linear(2, 2)


def of_a_global(x: Tensor) -> Tensor:
    output: Tensor = GLOBAL(x)
    return output


def test_models_in_globals_are_found() -> None:
    assert modules_of(of_a_global) == [GLOBAL]
    assert modules_of(lambda x: of_a_global(x)) == [GLOBAL]
    assert modules_of(type("Calls", (), {"__call__": lambda self, x: of_a_global(x)})()) == [GLOBAL]
    assert modules_of(len) == []


def test_what_is_not_assigned_yet_and_what_goes_round_in_a_circle_ends() -> None:
    def function(x: Tensor) -> Tensor:
        return later(x) if x.dim() > 5 else circle[0](x)

    model = nn.ReLU()
    circle = [model]
    circle.append(circle)  # type: ignore[arg-type]
    assert modules_of(function) == [model]
    later = torch.relu
    assert torch.equal(function(-torch.ones(1)), torch.zeros(1))
