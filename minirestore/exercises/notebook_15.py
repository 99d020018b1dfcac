"""Checkers of notebook 15, DepthMaster."""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore.exercises import Exercise, choice


def target(answer: Callable[[Tensor, Tensor], Tensor]) -> str | None:
    """``answer(depth, valid)`` must be 1/sqrt(D) between its quantiles, stretched to [-1, 1], with holes at -1."""
    generator = torch.Generator().manual_seed(15)
    depth = 1 + 30 * torch.rand(24, 20, generator=generator) ** 3
    valid = torch.ones_like(depth, dtype=torch.bool)
    valid[3:8, 4:12] = False
    depth = torch.where(valid, depth, 0)
    got = answer(depth.clone(), valid.clone())
    if not isinstance(got, Tensor) or got.shape != depth.shape:
        return f"expected a tensor of the shape {tuple(depth.shape)}, got {_shape(got)}"
    if not torch.isfinite(got).all():
        return "some values are not finite: in the holes depth is 0, and 1 / 0 is infinite"

    def stretched(r: Tensor, of: Tensor = valid, ends: tuple[float, float] = (0.02, 0.98)) -> Tensor:
        low, high = torch.quantile(r[of], torch.tensor(ends))
        return 2 * (r - low) / (high - low) - 1

    safe = torch.where(valid, depth, 1.0)
    root = safe**-0.5
    right = stretched(root)

    def like(other: Tensor, where: Tensor = valid) -> bool:
        return torch.allclose(got[where], other[where], atol=1e-4)

    if like(right.clamp(-1, 1)):
        return None if (got[~valid] == -1).all() else "the valid pixels are right; holes must be -1"
    mistakes = (
        (right, "the range is right; clip what lies beyond the quantiles"),
        (stretched(safe).clamp(-1, 1), "that is the target for D itself, in which -1 is near"),
        (stretched(1 / safe).clamp(-1, 1), "that is the target for 1 / D; take its square root first"),
        (-right.clamp(-1, 1), "near and far are exchanged: 1 must be near"),
        ((right.clamp(-1, 1) + 1) / 2, "that is in [0, 1]; the autoencoder wants [-1, 1]"),
        (stretched(root, ends=(0.0, 1.0)), "that uses the smallest and the largest value; use the percentiles"),
    )
    for other, hint in mistakes:
        if like(other):
            return hint
    holes = torch.where(valid, root, 0)
    if like(stretched(holes, torch.ones_like(valid)).clamp(-1, 1)):
        return "your percentiles count the holes; take them over the valid pixels"
    return "percentiles of 1 / sqrt(D) over the valid pixels, a straight line that sends them to -1 and 1, and a clip"


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def slope(answer: Callable[[Tensor, float], Tensor]) -> str | None:
    """``answer(e, delta)`` must be the derivative of the reverse Huber loss."""
    e = torch.tensor([-0.9, -0.31, -0.29, -0.1, 0.05, 0.2, 0.4, 1.5])
    delta = 0.3
    got = answer(e.clone(), delta)
    if not isinstance(got, Tensor) or got.shape != e.shape:
        return f"expected a tensor of the shape {tuple(e.shape)}, like e, got {_shape(got)}"
    small = e.abs() <= delta

    def like(other: Tensor) -> bool:
        return torch.allclose(got, other, atol=1e-6)

    if like(torch.where(small, delta * e.sign(), e)):
        return None
    mistakes = (
        (torch.where(small, e, delta * e.sign()), "that is Huber's own slope; the paper's is the other way round"),
        (torch.where(small, torch.full_like(e, delta), e.abs()), "errors below zero must pull the other way"),
        (torch.where(small, torch.full_like(e, delta), e), "small errors below zero must pull the other way, too"),
        (torch.where(small, e.sign(), e), "near zero the slope is delta, not 1: the two pieces must meet at delta"),
        (e, "that is the slope of the squared error; small errors pull with delta"),
        (e.sign(), "that is the slope of the absolute error; large errors pull with their size"),
        (torch.where(small, delta * e.abs(), e.square() / 2 + delta**2 / 2), "that is the cost itself, not its slope"),
    )
    for other, hint in mistakes:
        if like(other):
            return hint
    return "up to delta: delta times the sign of e; beyond: e"


def metres(answer: Callable[[Tensor, tuple[float, float], tuple[float, float]], Tensor]) -> str | None:
    """``answer(p, a, b)`` must put a line through two points in 1/sqrt(D)."""
    p = torch.linspace(0, 1, 12, dtype=torch.float64).view(3, 4)
    a, b = (0.8, 2.0), (0.25, 7.0)
    got = answer(p.clone(), a, b)
    if not isinstance(got, Tensor) or got.shape != p.shape:
        return f"expected a tensor of the shape {tuple(p.shape)}, like p, got {_shape(got)}"

    def through(forward: Callable[[float], float]) -> Tensor:
        """The line through both points in a space."""
        scale = (forward(a[1]) - forward(b[1])) / (a[0] - b[0])
        return scale * (p - a[0]) + forward(a[1])

    def like(other: Tensor) -> bool:
        return torch.allclose(got.double(), other, rtol=1e-4, equal_nan=True)

    line = through(lambda d: d**-0.5)
    if like(line**-2):
        return None
    mistakes = (
        (line, "that is 1 / sqrt(D); turn it back into metres"),
        (line**2, "that is 1 / D; one step is missing"),
        (1 / line, "that is sqrt(D); square it"),
        (through(lambda d: d), "your line is straight in D; the prediction is relative in 1 / sqrt(D)"),
        (1 / through(lambda d: 1 / d), "your line is straight in 1 / D; the prediction is relative in 1 / sqrt(D)"),
        ((p * a[1] ** -0.5 / a[0]) ** -2, "you fit a scale alone, with the first point; the shift needs the second"),
    )
    for other, hint in mistakes:
        if like(other):
            return hint
    return "at the two points your result must have the two distances; check p = 0.8 (2 m) and p = 0.25 (7 m)"


ORACLE = choice(
    "c",
    {
        "a": "the fall is large and of one sign in all seeds; more of them would not change what it is a fall of",
        "b": "RMSE would mix learning with the shape of the target just so; ask what else differs between the arms",
        "d": "losses in two spaces cannot be compared, so the larger one says nothing about the training",
    },
)
STEP = choice(
    "d",
    {
        "a": "to be blurred and right, the result would have to come from the network; how large is its share?",
        "b": "the mean is what regression gives when nothing is known; here the formula mixes noise and velocity",
        "c": "the picture enters through the network, whose share of the result is the square root of 1 - alpha_bar",
    },
)

EXERCISES = (
    Exercise("15.target", "code", target, points=2),
    Exercise("15.oracle", "criticise", ORACLE),
    Exercise("15.step", "predict", STEP),
    Exercise("15.slope", "code", slope),
    Exercise("15.metres", "code", metres, points=2),
)
