"""Answers to the exercises of notebook 03."""

import math

import torch
import torch.nn.functional as F

from answers import Answers


def average_by_slices(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 2


def average_by_pooling(x):
    return 2 * F.avg_pool2d(x, 2)


def average_of_quarters(x):
    H, W = x.shape[-2] // 2, x.shape[-1] // 2
    return (x[..., :H, :W] + x[..., H:, :W] + x[..., :H, W:] + x[..., H:, W:]) / 2


def soft_by_sign(x, t):
    return x.sign() * (x.abs() - t).clamp(min=0)


def soft_by_clamp(x, t):
    return x - x.clamp(-t, t)


ANSWERS = {
    "03.haar_average": Answers(
        right=[average_by_slices, average_by_pooling],
        wrong=[
            (lambda x: F.avg_pool2d(x, 2), "mean of four"),
            (lambda x: 4 * F.avg_pool2d(x, 2), "sum of four"),
            (lambda x: 2 * x[..., ::2, ::2], "every second pixel"),
            (lambda x: x[..., ::2, ::2] + x[..., 1::2, 1::2], "only 2 of its pixels"),
            (average_of_quarters, "far apart"),
            (lambda x: x, "shape"),
            (lambda x: average_by_slices(x) + 1, "signs and the factor"),
        ],
    ),
    "03.lossless": Answers(
        right=[-10 * math.log10(0.0025), 26.0, "26.02"],
        wrong=[
            (20, "a share of what"),
            (6.06, "was kept"),
            (32.04, "square it again"),
            (10.0, "too low"),
            (45, "too high"),
            ("lossless", "one number"),
        ],
    ),
    "03.spread": Answers(
        right=["b", " B"], wrong=[("a", "variances"), ("c", "energy one"), ("d", "number of coefficients")]
    ),
    "03.soft": Answers(
        right=[soft_by_sign, soft_by_clamp],
        wrong=[
            (lambda x, t: torch.where(x.abs() > t, x, 0 * x), "hard"),
            (lambda x, t: (x.abs() - t).clamp(min=0), "sign is lost"),
            (lambda x, t: x.sign() * (x.abs() - t), "crossed zero"),
            (lambda x, t: F.relu(x - t), "both signs"),
            (lambda x, t: x / t, "compare"),
        ],
    ),
    "03.ratio": Answers(
        right=["c", "C "], wrong=[("a", "two energies"), ("b", "target value"), ("d", "lowers the ratio")]
    ),
    "03.objection": Answers(right=["b", "B"], wrong=[("a", "squared error"), ("c", "length"), ("d", "scaling")]),
}
