"""Checkers of notebook 03, wavelets."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import wavelets
from minirestore.exercises import Exercise, choice, number


def haar_average(answer: Callable[[Tensor], Tensor]) -> str | None:
    """``answer(x)`` must be the band cA of one Haar level."""
    x = torch.rand(1, 2, 6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    right = wavelets.dwt2(x, "haar")[0]
    got = answer(x)
    if got.shape != right.shape:
        return f"the shape is {tuple(got.shape)} for an input of {tuple(x.shape)}; both sides should be halved"
    if torch.allclose(got, right / 2):
        return "that is the mean of four pixels; an orthonormal transform has filters of length one, not of sum one"
    if torch.allclose(got, right * 2):
        return "that is the sum of four pixels; compare the energy of your filter with one"
    used = 0  # how many pixels of one block reach its average
    for row, column in ((2, 4), (2, 5), (3, 4), (3, 5)):
        single = torch.zeros_like(x)
        single[..., row, column] = 1
        used += bool(answer(single)[..., 1, 2].abs().max() > 1e-9)
    if used == 0:
        return "you added pixels that are far apart; all four pixels of a block take part, and they are neighbours"
    if used == 1:
        return "you kept every second pixel and dropped the rest; all four pixels of a block take part"
    if used < 4:
        return f"only {used} of its pixels reach the average, but all four pixels of a block take part"
    return None if torch.allclose(got, right) else "check the signs and the factor against the formula for cA"


def soft(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """``answer(x, t)`` must be soft thresholding."""
    x = torch.tensor([-3.0, -1.5, -0.5, 0.0, 0.5, 1.5, 3.0])
    right = wavelets.soft_threshold(x, 1.0)
    got = answer(x, 1.0)
    if torch.allclose(got, torch.where(x.abs() > 1, x, torch.zeros_like(x))):
        return "large coefficients came through unchanged: that is hard thresholding; they too move towards zero"
    if torch.allclose(got, right.abs()):
        return "the sign is lost: negative coefficients must stay negative"
    if torch.allclose(got, x.sign() * (x.abs() - 1)):
        return "small coefficients crossed zero and changed their sign; where should they stop?"
    if torch.allclose(got, (x - 1).clamp(min=0)):
        return "negative coefficients all became zero; treat both signs alike"
    return (
        None if torch.allclose(got, right) else "compare your function with the formula at x = -3, 0.5 and 3 for t = 1"
    )


EXERCISES = (
    Exercise("03.haar_average", "code", haar_average, points=2),
    Exercise(
        "03.lossless",
        "criticise",
        number(
            -10 * math.log10(0.01 * 0.25),
            tolerance=0.1,
            mistakes=[
                (20.0, "you took the share of dropped energy for the mean squared error; a share of what?"),
                (
                    -10 * math.log10(0.99 * 0.25),
                    "that is computed from the energy that was kept; which part is the error?",
                ),
                (-10 * math.log10(0.01 * 0.25**2), "the mean square is a square already; do not square it again"),
            ],
            too_small="too low: Parseval turns the dropped energy into a mean squared error, PSNR is -10 log10 of it",
            too_large="too high: how much energy per pixel is one per cent of the mean square?",
        ),
    ),
    Exercise(
        "03.spread",
        "predict",
        choice(
            "b",
            {
                "a": "four values are added, but what is the factor in front of the sum, and how do variances add?",
                "c": "a mean would shrink the noise, but these filters have energy one; is cA a mean?",
                "d": "the number of coefficients falls with the side of a band; does the size of each one?",
            },
        ),
    ),
    Exercise("03.soft", "code", soft, points=2),
    Exercise(
        "03.ratio",
        "criticise",
        choice(
            "c",
            {
                "a": "any wavelet gives such a ratio; ask what a ratio of two energies cannot see",
                "b": "a perfect restoration has which ratio? The target value is not the problem",
                "d": "look at the table: blur lowers the ratio of level 1 most of all; the trouble lies elsewhere",
            },
        ),
    ),
    Exercise(
        "03.objection",
        "criticise",
        choice(
            "b",
            {
                "a": "PSNR measures the mean squared error, which is fair to ask of a denoiser; look at the sample",
                "c": "filters may differ in length, the result counts; look at how often it was measured",
                "d": "scaling image and noise together changes nothing; look at how often it was measured",
            },
        ),
    ),
)
