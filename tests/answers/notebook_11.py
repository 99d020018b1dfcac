"""Answers to the exercises of notebook 11."""

import torch
import torch.nn.functional as F

from answers import Answers
from minirestore import wavelets
from minirestore.papers import hf_error_map as paper


def by_noise(x0, x_t, y, eta, eta_before):
    noise = x_t - (1 - eta) * x0 - eta * y
    return (1 - eta_before) * x0 + eta_before * y + noise * (eta_before / eta) ** 0.5


def by_weights(x0, x_t, y, eta, eta_before):
    m = (eta_before / eta) ** 0.5
    j = eta_before - (eta_before * eta) ** 0.5
    return (1 - m - j) * x0 + m * x_t + j * y


def noise_of(x0, x_t, y, eta):
    return x_t - x0 - eta * (y - x0)


def unscaled(x0, x_t, y, eta, eta_before):
    return x0 + eta_before * (y - x0) + noise_of(x0, x_t, y, eta)


def by_variance(x0, x_t, y, eta, eta_before):
    return x0 + eta_before * (y - x0) + eta_before / eta * noise_of(x0, x_t, y, eta)


def without_shift(x0, x_t, y, eta, eta_before):
    return x0 + (eta_before / eta) ** 0.5 * noise_of(x0, x_t, y, eta)


def old_shift(x0, x_t, y, eta, eta_before):
    return x0 + eta * (y - x0) + (eta_before / eta) ** 0.5 * noise_of(x0, x_t, y, eta)


def shift_in_noise(x0, x_t, y, eta, eta_before):
    return x0 + eta_before * (y - x0) + (eta_before / eta) ** 0.5 * (x_t - x0)


def bands(x):
    return torch.cat(wavelets.dwt2(x)[1], dim=1)  # (B, 9, h, w)


def spread(error):
    return error.repeat_interleave(2, 2).repeat_interleave(2, 3)


def over_largest(error, floor):
    return error / error.flatten(1).amax(1).clamp(min=floor).view(-1, 1, 1, 1)


def by_bands(restored, clean, floor):
    error = (bands(restored) - bands(clean)).abs().mean(1, keepdim=True)
    return spread(over_largest(error, floor))


def by_blocks(restored, clean, floor):
    d = restored - clean
    a, b, c, e = d[..., ::2, ::2], d[..., ::2, 1::2], d[..., 1::2, ::2], d[..., 1::2, 1::2]
    parts = [a + b - c - e, a - b + c - e, a - b - c + e]
    error = torch.stack([part.abs() / 2 for part in parts]).mean((0, 2))[:, None]
    return F.interpolate(over_largest(error, floor), scale_factor=2, mode="nearest")


def by_library(restored, clean, floor):
    return paper.error_map(restored, clean, paper.HFErrorMapConfig(floor=floor))


def not_normalised(restored, clean, floor):
    return spread((bands(restored) - bands(clean)).abs().mean(1, keepdim=True))


def batch_largest(restored, clean, floor):
    error = not_normalised(restored, clean, floor)
    return error / error.max().clamp(min=floor)


def signed(restored, clean, floor):
    return spread(over_largest((bands(restored) - bands(clean)).mean(1, keepdim=True).abs(), floor))


def magnitudes(restored, clean, floor):
    return spread(over_largest((bands(restored).abs() - bands(clean).abs()).abs().mean(1, keepdim=True), floor))


def squares(restored, clean, floor):
    return spread(over_largest((bands(restored) - bands(clean)).square().mean(1, keepdim=True), floor))


def with_approximation(restored, clean, floor):
    pair = [torch.cat([low, *details], dim=1) for low, details in map(wavelets.dwt2, (restored, clean))]
    return spread(over_largest((pair[0] - pair[1]).abs().mean(1, keepdim=True), floor))


def blended(restored, clean, floor):
    error = (bands(restored) - bands(clean)).abs().mean(1, keepdim=True)
    return F.interpolate(over_largest(error, floor), scale_factor=2, mode="bilinear")


def half_size(restored, clean, floor):
    return over_largest((bands(restored) - bands(clean)).abs().mean(1, keepdim=True), floor)


def without_floor(restored, clean, floor):
    return by_bands(restored, clean, 1e-8)


def floor_added(restored, clean, floor):
    error = not_normalised(restored, clean, floor)
    return error / (error.flatten(1).amax(1).view(-1, 1, 1, 1) + floor)


ANSWERS = {
    "11.step": Answers(
        right=[by_noise, by_weights],
        wrong=[
            (by_variance, "square root of eta_{t-1}"),
            (unscaled, "keeps its size"),
            (lambda x0, x_t, y, eta, eta_before: x0 + eta_before * (y - x0), "the noise is gone"),
            (without_shift, "the shift towards y is missing"),
            (old_shift, "that of step t"),
            (shift_in_noise, "holds the shift as well"),
            (lambda x0, x_t, y, eta, eta_before: by_noise(x0, x_t, y, eta, eta_before).mean(1), "the shape is"),
            (lambda x0, x_t, y, eta, eta_before: x0, "first find the noise"),
        ],
    ),
    "11.map": Answers(
        right=[by_bands, by_blocks, by_library],
        wrong=[
            (not_normalised, "not normalised"),
            (batch_largest, "every image has its own"),
            (signed, "bands and channels"),
            (magnitudes, "wrong sign"),
            (squares, "squared"),
            (with_approximation, "approximation"),
            (blended, "blends"),
            (half_size, "the shape is"),
            (without_floor, "nearly right"),
            (floor_added, "the floor is added"),
            (lambda restored, clean, floor: torch.ones_like(restored[:, :1]), "top left block"),
        ],
    ),
    "11.floor": Answers(
        right=[0.5, "0.5", 0.5000001],
        wrong=[
            (1, "without a floor"),
            (0.0005, "before it is normalised"),
            (0.0015, "size of a coefficient"),
            (1.5, "three channels"),
            (0, "every pixel of the block"),
            (3, "by the floor"),
            (0.125, "shared out"),
            (0.3, "half the pixel's error"),
            (7, "cannot go there"),
        ],
    ),
    "11.detail": Answers(
        right=["b", "B "], wrong=[("a", "sharper PSNR"), ("c", "pixel experiment"), ("d", "more seeds")]
    ),
}
