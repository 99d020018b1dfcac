"""Blurs in one call: ``(B, C, H, W)`` in [0, 1] to the same shape in [0, 1].

``linear_light=True`` blurs the light and not the sRGB values: highlights then smear into bright streaks, as in a
camera. Parameters that accept tensors ``(B,)`` give every image its own.
"""

import math

import torch
from torch import Tensor

from minirestore.degradations import kernels
from minirestore.degradations._common import Randomness, per_image_generators
from minirestore.degradations.kernels import Number
from minirestore.degradations.light import apply_blur
from minirestore.degradations.operators import Blur, MotionBlur, SpatiallyVaryingBlur
from minirestore.images import check_images


def gaussian_blur(
    x: Tensor,
    sigma: Number,
    sigma_y: Number | None = None,
    angle: Number = 0.0,
    *,
    linear_light: bool = False,
) -> Tensor:
    """Gaussian blur of ``sigma`` pixels; give ``sigma_y`` and ``angle`` (radians) for an anisotropic one."""
    check_images(x, "x")
    widest = max(float(torch.as_tensor(s).max()) for s in (sigma, sigma if sigma_y is None else sigma_y))
    kernel = kernels.gaussian_kernel(2 * math.ceil(4 * widest) + 1, sigma, sigma_y, angle)
    return apply_blur(Blur(kernel), x, linear_light)


def motion_blur(x: Tensor, length: Number, angle: Number = 0.0, *, linear_light: bool = False) -> Tensor:
    """Straight motion over ``length`` pixels (1: no blur); ``angle`` in radians, 0 horizontal, growing clockwise."""
    return apply_blur(MotionBlur(length, angle), check_images(x, "x"), linear_light)


def walk_blur(x: Tensor, radius: float, generator: Randomness, *, linear_light: bool = False) -> Tensor:
    """Camera shake along a random walk of RMS radius ``radius`` pixels (> 0.7072), another walk for every image."""
    check_images(x, "x")
    drawn = [kernels.walk_motion_kernel(radius, g) for g in per_image_generators(generator, len(x))]
    size = max(kernel.shape[-1] for kernel in drawn)
    return apply_blur(Blur(torch.stack([kernels.pad_kernel(kernel, size) for kernel in drawn])), x, linear_light)


def defocus_blur(x: Tensor, radius: Number, *, linear_light: bool = False) -> Tensor:
    """Out of focus: a disk of ``radius`` pixels (0: no blur)."""
    return apply_blur(Blur(kernels.disk_kernel(radius)), check_images(x, "x"), linear_light)


def rotation_blur(
    x: Tensor, angle: float, centre: tuple[float, float] | None = None, *, linear_light: bool = False
) -> Tensor:
    """Camera roll by ``angle`` radians about ``centre`` (row, column): sharp there, more blurred further away."""
    size = tuple(check_images(x, "x").shape[-2:])
    return apply_blur(SpatiallyVaryingBlur.rotation(size, angle, centre), x, linear_light)
