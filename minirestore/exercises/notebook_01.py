"""Checkers of notebook 01, images and metrics."""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore.exercises import Exercise, choice, number


def psnr_per_image(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """``answer(prediction, target)`` must be the PSNR of each image, ``(B,)``."""
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(3, 3, 6, 8, generator=generator, dtype=torch.float64)
    scale = torch.tensor([0.01, 0.1, 0.3], dtype=torch.float64).view(3, 1, 1, 1)
    noise = torch.randn(target.shape, generator=generator, dtype=torch.float64)
    prediction = (target + scale * noise).clamp(0, 1)
    squares = (prediction - target).square()
    right = -10 * squares.mean((1, 2, 3)).log10()
    got = torch.as_tensor(answer(prediction, target), dtype=torch.float64)
    if got.ndim == 0:
        return "you return a single number for a batch of three; which axes should the mean run over?"
    if got.shape != right.shape:
        return (
            f"the shape is {tuple(got.shape)}; one number per image means the mean also runs over channels and pixels"
        )
    known = (
        (-right, "the sign is turned around: a smaller error must give a larger number of decibels"),
        (right / 10, "that is in bels; how many decibels make one?"),
        (
            right / 2,
            "the error is already squared: with the MSE inside the logarithm, the factor is not that of amplitudes",
        ),
        (right * 2, "the factor of 20 belongs to amplitudes, the square root of the MSE"),
        (-10 * squares.mean((1, 2, 3)).log(), "that is the natural logarithm; decibels count powers of ten"),
        (right + 20 * torch.log10(torch.tensor(255.0)).double(), "the peak of images in [0, 1] is not 255"),
        (-10 * squares.sum((1, 2, 3)).log10(), "sum or mean? The value must not depend on the number of pixels"),
    )
    for wrong, hint in known:
        if torch.allclose(got, wrong, rtol=1e-4):
            return hint
    return (
        None if torch.allclose(got, right, rtol=1e-4) else "compare each step with the formula: MSE, ratio, logarithm"
    )


def ssim_of_moments(answer: Callable[[Tensor, Tensor], float]) -> str | None:
    """``answer(x, y)`` must be SSIM with the whole image as its window."""
    generator = torch.Generator().manual_seed(6)
    x = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    y = (0.6 * x + 0.2 * torch.rand(7, 5, generator=generator, dtype=torch.float64)).clamp(0, 1)
    flat = torch.full((7, 5), 0.5, dtype=torch.float64)
    got, constant = float(answer(x, y)), float(answer(flat, flat))
    right, variants = _ssim_variants(x, y)
    if constant != constant:
        return "two equal flat images give NaN; what do the constants c1 and c2 do there?"
    for wrong, hint in variants:
        if abs(got - wrong) < 1e-6 * max(1, abs(wrong)):
            return hint
    return None if abs(got - right) < 1e-6 else "check the moments one by one: two means, two variances, one covariance"


def _ssim_variants(x: Tensor, y: Tensor) -> tuple[float, list[tuple[float, str]]]:
    """The right value, and what well-known mistakes give with their hints."""
    c1, c2 = 0.01**2, 0.03**2
    (mx, my), n = (x.mean(), y.mean()), x.numel()
    covariance = ((x - mx) * (y - my)).mean()
    vx, vy = x.var(correction=0), y.var(correction=0)
    brightness = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    structure = (2 * covariance + c2) / (vx + vy + c2)
    unbiased = (2 * covariance * n / (n - 1) + c2) / ((vx + vy) * n / (n - 1) + c2)
    mixed = (2 * covariance + c2) / ((vx + vy) * n / (n - 1) + c2)
    variants = [
        (brightness, "only the means are compared; where are contrast and structure?"),
        (structure, "contrast and structure are there; the factor with the means is missing"),
        (
            brightness * (2 * covariance + c2) / (vx.sqrt() + vy.sqrt() + c2),
            "the denominator holds variances; yours holds their square roots",
        ),
        (
            brightness * (2 * vx.sqrt() * vy.sqrt() + c2) / (vx + vy + c2),
            "the product of standard deviations is not the covariance: it cannot see structure",
        ),
        (brightness * unbiased, "divide by the number of pixels, not by one less (torch's var has correction=1)"),
        (brightness * mixed, "the covariance divides by n and the variances by n - 1; treat them alike"),
    ]
    return float(brightness * structure), [(float(value), hint) for value, hint in variants]


EXERCISES = (
    Exercise(
        "01.luma",
        "predict",
        choice(
            "b",
            {
                "a": "the luma adds three independent errors, each with its weight; what becomes of the variance?",
                "c": "that is right for three equal weights; are these equal?",
                "d": "averaging independent errors cannot make them larger; check the sign",
            },
        ),
    ),
    Exercise("01.psnr", "code", psnr_per_image, points=2),
    Exercise("01.ssim", "code", ssim_of_moments, points=2),
    Exercise(
        "01.interval",
        "criticise",
        choice(
            "b",
            {
                "a": "a thousand would be many if they were independent; where do they come from?",
                "c": "the level is a matter of convention; look at what was counted as one observation",
                "d": "paired differences may well be averaged; look at what was counted as one observation",
            },
        ),
    ),
    Exercise(
        "01.holm",
        "criticise",
        number(
            0.06,
            tolerance=5e-4,
            mistakes=[
                (0.012, "that is the raw value, as if only one metric had been tried"),
                (0.08, "that is the adjusted second value; which one was announced?"),
                (0.048, "the smallest is multiplied by the number of all claims, itself included"),
                (0.01, "that is a threshold, 5 % divided by five; asked is the adjusted p-value"),
            ],
            too_small="adjusting for five claims makes the smallest p-value larger by which factor?",
            too_large="only the number of claims enters the factor, nothing else",
        ),
    ),
)
