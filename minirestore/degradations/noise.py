"""Gaussian and Poisson noise on images in [0, 1]."""

import torch
from torch import Tensor

from minirestore.degradations._common import PerImage, Randomness, as_generator, per_image, standard_normal
from minirestore.images import check_images

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # the released code's, three decimals short of BT.601


def add_gaussian(x: Tensor, sigma: PerImage, generator: torch.Generator, grey: bool = False) -> Tensor:
    """`gaussian_noise` without checks and without clipping."""
    B, C, H, W = x.shape
    noise = standard_normal((B, 1 if grey else C, H, W), generator, x)
    return x + noise * (per_image(sigma, x, "sigma", minimum=0) / 255).to(x.dtype)


def gaussian_noise(
    x: Tensor, sigma: PerImage, generator: Randomness, *, grey: bool = False, clip: bool = True
) -> Tensor:
    """Add Gaussian noise of standard deviation ``sigma`` in 8-bit units: 25 means 25/255.

    Args:
        x: ``(B, C, H, W)`` in [0, 1].
        sigma: one number or one per image, >= 0, on the scale 0..255.
        generator: torch.Generator or integer seed.
        grey: the same noise in all channels.
        clip: clip to [0, 1], as a file would (default); False keeps the noise exactly Gaussian.
    """
    noisy = add_gaussian(check_images(x, "x"), sigma, as_generator(generator), grey)
    return noisy.clamp(0, 1) if clip else noisy


def _value_levels(x: Tensor) -> Tensor:
    """2^ceil(log2(number of distinct 8-bit values)) of each image, ``(B, 1, 1, 1)``; ``x`` is already rounded."""
    counts = torch.tensor([len(torch.unique(image)) for image in x], dtype=torch.float64)
    return (2 ** counts.log2().ceil()).view(-1, 1, 1, 1)


def add_poisson(
    x: Tensor, scale: PerImage, generator: torch.Generator, grey: bool = False, levels: PerImage | None = None
) -> Tensor:
    """`poisson_noise` without checks and without clipping."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    signal = wide
    if grey and x.shape[1] == 3:
        weights = torch.tensor(GREY_WEIGHTS, dtype=wide.dtype, device=x.device).view(1, 3, 1, 1)
        signal = (wide * weights).sum(1, keepdim=True)  # (B, 1, H, W)
    signal = (signal * 255).round().clamp(0, 255) / 255
    levels = _value_levels(signal).to(signal) if levels is None else per_image(levels, x, "levels", minimum=1)
    photons = torch.poisson((signal * levels).to(generator.device, torch.float32), generator).to(signal)
    noise = photons / levels - signal
    return (wide + noise * per_image(scale, x, "scale", minimum=0)).to(x.dtype)


def poisson_noise(
    x: Tensor,
    scale: PerImage,
    generator: Randomness,
    *,
    grey: bool = False,
    levels: PerImage | None = None,
    clip: bool = True,
) -> Tensor:
    """Add shot noise: brighter pixels are noisier, black stays black.

    The image, rounded to 8 bit, is taken as ``levels`` photons at white: noise = Poisson(levels x) / levels - x,
    times ``scale``.

    Args:
        x: ``(B, C, H, W)`` in [0, 1].
        scale: strength, one number or one per image, >= 0; 1 is a real camera, other values are not physical.
        generator: torch.Generator or integer seed.
        grey: the same noise in all channels, drawn from the grey image.
        levels: photons at white, one number or one per image, >= 1. None follows the released code: the next power
            of two of the number of distinct values in the image. That makes flat images very noisy (a single grey
            counts as one photon); give a number when the strength should not depend on the content.
        clip: clip to [0, 1].
    """
    noisy = add_poisson(check_images(x, "x"), scale, as_generator(generator), grey, levels)
    return noisy.clamp(0, 1) if clip else noisy
