"""Noisy linear imputation: removed pixels become the weighted mean of their neighbours (ROAD)."""

from __future__ import annotations

import torch
from torch import Tensor

# Recurrence residual over right-hand side, per channel of each image. Where a device has no
# float64, rounding of the operator itself forbids asking for more than the second value.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-7}
# 30 are enough for usual images; narrow strips (3 x 2000 pixels: 73) need more.
_MAX_ITERATIONS = 1000
_COARSEST_SIZE = 3
_COARSEST_SWEEPS = 8


@torch.no_grad()
def noisy_linear_imputation(
    images: Tensor,
    keep: Tensor,
    *,
    noise: float = 0.01,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Replaces the removed pixels of each image by the weighted mean of their neighbours.

    The imputation of ROAD (Rong et al., "A Consistent and Efficient Evaluation Strategy for
    Attribution Methods", ICML 2022). Every removed pixel :math:`i` satisfies

    .. math:: \sum_{j \in N(i)} w_{ij} (x_i - x_j) = 0,

    where :math:`w` is 1/6 for the four direct and 1/12 for the four diagonal neighbours, and
    :math:`N(i)` has the neighbours inside the image, so that the weights are renormalised at the
    borders. Kept neighbours enter with their own value. Written in this degree-scaled form (not
    divided by :math:`\sum_j w_{ij}`) the system is symmetric and positive definite. It is solved
    for the whole batch at once by conjugate gradients with a multigrid preconditioner, in float64
    (float32 on a device without float64), until the residual of each channel of each image is
    1e-12 (1e-7) of its right-hand side; a converged channel is no longer updated. At 224 x
    224 pixels this takes 8 to 30 iterations, also where a large area is removed. Gaussian noise
    is added at the end.

    Without noise the imputed values lie between the smallest and the largest kept value of their
    channel. The result carries no gradient.

    Args:
        images: The images in any floating point dtype, of shape (n, c, h, w). They are never
            rescaled, so they may be in the model's own (normalised) input space.
        keep: True where a pixel is kept, False where it is removed, of shape (n, h, w) or
            (n, 1, h, w) and dtype bool.
        noise: The standard deviation of the noise, in units of ``images``. 0 draws none.
        generator: Draws the noise, on the generator's own device, so that a seeded CPU generator
            gives the same noise on every device. None: torch's global one.

    Returns:
        The images with their kept pixels unchanged to the bit and the others imputed, in the
        shape, dtype, device and memory format of ``images``. Where nothing is kept the system has
        no unique solution; each pixel of such an image is then the mean of its channel over the
        original image, plus noise.

    Raises:
        TypeError: ``images`` or ``keep`` is no tensor or of the wrong dtype.
        ValueError: The shapes or devices do not fit, ``images`` has NaN or infinite entries, or
            ``noise`` is negative.
        RuntimeError: A system was not solved within 1000 iterations.

    Example:
        >>> image = torch.tensor([[[[0.0, 0.0, 2.0, 4.0, 4.0]]]])
        >>> keep = torch.tensor([[[True, False, False, False, True]]])
        >>> noisy_linear_imputation(image, keep, noise=0.0)
        tensor([[[[0., 1., 2., 3., 4.]]]])
    """
    _check(images, keep, noise)
    keep = keep.reshape(keep.shape[0], 1, *keep.shape[-2:])
    if images.numel() == 0:
        return images.clone()
    values = images.to(torch.float32 if images.device.type == "mps" else torch.float64)

    # An image without a kept pixel has no right-hand side: take it out of the system.
    nothing_kept = ~keep.any(dim=(-2, -1), keepdim=True)
    mean = values.mean(dim=(-2, -1), keepdim=True)
    infinity = values.new_tensor(torch.inf)
    low = torch.where(keep, values, infinity).amin(dim=(-2, -1), keepdim=True)
    high = torch.where(keep, values, -infinity).amax(dim=(-2, -1), keepdim=True)
    low, high = torch.where(nothing_kept, mean, low), torch.where(nothing_kept, mean, high)

    # The system does not see an affine change of the values. Kept values in [-1, 1] make it
    # independent of offset and scale, and the solution, which lies between them, too.
    centre, half_range = low / 2 + high / 2, high / 2 - low / 2
    scale = torch.where(half_range > 0, half_range, 1.0)
    known = torch.where(keep, (values - centre) / scale, 0.0)
    solution = _conjugate_gradient(known, ~(keep | nothing_kept)).clamp_(-1, 1)
    imputed = torch.minimum(torch.maximum(centre + half_range * solution, low), high)

    if noise > 0:
        device = images.device if generator is None else generator.device
        drawn = torch.randn(images.shape, generator=generator, device=device)
        imputed += noise * drawn.to(imputed)
    return torch.empty_like(images).copy_(torch.where(keep, images, imputed.to(images.dtype)))


def _check(images: Tensor, keep: Tensor, noise: float) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a floating point tensor, got {given}; convert 8-bit images as the "
            "model expects its input, for example images.float() / 255"
        )
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool:
        given = keep.dtype if isinstance(keep, Tensor) else type(keep).__name__
        raise TypeError(
            f"keep must be a bool tensor, True where a pixel is kept, got {given}; threshold a "
            "map, for example with captum_kd.functional.perturbation.keep_mask"
        )
    if images.ndim != 4:
        raise ValueError(f"images must have the shape (n, c, h, w), got {tuple(images.shape)}")
    n, _, h, w = images.shape
    if keep.shape not in ((n, h, w), (n, 1, h, w)):
        raise ValueError(
            f"keep must have the shape {(n, h, w)} or {(n, 1, h, w)} to fit images of shape "
            f"{tuple(images.shape)}, got {tuple(keep.shape)}"
        )
    if keep.device != images.device:
        raise ValueError(f"keep and images must be on one device, got {keep.device} and {images.device}")
    if not noise >= 0:
        raise ValueError(f"noise is a standard deviation and must be 0 or greater, got {noise}")
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise ValueError(
            f"images must be finite, but {int((~finite).sum())} of {n} images have NaN or "
            f"infinite entries, the first at index {first}"
        )


def _neighbour_sum(x: Tensor) -> Tensor:
    """Sums w_ij x_j over the neighbours j inside the image: a 3 x 3 convolution.

    The kernel (1 2 1; 2 0 2; 1 2 1) / 12 is the product of two (1 2 1) less its centre. Two passes
    over slices are many times faster than ``conv2d``, which has no fast path for float64.
    """
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    rows = padded[..., :-2] + padded[..., 2:]
    rows.add_(padded[..., 1:-1], alpha=2)
    total = rows[..., :-2, :] + rows[..., 2:, :]
    total.add_(rows[..., 1:-1, :], alpha=2)
    return total.sub_(x, alpha=4).div_(12)


def _degree(images: Tensor) -> Tensor:
    """Sum of the weights of each pixel's neighbours; the single pixel of a 1 x 1 image has none."""
    return _neighbour_sum(torch.ones_like(images[:1, :1])).clamp_min_(1 / 12)


def _conjugate_gradient(known: Tensor, removed: Tensor) -> Tensor:
    """Solves for the removed pixels of ``known`` (n, c, h, w), which is 0 at these pixels."""
    degree, mask = _degree(known), removed.to(known.dtype)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(-2, -1), keepdim=True)

    precondition = _Multigrid(removed)
    residual = _neighbour_sum(known) * mask
    solution = torch.zeros_like(known)
    threshold = _TOLERANCE[known.dtype] * dot(residual, residual).sqrt()
    active = threshold > 0
    preconditioned = precondition(residual)
    direction, energy = preconditioned, dot(residual, preconditioned)
    for _ in range(_MAX_ITERATIONS):
        if not active.any():
            return solution
        image = (degree * direction - _neighbour_sum(direction)) * mask
        # A step of 0 leaves what has converged as it is, whatever else is in the batch.
        step = torch.where(active, energy / dot(direction, image), 0.0)
        solution += step * direction
        residual -= step * image
        active = active & (dot(residual, residual).sqrt() > threshold)
        preconditioned = precondition(residual)
        previous, energy = energy, dot(residual, preconditioned)
        direction = preconditioned + torch.where(active, energy / previous, 0.0) * direction
    if not active.any():
        return solution
    raise RuntimeError(
        f"the imputation of {int(active.any(dim=1).sum())} of {len(known)} images did not converge "
        f"in {_MAX_ITERATIONS} iterations"
    )


class _Multigrid:
    """One symmetric V-cycle for the degree-scaled system, in float32: an approximate inverse.

    Each coarser grid has every second pixel and the same stencil (the weights sum to the same
    Laplacian under restriction by the transposed bilinear prolongation). The kept pixels, where the
    correction must vanish, become a leak: the number of kept pixels under a coarse pixel's hat
    is added to its diagonal. With a subsampled mask in its place, conjugate gradients took up to
    ten times as many iterations on scattered kept pixels.
    """

    def __init__(self, removed: Tensor) -> None:
        self.removed = removed.float()
        self.diagonals = [_degree(self.removed)]
        leak = 1 - self.removed
        while max(leak.shape[-2:]) > _COARSEST_SIZE:
            leak = _restrict(leak)
            self.diagonals.append(_degree(leak) + leak)

    def __call__(self, residual: Tensor) -> Tensor:
        # Relative to its largest entry the residual fits float32, however far it has come down.
        scale = residual.abs().amax(dim=(-2, -1), keepdim=True)
        scale = torch.where(scale > 0, scale, 1.0)
        return self._cycle((residual / scale).float(), 0).to(residual.dtype) * scale

    def _sweep(self, x: Tensor, rhs: Tensor, level: int) -> Tensor:
        """A Jacobi step: undamped, it reduces the oscillating half of the errors to a third."""
        return x + self._residual(x, rhs, level) / self.diagonals[level]

    def _residual(self, x: Tensor, rhs: Tensor, level: int) -> Tensor:
        residual = _neighbour_sum(x).addcmul_(self.diagonals[level], x, value=-1).add_(rhs)
        return residual.mul_(self.removed) if level == 0 else residual

    def _cycle(self, rhs: Tensor, level: int) -> Tensor:
        x = rhs / self.diagonals[level]
        if level + 1 == len(self.diagonals):
            for _ in range(_COARSEST_SWEEPS):
                x = self._sweep(x, rhs, level)
            return x
        correction = self._cycle(_restrict(self._residual(x, rhs, level)), level + 1)
        correction = _prolong(correction, x.shape[-2], x.shape[-1])
        x += correction.mul_(self.removed) if level == 0 else correction
        return self._sweep(x, rhs, level)


def _prolong(coarse: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation; coarse pixels lie on the even fine ones, borders are repeated."""
    for size in (height, width):  # twice the rows, each time of the transposed grid
        following = torch.cat([coarse[..., 1:, :], coarse[..., -1:, :]], dim=-2)
        fine = coarse.new_empty(*coarse.shape[:-2], size, coarse.shape[-1])
        fine[..., 0::2, :] = coarse
        fine[..., 1::2, :] = (coarse + following)[..., : size // 2, :] / 2
        coarse = fine.transpose(-1, -2)
    return coarse


def _restrict(fine: Tensor) -> Tensor:
    """The transpose of :func:`_prolong`."""
    for _ in range(2):
        coarse, odd = fine[..., 0::2, :].clone(), fine[..., 1::2, :] / 2
        coarse[..., : odd.shape[-2], :] += odd
        coarse[..., 1:, :] += odd[..., : coarse.shape[-2] - 1, :]
        if fine.shape[-2] % 2 == 0:
            coarse[..., -1, :] += odd[..., -1, :]
        fine = coarse.transpose(-1, -2)
    return fine
