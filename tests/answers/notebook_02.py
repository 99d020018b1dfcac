"""Answers to the exercises of notebook 02."""

import torch

from answers import Answers
from minirestore import fourier


def hybrid_by_polar(a, b):
    return fourier.ifft2(torch.polar(fourier.fft2(a).abs(), fourier.fft2(b).angle()))


def hybrid_by_ratio(a, b):
    A, B = torch.fft.fft2(a), torch.fft.fft2(b)
    return torch.fft.ifft2(A.abs() * B / B.abs()).real


def complex_hybrid(a, b):
    return torch.polar(fourier.fft2(a).abs(), fourier.fft2(b).angle())


def wrong_scale(a, b):
    return torch.fft.ifft2(complex_hybrid(a, b)).real


def sum_of_phases(a, b):
    A, B = fourier.fft2(a), fourier.fft2(b)
    return fourier.ifft2(torch.polar(A.abs(), A.angle() + B.angle()))


def rings(power):
    return (fourier.radial_frequency(len(power), len(power)) * len(power)).round()


def radial_by_mask(power):
    return torch.stack([power[rings(power) == k].mean() for k in range(1, len(power) // 2 + 1)])


def radial_by_bincount(power):
    ring = rings(power).long().flatten()
    total = torch.bincount(ring, weights=power.flatten())
    return (total / torch.bincount(ring))[1 : len(power) // 2 + 1]


def radial_sum(power):
    return torch.stack([power[rings(power) == k].sum() for k in range(1, len(power) // 2 + 1)])


def radial_of_shifted(power):
    return radial_by_mask(torch.fft.ifftshift(power))


def radial_floor(power):
    ring = (fourier.radial_frequency(len(power), len(power)) * len(power)).floor()
    return torch.stack([power[ring == k].mean() for k in range(1, len(power) // 2 + 1)])


ANSWERS = {
    "02.shift": Answers(right=["b", " B "], wrong=[("a", "strength of a wave"), ("c", "period"), ("d", "old place")]),
    "02.hybrid": Answers(
        right=[hybrid_by_polar, hybrid_by_ratio],
        wrong=[
            (complex_hybrid, "complex"),
            (lambda a, b: hybrid_by_polar(b, a), "roles"),
            (lambda a, b: b, "one of the two"),
            (wrong_scale, "factor"),
            (lambda a, b: hybrid_by_polar(a, b)[0], "shape"),
            (sum_of_phases, "its angle"),
        ],
    ),
    "02.radial": Answers(
        right=[radial_by_mask, radial_by_bincount],
        wrong=[
            (radial_sum, "divide by their number"),
            (lambda power: radial_by_mask(power.sqrt()), "averaged amplitudes"),
            (lambda power: torch.cat([power[:1, 0], radial_by_mask(power)]), "ring 0"),
            (radial_of_shifted, "not in the middle"),
            (lambda power: power[0, 1 : len(power) // 2 + 1], "one line"),
            (lambda power: power.mean(), "expected"),
            (radial_floor, "rounded"),
        ],
    ),
    "02.crossing": Answers(
        right=[0.5, 1 / 2, torch.tensor(0.5)],
        wrong=[
            (2, "finer detail"),
            (0.25, "falls like f"),
            (2**-0.5, "variance"),
            (0.1, "too small"),
            (1, "too large"),
        ],
    ),
    "02.decades": Answers(
        right=[0.1, 10**-1],
        wrong=[
            (0.5 / 0.6, "the mistake of the report"),
            (10**-0.5, "ratio of the amplitudes"),
            (10**-0.1, "one decade"),
            (0.9, "not a loss"),
            (10, "inverse"),
            (0.01, "too much"),
            (0.6, "too little"),
        ],
    ),
}
