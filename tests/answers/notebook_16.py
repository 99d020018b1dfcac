"""Answers to the exercises of notebook 16."""

import math

import torch
from scipy.special import stdtrit

from answers import Answers
from minirestore import metrics


def above(z):
    return 0.5 * math.erfc(z / math.sqrt(2))


def search(half):
    def answer(sd, effect):
        n = 2
        while half(n) * sd > effect:
            n += 1
        return n

    return answer


def by_bisection(sd, effect):
    low, high = 1, 100_000  # too few, enough
    while high - low > 1:
        n = (low + high) // 2
        low, high = (low, n) if stdtrit(n - 1, 0.975) * sd / math.sqrt(n) <= effect else (n, high)
    return high


by_t = search(lambda n: stdtrit(n - 1, 0.975) / n**0.5)


def later(sd, effect):
    """Right, but never fewer than three."""
    return max(3, by_t(sd, effect))


POWERS = {"depth": 1.0, "disparity": -1.0, "sqrt_disparity": -0.5}


def by_power(depth, space):
    return (depth ** POWERS[space]).mean() ** (1 / POWERS[space])


def by_alignment(depth, space):
    """As the evaluation does it: fit a map that does not vary."""
    whole = depth[None, None]
    return metrics.align_depth(torch.zeros_like(whole), whole, None, space).depth.flatten()[0].item()


def plane(sqrt_disparity=None, disparity=None, depth=None):
    """The right answer, but for the spaces that have another rule."""
    rules = {"depth": depth, "disparity": disparity, "sqrt_disparity": sqrt_disparity}
    return lambda D, space: rules[space](D) if rules[space] else by_power(D, space)


def mean_root(D):
    return (D**-0.5).mean()


ANSWERS = {
    "16.chance": Answers(
        right=[above(0.1 / 0.08**0.5), 0.36, "0.362"],
        wrong=[
            (above(0.5), "larger deviation than either"),
            (above(0.25), "variances add"),
            (2 * above(0.1 / 0.08**0.5), "either direction"),
            (0.64, "share below"),
            (0.14, "between 0 and .1"),
            (0.5, "better at all"),
            (0.05, "likes to tolerate"),
            (0.01, "larger: .1 is less"),
            (0.9, "smaller: equally good"),
        ],
    ),
    "16.seeds": Answers(
        right=[by_t, by_bisection, lambda sd, effect: float(by_t(sd, effect))],
        wrong=[
            (lambda sd, effect: 3.5, "whole number"),
            (search(lambda n: 1.959964 / n**0.5), "Student's t"),
            (search(lambda n: stdtrit(n - 1, 0.95) / n**0.5), "at each end"),
            (search(lambda n: stdtrit(n, 0.975) / n**0.5), "degree of freedom"),
            (search(lambda n: 2 * stdtrit(n - 1, 0.975) / n**0.5), "whole width"),
            (search(lambda n: n**-0.5), "standard error"),
            (lambda sd, effect: by_t(sd, effect) - 1, "one too few"),
            (lambda sd, effect: by_t(sd, effect) + 1, "one too many"),
            (lambda sd, effect: 2, "two are not enough"),
            (lambda sd, effect: 30, "against the effect"),
            (later, "two seeds are enough"),
        ],
    ),
    "16.plane": Answers(
        right=[by_power, by_alignment, lambda D, space: by_power(D.double(), space).item()],
        wrong=[
            (lambda D, space: D.mean(), "in every space"),
            (lambda D, space: D.median(), "the median"),
            (plane(depth=lambda D: D.max()), "begin with depth"),
            (plane(disparity=lambda D: (1 / D).mean()), "that is a disparity, in 1/m; bring"),
            (plane(disparity=lambda D: D.mean()), "mean of 1/D"),
            (plane(mean_root), "that is 1/sqrt(D) of the plane"),
            (plane(lambda D: 1 / mean_root(D)), "the square is missing"),
            (plane(lambda D: mean_root(D) ** 2), "one over it"),
            (plane(lambda D: (D**0.5).mean() ** 2), "mean of sqrt(D)"),
            (plane(lambda D: 1 / (1 / D).mean()), "plane of disparity"),
            (plane(lambda D: 1.0), "depth and disparity are right"),
        ],
    ),
    "16.texture": Answers(
        right=["c", " C"], wrong=[("a", "materials alone"), ("b", "nearly equal"), ("d", "without any content")]
    ),
    "16.length": Answers(
        right=["c", "C "], wrong=[("a", "sparse depth"), ("b", "another question"), ("d", "that is a price")]
    ),
}
