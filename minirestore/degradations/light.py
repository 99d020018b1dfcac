"""sRGB values and linear light: sensors add up light, files store its (roughly) 2.2-th root."""

from collections.abc import Callable

import torch
from torch import Tensor


def srgb_to_linear(x: Tensor) -> Tensor:
    """Decode sRGB values in [0, 1] to linear light in [0, 1] (IEC 61966-2-1)."""
    return torch.where(x <= 0.04045, x / 12.92, ((x.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(x: Tensor) -> Tensor:
    """Encode linear light in [0, 1] to sRGB values in [0, 1]; the inverse of `srgb_to_linear`."""
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def apply_blur(blur: Callable[[Tensor], Tensor], x: Tensor, linear_light: bool) -> Tensor:
    """Blur the sRGB values, or the light they stand for as a camera does; clipped to [0, 1]."""
    if linear_light:
        return linear_to_srgb(blur(srgb_to_linear(x)).clamp(0, 1)).clamp(0, 1)
    return blur(x).clamp(0, 1)
