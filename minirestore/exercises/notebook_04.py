"""Checkers of notebook 04, degradations."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore.degradations import srgb_to_linear
from minirestore.exercises import Exercise, choice


def _filter(x: Tensor, kernel: Tensor) -> Tensor:
    """The operator of exercise 1: correlation with zeros outside, ``(n,) -> (n,)``."""
    return F.conv1d(x[None, None], kernel[None, None], padding=len(kernel) // 2)[0, 0]


def spread_back(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """``answer(y, kernel)`` must be the adjoint of `_filter`."""
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.rand(12, generator=generator, dtype=torch.float64) for _ in range(2))
    kernel = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0], dtype=torch.float64)
    got = answer(y.clone(), kernel.clone())
    if got.shape != y.shape:
        return f"the shape is {tuple(got.shape)} for an input of {tuple(y.shape)}; what falls outside is dropped"
    if torch.allclose(got, _filter(y, kernel)):
        return "that is A itself, which gathers; the adjoint sends each y the opposite way along the kernel"
    if torch.allclose(got, _filter(y.flip(0), kernel)):
        return "you reversed the signal; it is the direction of the kernel that changes"
    right = _filter(y, kernel.flip(0))
    if torch.allclose(got, right):
        return None
    if torch.allclose(got[4:-4], right[4:-4]):
        return "right in the middle, wrong near the ends; outside there are zeros, so nothing wraps or mirrors"
    gap = float((_filter(x, kernel) * y).sum() - (x * got).sum())
    return f"<Ax, y> and <x, A*y> differ by {gap:.3g} on a test signal; they must agree for every x and y"


def camera_file(answer: Callable[[Tensor, float, torch.Generator], Tensor]) -> str | None:
    """``answer(light, photons, generator)`` must count photons, clip, encode to sRGB and round, in this order."""

    def run(light: float, photons: float, seed: int = 4) -> Tensor:
        return answer(torch.full((1, 1, 200, 200), light), photons, torch.Generator().manual_seed(seed))

    grey, bright, white = run(0.5, 50.0), run(0.5, 5000.0), run(1.0, 50.0)
    if not torch.equal(grey, run(0.5, 50.0)):
        return "two calls with equally seeded generators differ; pass the generator to the random draw"
    if white.max() > 1 + 1e-6:
        return f"a white area reaches {white.max():.3g}; a file cannot hold more than 1"
    if (255 * bright - (255 * bright).round()).abs().max() > 1e-3:
        return "the values are not multiples of 1/255; what does an 8-bit file do last?"
    if abs(bright.mean() - 0.5) < 0.05:
        return "half the light is stored as about 0.5; files hold sRGB values, so encode"
    if abs(srgb_to_linear(bright).mean() - 0.5) > 0.02:
        return "the mean light of a well-lit grey area is not what came in; check the scale and the encoding"
    ratios = [srgb_to_linear(run(light, 400.0)).var().item() * 400 / light for light in (0.1, 0.5)]
    if max(ratios) < 0.05:
        return "the picture has no noise; photons are counted at random"
    if abs(ratios[0] / ratios[1] - 1) > 0.15:
        return "the variance of the light does not grow in proportion to the light; count photons before encoding"
    return None if abs(ratios[1] - 1) < 0.15 else "the noise has the wrong strength; how many photons are white?"


EXERCISES = (
    Exercise("04.spread_back", "code", spread_back, points=2),
    Exercise("04.camera_file", "code", camera_file, points=3),
    Exercise(
        "04.order",
        "predict",
        choice(
            "b",
            {
                "a": "a sum of one keeps the mean of the noise, which is zero; the variance goes with their squares",
                "c": "the blur's sigma is a width in pixels; put it into the formula for the sum of squares",
                "d": "that is the ratio of the variances; the question is about standard deviations",
            },
        ),
    ),
    Exercise(
        "04.objection",
        "criticise",
        choice(
            "c",
            {
                "a": "true, but a perceptual metric would be just as excellent here; how were the data made?",
                "b": "it is a mild blur; look at what the method was told and what was left out",
                "d": "the number would hardly change with larger images; look at what the method was told",
            },
        ),
    ),
)
