"""Answers to the exercises of notebook 04."""

import torch
import torch.nn.functional as F

from answers import Answers
from minirestore.degradations import linear_to_srgb


def filtered(y, kernel):
    return F.conv1d(y[None, None], kernel[None, None], padding=len(kernel) // 2)[0, 0]


def spread_by_loop(y, kernel):
    r, x = len(kernel) // 2, torch.zeros_like(y)
    for i in range(len(y)):
        for j in range(len(kernel)):
            if 0 <= i + j - r < len(y):
                x[i + j - r] += kernel[j] * y[i]
    return x


def spread_by_transpose(y, kernel):
    return F.conv_transpose1d(y[None, None], kernel[None, None], padding=len(kernel) // 2)[0, 0]


def spread_wrapped(y, kernel):
    r = len(kernel) // 2
    return sum(kernel[j] * y.roll(j - r) for j in range(len(kernel)))


def camera(light, photons, generator):
    counted = torch.poisson(light * photons, generator=generator) / photons
    return (linear_to_srgb(counted.clamp(0, 1)) * 255).round() / 255


def camera_in_steps(light, photons, generator):
    counts = torch.poisson(photons * light, generator).clamp(max=photons)
    return torch.round(255 * linear_to_srgb(counts / photons)).div(255)


def camera_encoded_first(light, photons, generator):
    counted = torch.poisson(linear_to_srgb(light) * photons, generator=generator) / photons
    return (counted.clamp(0, 1) * 255).round() / 255


def camera_without_encoding(light, photons, generator):
    return ((torch.poisson(light * photons, generator=generator) / photons).clamp(0, 1) * 255).round() / 255


def camera_without_rounding(light, photons, generator):
    return linear_to_srgb((torch.poisson(light * photons, generator=generator) / photons).clamp(0, 1))


def camera_without_clipping(light, photons, generator):
    return (linear_to_srgb(torch.poisson(light * photons, generator=generator) / photons) * 255).round() / 255


def camera_without_generator(light, photons, generator):
    return (linear_to_srgb((torch.poisson(light * photons) / photons).clamp(0, 1)) * 255).round() / 255


def camera_without_noise(light, photons, generator):
    return (linear_to_srgb(light) * 255).round() / 255


def camera_with_double_noise(light, photons, generator):
    counted = light + 2 * (torch.poisson(light * photons, generator=generator) / photons - light)
    return (linear_to_srgb(counted.clamp(0, 1)) * 255).round() / 255


ANSWERS = {
    "04.spread_back": Answers(
        right=[spread_by_loop, spread_by_transpose, lambda y, kernel: filtered(y, kernel.flip(0))],
        wrong=[
            (filtered, "that is A itself"),
            (lambda y, kernel: filtered(y.flip(0), kernel), "reversed the signal"),
            (lambda y, kernel: F.conv_transpose1d(y[None, None], kernel[None, None])[0, 0], "shape"),
            (spread_wrapped, "near the ends"),
            (lambda y, kernel: y, "differ by"),
        ],
    ),
    "04.camera_file": Answers(
        right=[camera, camera_in_steps],
        wrong=[
            (camera_without_generator, "equally seeded"),
            (camera_without_clipping, "white area"),
            (camera_without_rounding, "multiples of 1/255"),
            (camera_without_encoding, "so encode"),
            (camera_without_noise, "no noise"),
            (camera_encoded_first, "in proportion"),
            (camera_with_double_noise, "wrong strength"),
        ],
    ),
    "04.order": Answers(
        right=["b", "B "], wrong=[("a", "their squares"), ("c", "width in pixels"), ("d", "ratio of the variances")]
    ),
    "04.objection": Answers(
        right=["c", " C"], wrong=[("a", "just as excellent"), ("b", "mild blur"), ("d", "hardly change")]
    ),
}
