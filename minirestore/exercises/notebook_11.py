"""Checkers of notebook 11, high-frequency error maps."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from minirestore import wavelets
from minirestore.exercises import Exercise, choice, number
from minirestore.papers import hf_error_map as paper

STEPS = ((0.9801, 0.5797), (0.5797, 0.2705), (0.2705, 0.01))  # eta_t, eta_{t-1}


def quiet_step(answer: Callable[[Tensor, Tensor, Tensor, float, float], Tensor]) -> str | None:
    """``answer(x0, x_t, y, eta, eta_before)`` must be SinSR's step: the noise of x_t, put back at the level before."""
    generator = torch.Generator().manual_seed(11)
    x0, x_t, y = (torch.randn(1, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    for eta, before in STEPS:
        noise = x_t - x0 - eta * (y - x0)
        mean = x0 + before * (y - x0)
        right = mean + (before / eta) ** 0.5 * noise
        got = answer(x0, x_t, y, eta, before)
        if tuple(got.shape) != tuple(x0.shape):
            return f"the shape is {tuple(got.shape)}, but x_{{t-1}} has that of x_t, {tuple(x0.shape)}"
        if torch.allclose(got, right):
            continue
        mistakes = (
            (mean + noise, "the noise keeps its size; at eta_{t-1} its standard deviation is smaller"),
            (mean, "the noise is gone; SinSR's step keeps it, only smaller"),
            (before / eta * x_t + (1 - before / eta) * x0,
             "that is the mean of ResShift's posterior, which gets fresh noise on top; without it the old one shrinks "
             "by the square root of eta_{t-1} / eta_t"),
            (x0 + (before / eta) ** 0.5 * noise, "the shift towards y is missing: x_{t-1} lies eta_{t-1} of the way"),
            (x0 + eta * (y - x0) + (before / eta) ** 0.5 * noise, "the shift is still that of step t, eta_t"),
            (mean + (before / eta) ** 0.5 * (x_t - x0), "x_t - x_0 holds the shift as well; take eta_t (y - x_0) off"),
        )  # fmt: skip
        near = [hint for value, hint in mistakes if torch.allclose(got, value)]
        if near:
            return near[0]
        return "first find the noise in x_t; then write x_{t-1} with it, as q(x_{t-1} | x_0, y) does"
    return None


def _expand(error: Tensor) -> Tensor:
    return error.repeat_interleave(2, -2).repeat_interleave(2, -1)


def own_map(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str | None:
    """``answer(restored, clean, floor)`` must be the default map at scale 1 with Haar."""
    generator = torch.Generator().manual_seed(12)
    clean = 2 * torch.rand(2, 3, 8, 12, generator=generator) - 1
    restored = (clean + 0.1 * torch.randn(clean.shape, generator=generator)).clamp(-1, 1)
    restored[1] = clean[1] + 0.3 * (restored[1] - clean[1])  # the second image has smaller errors
    floor = 1e-3
    right = paper.error_map(restored, clean, paper.HFErrorMapConfig(floor=floor))
    got = answer(restored, clean, floor)
    if tuple(got.shape) != tuple(right.shape):
        return f"the shape is {tuple(got.shape)}; one number a pixel is wanted, {tuple(right.shape)}"
    if torch.allclose(got, right, atol=1e-5):
        return _floor_counts(answer, clean)
    (low_a, a), (low_b, b) = (wavelets.dwt2(x) for x in (restored, clean))
    a, b = torch.stack(a), torch.stack(b)  # (3 bands, B, C, h, w)
    difference = (a - b).abs().mean(0).mean(1, keepdim=True)  # (B, 1, h, w)

    def scaled(error: Tensor) -> Tensor:
        return error / error.amax((1, 2, 3), keepdim=True).clamp(min=floor)

    with_low = torch.cat([(a - b).abs(), (low_a - low_b).abs()[None]]).mean(0).mean(1, keepdim=True)
    mistakes = (
        (_expand(difference), "the map is not normalised: divide each image's by its largest entry"),
        (_expand(difference / difference.max().clamp(min=floor)),
         "one largest error serves the whole batch; every image has its own"),
        (_expand(scaled((a - b).mean(0).abs().mean(1, keepdim=True))),
         "errors of opposite sign cancel between the bands: take the absolute value first"),
        (_expand(scaled((a - b).mean(0).mean(1, keepdim=True).abs())),
         "errors of opposite sign cancel between bands and channels: take the absolute value first"),
        (_expand(scaled((a.abs() - b.abs()).abs().mean(0).mean(1, keepdim=True))),
         "that compares magnitudes; an edge of the wrong sign would count as right"),
        (_expand(scaled((a - b).square().mean(0).mean(1, keepdim=True))),
         "differences are squared; the default takes absolute values"),
        (_expand(scaled((a - b).abs().amax(0).mean(1, keepdim=True))),
         "that keeps the largest of the three bands; take their mean"),
        (_expand(scaled(with_low)), "the approximation cA is compared, too; only the three detail bands count"),
        (F.interpolate(scaled(difference), scale_factor=2.0, mode="bilinear"),
         "that blends neighbouring blocks; each coefficient belongs to its own 2 x 2 pixels"),
        (_expand(difference / (difference.amax((1, 2, 3), keepdim=True) + floor)),
         "the floor is added; it is a lower bound of the divisor"),
    )  # fmt: skip
    for value, hint in mistakes:
        if value.shape == got.shape and torch.allclose(got, value, atol=1e-5):
            return hint
    return "work out the top left block by hand: nine differences, their mean, over the largest mean of the image"


def _floor_counts(answer: Callable[[Tensor, Tensor, float], Tensor], clean: Tensor) -> str | None:
    """A nearly perfect image: the floor must be the divisor."""
    restored = clean.clone()
    restored[:, 0, 0, 0] -= 0.003 * clean[:, 0, 0, 0].sign()
    largest = answer(restored, clean, 1e-3).amax().item()
    right = paper.error_map(restored, clean).amax().item()
    if abs(largest - right) < 1e-3:
        return None
    return f"right where errors are large; an image that is nearly right has a map up to {right:.2g}, not {largest:.2g}"


EXERCISES = (
    Exercise("11.step", "code", quiet_step, points=2),
    Exercise("11.map", "code", own_map, points=2),
    Exercise(
        "11.floor",
        "predict",
        number(
            0.5,
            1e-5,
            [
                (1.0, "that would be so without a floor; compare the largest error with .001"),
                (0.0005, "that is the error before it is normalised"),
                (0.0015, "that is the size of a coefficient; two channels are right, and the map is normalised"),
                (1.5, "take the mean over the three channels as well: two of them are right"),
                (0.0, "every pixel of the block takes the block's coefficients"),
                (3.0, "that divides the pixel's error by the floor; first find the coefficients of the block"),
                (0.125, "every pixel takes the whole error of its block; nothing is shared out"),
            ],
            too_small="work out cH, cV and cD of a block that is wrong in one corner: each is half the pixel's error",
            too_large="with one as its largest value the map cannot go there; begin with the coefficients of the block",
        ),
    ),
    Exercise(
        "11.detail",
        "criticise",
        choice(
            "b",
            {
                "a": "a sharper PSNR would still not tell detail that is right from detail that is missing",
                "c": "the pixel experiment had a network, too, in its distance; look at what the two numbers measure",
                "d": "more seeds make the interval narrower; they do not change what is measured",
            },
        ),
    ),
)
