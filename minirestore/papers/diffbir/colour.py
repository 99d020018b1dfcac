"""Colour fix (released code, taken from StableSR; not in the paper): keep the details, take the colours of I_reg."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLOUR_FIXES = ("wavelet", "adain", "none")
LEVELS = 5


def low_pass(x: Tensor, radius: int) -> Tensor:
    """Images (B, C, H, W) through the filter (1 2 1) / 4 along rows and columns, its taps ``radius`` pixels apart.

    The border is repeated.
    """
    taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (radius,) * 4, mode="replicate"), kernel, groups=x.shape[1], dilation=radius)


def split_frequencies(x: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor]:
    """High and low frequencies (B, C, H, W) of images, their sum is the image (a-trous wavelets, radii 1, 2, 4...)."""
    low = x
    for level in range(levels):
        low = low_pass(low, 2**level)
    return x - low, low


def fix_colour(x: Tensor, reference: Tensor, method: str = "wavelet") -> Tensor:
    """Images (B, 3, H, W) with colours taken from ``reference``, same shape; not clamped.

    Args:
        method: ``wavelet``, the high frequencies of ``x`` and the low ones of the reference; ``adain``, every channel's
            mean and standard deviation are those of the reference; ``none``.
    """
    if method not in COLOUR_FIXES:
        raise ValueError(f"colour_fix: expected one of {', '.join(COLOUR_FIXES)}, got {method!r}")
    if method == "wavelet":
        return split_frequencies(x)[0] + split_frequencies(reference)[1]
    if method == "adain":
        (mean, deviation), (wanted_mean, wanted) = (_statistics(part) for part in (x, reference))
        return (x - mean) / deviation * wanted + wanted_mean
    return x


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel; unbiased, with 1e-5 added to the variance (released code)."""
    variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
    return mean, (variance + 1e-5).sqrt()
