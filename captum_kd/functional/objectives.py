"""What a UniCAM map is the gradient of: scalars of three distance matrices.

An objective takes three distance matrices of shape ``(n, n)``: those of the explained model, those of the
other model, whose knowledge is taken out, and those of the label embeddings. It returns a scalar that
autograd can differentiate with respect to the first.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from captum_kd.functional.centering import inner_product, safe_ratio, u_center, unique_component
from captum_kd.functional.correlation import semipartial_from_distances


class Objective(Protocol):
    """A scalar function of three ``(n, n)`` distance matrices; ``labels`` is None where there are none."""

    def __call__(self, explained: Tensor, other: Tensor, labels: Tensor | None, /) -> Tensor: ...


class ObjectiveNotFiniteError(ValueError):
    """An objective, or its gradient, is NaN or infinite."""


class Distances(NamedTuple):
    """Distances that an objective is taken of.

    ``to`` is ``(n, m)``: to the ``m`` reference samples, with ``within`` their own ``(m, m)`` distances; or
    ``within`` is None and ``to`` is ``(n, n)``, of a batch with itself.
    """

    to: Tensor
    within: Tensor | None

    def like(self, other: Tensor) -> Distances:
        """The same distances on the device and in the dtype of ``other``."""
        return Distances(self.to.to(other), None if self.within is None else self.within.to(other))


def relevance(explained: Tensor, other: Tensor, labels: Tensor | None) -> Tensor:
    """How far the unique component follows the labels: ``S = <U, P(g)> / (|U| |P(g)|)``.

    The published code's reading of Eq. 5 (after Zhen et al., 2022). ``P(g)`` is not projected.

    Args:
        explained: Distances within the explained model's features, shape ``(n, n)``, ``n >= 4``.
        other: Distances within the other model's features.
        labels: Distances between the label embeddings of the targets.

    Returns:
        Scalar in [-1, 1]; 0 where the two models share everything or all labels are equal.

    Raises:
        ValueError: ``labels`` is None.

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> d = pairwise_distances(torch.arange(6.0))
        >>> relevance(d, other=2 * d, labels=d)
        tensor(0., dtype=torch.float64)
    """
    if labels is None:
        raise ValueError("The relevance objective needs labels: pass a target, or use uniqueness.")
    return semipartial_from_distances(explained, labels, other)


def uniqueness(explained: Tensor, other: Tensor, labels: Tensor | None = None) -> Tensor:
    """The share of the explained model's geometry that the other lacks: ``|U|^2 / |P|^2``.

    Equal to ``1 - R^2`` with ``R`` the bias-corrected distance *correlation coefficient*
    ``<P, Q> / (|P| |Q|)``: it needs no labels and asks only what the two do not share.

    Args:
        explained: Distances within the explained model's features, shape ``(n, n)``, ``n >= 4``.
        other: Distances within the other model's features.
        labels: Not used.

    Returns:
        Scalar in [0, 1].

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> d = pairwise_distances(torch.arange(6.0))
        >>> uniqueness(d, other=2 * d)
        tensor(0., dtype=torch.float64)
    """
    p = u_center(explained)
    unique = unique_component(p, u_center(other))
    return safe_ratio(inner_product(unique, unique), inner_product(p, p))


def row_max(explained: Tensor, other: Tensor, labels: Tensor | None = None) -> Tensor:
    """The sum over samples of the largest entry of the unique component, as in the code of the paper's time.

    Pass it as it is: ``UniCAM(..., objective=row_max)``.

    Args:
        explained: Distances within the explained model's features, shape ``(n, n)``, ``n >= 4``.
        other: Distances within the other model's features.
        labels: Not used.

    Returns:
        Scalar in the unit of the features.

    Example:
        >>> import torch
        >>> from captum_kd.functional import pairwise_distances
        >>> d = pairwise_distances(torch.arange(6.0))
        >>> row_max(d, other=2 * d)
        tensor(0., dtype=torch.float64)
    """
    unique = unique_component(u_center(explained), u_center(other))
    return unique.amax(dim=-1).sum(dim=-1)


OBJECTIVES: dict[str, Objective] = {"relevance": relevance, "uniqueness": uniqueness}
IGNORE_LABELS = frozenset({uniqueness, row_max})


def objective_gradient(
    objective: Objective, explained: Tensor, other: Tensor, labels: Tensor | None
) -> Tensor:
    """Gradient of ``objective`` with respect to the explained model's distances, both orders summed.

    Args:
        objective: Callable ``(explained, other, labels) -> scalar``, see
            :mod:`captum_kd.functional.objectives`.
        explained: Distance matrix of shape ``(n, n)`` that is differentiated.
        other: Distance matrix of the other model, shape ``(n, n)``.
        labels: Distance matrix of the labels, shape ``(n, n)``, or None.

    Returns:
        ``G + G.T`` of shape ``(n, n)``, ready for :func:`pull_back`.

    Raises:
        ValueError: The objective returns no scalar, or one that does not depend on ``explained``.
        ObjectiveNotFiniteError: The objective or its gradient is NaN or infinite.

    Example:
        >>> import torch
        >>> d = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> objective_gradient(lambda explained, other, labels: explained.sum(), d, d, None)
        tensor([[2., 2.],
                [2., 2.]])
    """
    # Under inference_mode even enable_grad records nothing.
    with torch.inference_mode(False), torch.enable_grad():
        explained = explained.detach().clone().requires_grad_()
        labels = None if labels is None else labels.detach().clone()
        score = objective(explained, other.detach().clone(), labels)
        if not isinstance(score, Tensor) or score.numel() != 1 or not score.requires_grad:
            given = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                "An objective must return a scalar tensor that is differentiable with respect to its "
                f"first argument (the explained model's distances); got {given}"
                + (" without a gradient." if isinstance(score, Tensor) else ".")
            )
        (gradient,) = torch.autograd.grad(score.reshape(()), explained)
    if not torch.isfinite(score).all() or not torch.isfinite(gradient).all():
        what = "" if not torch.isfinite(score).all() else "a gradient of "
        value = score.item() if not what else "NaN or infinite values"
        raise ObjectiveNotFiniteError(
            f"The objective {getattr(objective, '__name__', repr(objective))} gives {what}{value}"
        )
    return gradient + gradient.T


def distances_gradient(
    objective: Objective, explained: Distances, other: Distances, labels: Distances | None
) -> Tensor:
    """:func:`objective_gradient` in the batch, or of each sample on its own against a reference.

    Against a reference the objective is, for each sample, that of the reference plus this one sample, so
    a sample's gradient does not depend on the other samples.

    Args:
        objective: As in :func:`objective_gradient`.
        explained: Distances of the explained model.
        other: Distances of the other model.
        labels: Distances of the labels, or None.

    Returns:
        Gradient with respect to ``explained.to``, of its shape, ready for :func:`pull_back`.

    Example:
        >>> import torch
        >>> to_reference, within = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0], [3.0, 0.0]])
        >>> distances = Distances(to_reference, within)
        >>> distances_gradient(lambda explained, *_: explained.square().sum(), distances, distances, None)
        tensor([[4., 8.]])
    """
    if explained.within is None:
        return objective_gradient(objective, explained.to, other.to, None if labels is None else labels.to)
    rows = [
        objective_gradient(
            objective,
            _with_sample(explained, i),
            _with_sample(other, i),
            None if labels is None else _with_sample(labels, i),
        )[-1, :-1]
        for i in range(len(explained.to))
    ]
    return torch.stack(rows)


def _with_sample(distances: Distances, i: int) -> Tensor:
    """The ``(m + 1, m + 1)`` distances of the reference and, last, of sample ``i``."""
    row = distances.to[i]
    top = torch.cat([distances.within, row[:, None]], dim=1)  # type: ignore[list-item]
    return torch.cat([top, torch.cat([row, row.new_zeros(1)])[None]])
