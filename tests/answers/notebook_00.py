"""Answers to the exercises of notebook 00."""

import math

import torch

from answers import Answers


def error(restored, clean):
    return (restored - clean).square().mean()


def psnr_by_log10(restored, clean):
    return -10 * torch.log10(error(restored, clean))


def psnr_by_math(restored, clean):
    return 10 * math.log10(1 / ((restored - clean) ** 2).mean().item())


ANSWERS = {
    "00.psnr": Answers(
        right=[psnr_by_log10, psnr_by_math],
        wrong=[
            (error, "mean squared error itself"),
            (lambda x, y: 10 * error(x, y).log10(), "sign is turned"),
            (lambda x, y: -10 * error(x, y).log(), "natural logarithm"),
            (lambda x, y: -10 * error(x, y).sqrt().log10(), "half the right value"),
            (lambda x, y: 20 * math.log10(255) - 10 * error(x, y).log10(), "not 255"),
            (lambda x, y: -20 * error(x, y).log10(), "twice the right value"),
            (lambda x, y: -10 * (x - y).square().log10(), "values"),
            (lambda x, y: -10 * (x - y).abs().mean().log10(), "inside out"),
        ],
    ),
    "00.mix": Answers(
        right=[
            lambda a, b, share: share * a + (1 - share) * b,
            lambda a, b, share: a.mul_(share).add_((1 - share) * b),
        ],
        wrong=[
            (lambda a, b, share: (1 - share) * a + share * b, "exchanged"),
            (lambda a, b, share: (a + b) / 2, "half and half"),
            (lambda a, b, share: share * a + b, "brighter"),
            (lambda a, b, share: (a + b).mean(), "same shape"),
            (lambda a, b, share: a, "try share"),
        ],
    ),
    "00.average": Answers(right=["c", " C"], wrong=[("a", "opposite signs"), ("b", "same error"), ("d", "vanish")]),
    "00.plate": Answers(right=["b", "B"], wrong=[("a", "compare with"), ("c", "plausible"), ("d", "erased")]),
}
