"""Checkers of notebook 16, the claims of DepthMaster."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirestore.exercises import Exercise, choice, number


def _above(z: float) -> float:
    """Share of a normal distribution above so many deviations."""
    return 0.5 * math.erfc(z / 2**0.5)


CHANCE = number(
    _above(0.5 / 2**0.5),
    0.006,
    [
        (_above(0.5), "both numbers scatter: their difference has a larger deviation than either"),
        (_above(0.25), "variances add, deviations do not: the root of .2 squared plus .2 squared"),
        (2 * _above(0.5 / 2**0.5), "that is .1 or more in either direction; the new one must be the better one"),
        (1 - _above(0.5 / 2**0.5), "that is the share below .1; the one above it is asked for"),
        (0.5 - _above(0.5 / 2**0.5), "that is the share between 0 and .1"),
        (0.5, "half of the time it is better at all; by .1 or more is rarer"),
        (0.05, "5 % is what one likes to tolerate; here the deviation tells how often it happens"),
    ],
    too_small="larger: .1 is less than one deviation of the difference, and what lies above one is .16",
    too_large="smaller: equally good methods are as often worse as better, so it is less than a half",
)


def _fewest(sd: float, effect: float, half: Callable[[int], float]) -> int:
    """Smallest n from 2 on for which ``half(n)`` times the deviation is at most the effect."""
    return next(n for n in range(2, 100_000) if half(n) * sd <= effect)


def seeds(answer: Callable[[float, float], int]) -> str | None:
    """``answer(sd, effect)`` must be the number of seeds whose t interval reaches no further than the effect."""
    from scipy.special import stdtrit

    cases = ((0.2, 0.1), (0.004, 0.001), (0.5, 1.0))
    ways: dict[str, Callable[[int], float]] = {
        "": lambda n: stdtrit(n - 1, 0.975) / n**0.5,
        "1.96 is for a known deviation; few seeds need Student's t, which is larger": lambda n: 1.959964 / n**0.5,
        "that leaves 5 % at each end; 95 % in the middle leave 2.5 %: take 0.975": lambda n: (
            stdtrit(n - 1, 0.95) / n**0.5
        ),
        "one degree of freedom is spent on the mean: n - 1": lambda n: stdtrit(n, 0.975) / n**0.5,
        "that is the whole width; half of it is to reach the effect": lambda n: 2 * stdtrit(n - 1, 0.975) / n**0.5,
        "that is the standard error; multiply it by the quantile of t": lambda n: 1 / n**0.5,
    }
    got = [answer(*case) for case in cases]
    if any(float(n) != int(n) for n in got):
        return "return a whole number of seeds"
    got = [int(n) for n in got]
    for hint, half in ways.items():
        if got == [_fewest(*case, half) for case in cases]:
            return hint or _edges(answer)
    right = [_fewest(*case, ways[""]) for case in cases]
    if got == [n - 1 for n in right]:
        return "one too few: with your n the interval still reaches further"
    if got == [n + 1 for n in right]:
        return "one too many: stop as soon as the interval reaches no further"
    if all(n == 2 for n in got):
        return "two are not enough here: make n larger until the interval fits"
    return f"for sd = .2 and an effect of .1 it is {right[0]}, you have {got[0]}: t sd / sqrt(n) against the effect"


def _edges(answer: Callable[[float, float], int]) -> str | None:
    if int(answer(0.001, 1.0)) != 2:
        return "right for small effects; for a large one two seeds are enough, and fewer make no interval"
    return None


def plane(answer: Callable[[Tensor, str], float]) -> str | None:
    """``answer(depth, space)`` must be the depth of the constant map that least squares find in that space."""
    depth = torch.tensor([[2.0, 3.0, 40.0], [5.0, 2.5, 8.0]])
    powers = {"depth": 1.0, "disparity": -1.0, "sqrt_disparity": -0.5}
    got = {space: float(answer(depth.clone(), space)) for space in powers}
    inside = {space: (depth.double() ** power).mean().item() for space, power in powers.items()}
    right = {space: inside[space] ** (1 / power) for space, power in powers.items()}
    root = inside["sqrt_disparity"]

    def near(space: str, value: float) -> bool:
        return math.isclose(got[space], value, rel_tol=1e-4)

    if all(near(space, value) for space, value in right.items()):
        return None
    if all(near(space, right["depth"]) for space in powers):
        return "that is the mean of the depths in every space; least squares take the mean of what is fitted"
    if all(near(space, depth.median().item()) for space in powers):
        return "the median has the least absolute error; least squares lead to the mean"
    if not near("depth", right["depth"]):
        return "begin with depth: which constant has the least sum of squared differences from all values?"
    if near("disparity", inside["disparity"]):
        return "that is a disparity, in 1/m; bring the mean of the disparities back to metres"
    if not near("disparity", right["disparity"]):
        return "for disparity take the mean of 1/D, then go back to metres"
    for value, hint in (
        (root, "that is 1/sqrt(D) of the plane; bring it back to metres"),
        (1 / root, "1/sqrt(D) is turned round by 1/x and a square, in either order: the square is missing"),
        (root**2, "that is a disparity, in 1/m: one over it is the depth"),
        ((depth.double() ** 0.5).mean().item() ** 2, "that is the mean of sqrt(D); the network predicts 1/sqrt(D)"),
        (right["disparity"], "that is the plane of disparity; take the mean of 1/sqrt(D)"),
    ):
        if near("sqrt_disparity", value):
            return hint
    return "depth and disparity are right; for sqrt_disparity take the mean of 1/sqrt(D), then back to metres"


EXERCISES = (
    Exercise("16.chance", "predict", CHANCE),
    Exercise("16.seeds", "code", seeds, points=2),
    Exercise("16.plane", "code", plane),
    Exercise(
        "16.texture",
        "criticise",
        choice(
            "c",
            {
                "a": "twins share geometry, camera and light; the materials alone differ",
                "b": "it can, if the three differences are nearly equal",
                "d": "then another number falls from one value to another; what would a map without any content score?",
            },
        ),
    ),
    Exercise(
        "16.length",
        "criticise",
        choice(
            "c",
            {
                "a": "KITTI has sparse depth without sharp boundaries; Hypersim is the better place for F1",
                "b": "whether one sees it is another question than what it comes from",
                "d": "that is a price, and no reason to doubt where the gain comes from",
            },
        ),
    ),
)
