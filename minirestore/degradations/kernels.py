"""Blur kernels: Gaussian families, sinc, linear and random-walk motion, defocus disk.

Every function returns float64 kernels of odd side, non-negative (except sinc) and summing to 1. Parameters are
numbers, giving ``(k, k)``, or tensors ``(B,)``, giving ``(B, k, k)``: one kernel per image. Axes: x along columns
to the right, y along rows downwards; ``theta`` in radians from x towards y. Formulas: DiffBIR section 3.1 and the
released code of the second-order degradation it uses; motion kernels are our own.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore.degradations._common import Randomness, as_generator

Number = float | Tensor
WALK_INERTIA, WALK_PUSH = 0.9, 0.45
SPLAT_SIGMA = 0.5


def _check_size(size: int) -> int:
    if not isinstance(size, int) or size < 1 or size % 2 == 0:
        raise ValueError(f"size: kernels need an odd side of at least 1, got {size}")
    return size


def _parameters(minimums: dict[str, float], **values: Number) -> list[Tensor]:
    """Float64 tensors ``(..., 1, 1)`` broadcast against each other, each checked against its minimum."""
    tensors = torch.broadcast_tensors(*(torch.as_tensor(value, dtype=torch.float64) for value in values.values()))
    for name, tensor in zip(values, tensors, strict=True):
        minimum = minimums.get(name, -math.inf)
        if not bool(torch.isfinite(tensor).all()) or bool((tensor < minimum).any()):
            raise ValueError(f"{name}: must be finite and at least {minimum:.4g}, got {tensor.tolist()}")
    return [tensor[..., None, None] for tensor in tensors]


def _grid(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Integer coordinates x ``(1, k)`` and y ``(k, 1)``, zero at the centre."""
    axis = torch.arange(size, dtype=torch.float64, device=like.device) - size // 2
    return axis[None, :], axis[:, None]


def _normalise(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum((-2, -1), keepdim=True)


def _quadratic_form(size: int, sigma_x: Number, sigma_y: Number | None, theta: Number) -> Tensor:
    """q = r^T S^-1 r with S = R diag(sigma_x^2, sigma_y^2) R^T, on the kernel grid."""
    _check_size(size)
    sigma_y = sigma_x if sigma_y is None else sigma_y
    minimums = {"sigma_x": 1e-3, "sigma_y": 1e-3}
    sigma_x, sigma_y, theta = _parameters(minimums, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta)
    x, y = _grid(size, sigma_x)
    along = theta.cos() * x + theta.sin() * y
    across = theta.cos() * y - theta.sin() * x
    return (along / sigma_x) ** 2 + (across / sigma_y) ** 2


def gaussian_kernel(size: int, sigma_x: Number, sigma_y: Number | None = None, theta: Number = 0.0) -> Tensor:
    """Gaussian ``exp(-q / 2)``; isotropic when ``sigma_y`` is left out. Sigmas in pixels."""
    return _normalise(torch.exp(-0.5 * _quadratic_form(size, sigma_x, sigma_y, theta)))


def generalized_gaussian_kernel(
    size: int, beta: Number, sigma_x: Number, sigma_y: Number | None = None, theta: Number = 0.0
) -> Tensor:
    """Generalised Gaussian ``exp(-q^beta / 2)``: beta 1 is Gaussian, smaller peaked, larger flat-topped."""
    (beta,) = _parameters({"beta": 1e-3}, beta=beta)
    return _normalise(torch.exp(-0.5 * _quadratic_form(size, sigma_x, sigma_y, theta) ** beta))


def plateau_kernel(
    size: int, beta: Number, sigma_x: Number, sigma_y: Number | None = None, theta: Number = 0.0
) -> Tensor:
    """Plateau ``1 / (1 + q^beta)``: flat in the middle with heavy tails."""
    (beta,) = _parameters({"beta": 1e-3}, beta=beta)
    return _normalise(1 / (1 + _quadratic_form(size, sigma_x, sigma_y, theta) ** beta))


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Circular ideal low-pass ``wc J1(wc r) / (2 pi r)``: passes frequencies below ``cutoff`` and rings.

    Args:
        size: odd side.
        cutoff: wc in (0, pi]; pi keeps everything up to the Nyquist frequency along the axes.
    """
    from scipy.special import j1

    _check_size(size)
    if not 0 < cutoff <= math.pi + 1e-6:
        raise ValueError(f"cutoff: expected radians per pixel in (0, pi], got {cutoff}")
    x, y = _grid(size, torch.zeros(()))
    r = (x**2 + y**2).sqrt()
    kernel = cutoff * torch.from_numpy(j1(cutoff * r.numpy())) / (2 * math.pi * r.clamp(min=1))
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return _normalise(kernel)


def _auto_size(size: int | None, reach: float) -> int:
    """The side given, or the smallest odd side that holds offsets up to ``reach``."""
    return 2 * math.ceil(reach) + 1 if size is None else _check_size(size)


def linear_motion_kernel(length: Number, theta: Number = 0.0, size: int | None = None) -> Tensor:
    """Straight constant-velocity motion over ``length`` pixels (1: no blur) in direction ``theta`` (radians)."""
    length, theta = _parameters({"length": 1.0}, length=length, theta=theta)
    size = _auto_size(size, (float(length.max()) + 1) / 2)
    x, y = _grid(size, length)
    along = (theta.cos() * x + theta.sin() * y).abs()
    across = (theta.cos() * y - theta.sin() * x).abs()
    return _normalise((length / 2 + 0.5 - along).clamp(0, 1) * (1 - across).clamp(min=0))


def walk_motion_kernel(radius: float, generator: Randomness, size: int | None = None, steps: int = 64) -> Tensor:
    """Camera shake: a random walk with inertia, seen as the time it dwells at each pixel.

    Velocity follows v <- .9 v + .45 n, n ~ N(0, I). The path is centred, scaled so that the kernel's RMS radius is
    ``radius`` pixels (>= 0.7072, the spread of the spot itself) and drawn with a Gaussian spot of sigma 0.5.

    Returns:
        One kernel ``(k, k)``; ``size`` defaults to the side that holds the whole path.
    """
    spot = math.sqrt(2) * SPLAT_SIGMA
    if not radius > spot:
        raise ValueError(f"radius: must be larger than the drawing spot's {spot:.4g} pixels, got {radius}")
    generator = as_generator(generator)
    pushes = torch.randn(steps, 2, generator=generator, device=generator.device).to("cpu", torch.float64)
    velocity, path = torch.zeros(2, dtype=torch.float64), [torch.zeros(2, dtype=torch.float64)]
    for push in pushes:
        velocity = WALK_INERTIA * velocity + WALK_PUSH * push
        path.append(path[-1] + velocity)
    points = torch.stack(path)  # (steps + 1, 2)
    points = points - points.mean(0)
    points = points * math.sqrt(radius**2 - spot**2) / points.square().sum(1).mean().sqrt()
    size = _auto_size(size, float(points.abs().max()) + 4 * SPLAT_SIGMA)
    x, y = _grid(size, points)
    spots_x = torch.exp(-((x - points[:, :1]) ** 2) / (2 * SPLAT_SIGMA**2))  # (steps + 1, k)
    spots_y = torch.exp(-((y.T - points[:, 1:]) ** 2) / (2 * SPLAT_SIGMA**2))
    return _normalise(spots_y.T @ spots_x)


def disk_kernel(radius: Number, size: int | None = None) -> Tensor:
    """Defocus: a uniform disk of ``radius`` pixels with a one-pixel soft edge (0: no blur)."""
    (radius,) = _parameters({"radius": 0.0}, radius=radius)
    size = _auto_size(size, float(radius.max()) + 0.5)
    x, y = _grid(size, radius)
    return _normalise((radius + 0.5 - (x**2 + y**2).sqrt()).clamp(0, 1))


def pad_kernel(kernel: Tensor, size: int) -> Tensor:
    """Surround ``(..., k, k)`` with zeros up to an odd ``size`` >= k, so that kernels of different sizes stack."""
    margin = _check_size(size) - kernel.shape[-1]
    if margin < 0:
        raise ValueError(f"size: {size} is smaller than the kernel's side {kernel.shape[-1]}")
    return F.pad(kernel, (margin // 2,) * 4)


def rms_radius(kernel: Tensor) -> Tensor:
    """Root mean square distance (pixels) of a non-negative kernel from its centroid: ``(..., k, k) -> (...)``.

    The one number that makes blur models comparable: a line of length L has L / sqrt(12), a disk R / sqrt(2).
    """
    x, y = _grid(kernel.shape[-1], kernel)
    weight = _normalise(kernel.to(torch.float64))
    centre_x, centre_y = ((weight * axis).sum((-2, -1), keepdim=True) for axis in (x, y))
    return (weight * ((x - centre_x) ** 2 + (y - centre_y) ** 2)).sum((-2, -1)).sqrt()
