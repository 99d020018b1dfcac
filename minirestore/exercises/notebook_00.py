"""Checkers of notebook 00, start here."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import metrics
from minirestore.exercises import Exercise, choice


def psnr(answer: Callable[[Tensor, Tensor], Tensor | float]) -> str | None:
    """``answer(restored, clean)`` must be the PSNR of one image in dB."""
    generator = torch.Generator().manual_seed(7)
    clean = torch.rand(1, 3, 8, 8, generator=generator)
    restored = (clean + 0.2 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    right = metrics.psnr(restored, clean).item()
    got = torch.as_tensor(answer(restored, clean), dtype=torch.float64)
    if got.numel() != 1:
        return f"the result has {got.numel()} values; take the mean of the squared errors, so that one number remains"
    value, mse = got.item(), 10 ** (-right / 10)
    known = {
        mse: "that is the mean squared error itself; turn it into decibels",
        -right: "the sign is turned: a small error must give a large PSNR",
        right * math.log(10): "that looks like the natural logarithm; decibels use the one of base 10",
        right + 20 * math.log10(255): "images are in [0, 1], so the largest value, the peak, is 1 and not 255",
        right / 2: "half the right value: the mean must be taken of squared errors, or its root counted twice",
        right * 2: "twice the right value: is the factor in front of the logarithm 10, and is the error squared once?",
    }
    for wrong, hint in known.items():
        if math.isclose(value, wrong, rel_tol=1e-4):
            return hint
    if not math.isclose(value, right, rel_tol=1e-4):
        return "follow the formula from the inside out: difference, square, mean, logarithm, factor"
    return None


def mix(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str | None:
    """``answer(a, b, share)`` must be ``share`` of a and the rest of b."""
    generator = torch.Generator().manual_seed(8)
    a, b = torch.rand(2, 1, 3, 4, 5, generator=generator)
    got, right = answer(a.clone(), b.clone(), 0.25), torch.lerp(b, a, 0.25)
    if not isinstance(got, Tensor) or got.shape != a.shape:
        return f"the result should be an image of the same shape as a, {tuple(a.shape)}"
    if torch.allclose(got, torch.lerp(a, b, 0.25)):
        return "the roles are exchanged: a share of 1 should give a, a share of 0 should give b"
    if torch.allclose(got, (a + b) / 2):
        return "that is the half and half mix whatever the share; let share decide"
    if torch.allclose(got, 0.25 * a + b):
        return "the mix is brighter than both: the two weights must add up to 1"
    return None if torch.allclose(got, right, atol=1e-6) else "try share = 0 and share = 1 first: what should come out?"


EXERCISES = (
    Exercise("00.psnr", "code", psnr),
    Exercise("00.mix", "code", mix),
    Exercise(
        "00.average",
        "predict",
        choice(
            "c",
            {
                "a": "mixing can cost detail, but where the two errors have opposite signs, what happens to the sum?",
                "b": "that holds only when both make exactly the same error at every pixel; do these two?",
                "d": "errors that do not resemble each other shrink when averaged, but do they vanish?",
            },
        ),
    ),
    Exercise(
        "00.plate",
        "criticise",
        choice(
            "b",
            {
                "a": "PSNR would tell how large the error is, but the clean photograph is not there to compare with",
                "c": "more steps give another plausible picture; does plausible mean true?",
                "d": "a larger network guesses better, but think of what the noise has erased for good",
            },
        ),
    ),
)
