"""Answers to the exercises of notebook 12."""

import math

import torch

from answers import Answers
from minirestore import metrics
from minirestore.statistics import binomial_p
from minirestore.wavelets import dwt2


def tail(wins, n):
    return sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n


def by_tails(wins, n):
    return min(1.0, 2 * tail(max(wins, n - wins), n))


def by_distance(wins, n):
    """All outcomes at least as far from even."""
    return sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(2 * wins - n)) / 2**n


def bands(x):
    return torch.stack(dwt2(x)[1])


def by_slices(restored, clean):
    a, b = bands(restored), bands(clean)
    return a.square().sum() / b.square().sum(), (a - b).square().sum() / b.square().sum()


def by_metrics(restored, clean):
    return [m(restored, clean).item() for m in (metrics.high_frequency_energy_ratio, metrics.high_frequency_error)]


def from_amount(restored, clean):
    r = by_slices(restored, clean)[0]
    return r, abs(r - 1)


def over_restored(restored, clean):
    r, f = by_slices(restored, clean)
    return r, f / r


def with_approximation(restored, clean):
    energy = clean.square().sum()
    return restored.square().sum() / energy, (restored - clean).square().sum() / energy


def of_magnitudes(restored, clean):
    a, b = bands(restored), bands(clean)
    return a.square().sum() / b.square().sum(), (a.abs() - b.abs()).square().sum() / b.square().sum()


def without_squares(restored, clean):
    a, b = bands(restored), bands(clean)
    return a.abs().sum() / b.abs().sum(), (a - b).abs().sum() / b.abs().sum()


ANSWERS = {
    "12.sign": Answers(
        right=[by_tails, by_distance, lambda wins, n: binomial_p([1.0] * wins + [0.0] * (n - wins))],
        wrong=[
            (tail, "one or none"),
            (lambda wins, n: math.comb(n, wins) / 2**n, "exactly five wins; six"),
            (lambda wins, n: 2 * math.comb(n, wins) / 2**n, "farther out, six and none"),
            (lambda wins, n: 2 * tail(wins + 1, n), "the outcome itself"),
            (lambda wins, n: 1 - by_tails(wins, n), "the rest"),
            (lambda wins, n: 2 * tail(max(wins, n - wins), n), "as even as it gets"),
            (lambda wins, n: min(1.0, 2 * tail(wins, n)), "look at both sides"),
            (lambda wins, n: 0.5, "64 equally likely"),
        ],
    ),
    "12.table": Answers(right=["b", "B "], wrong=[("a", "map's doing"), ("c", "its cause"), ("d", "not why")]),
    "12.pair": Answers(
        right=[by_slices, by_metrics],
        wrong=[
            (lambda a, b: by_slices(a, b)[1], "two numbers"),
            (lambda a, b: by_slices(a, b)[::-1], "energy comes first"),
            (from_amount, "how far R is from 1"),
            (over_restored, "not of the restored ones"),
            (lambda a, b: tuple(math.sqrt(v) for v in by_slices(a, b)), "without a root"),
            (with_approximation, "the whole image"),
            (of_magnitudes, "wrong sign"),
            (without_squares, "sums of magnitudes"),
            (lambda a, b: (1 / by_slices(a, b)[0], by_slices(a, b)[1]), "upside down"),
            (lambda a, b: (1.0, 1.0), "by hand"),
        ],
    ),
    "12.sharpen": Answers(
        right=[0.4, "0.40", 2 * (1 - 0.8)],
        wrong=[
            (0.5625, "what was missing"),
            (0.45, "grows with the gain"),
            (0.72, "for noise"),
            (0.36, "what stays"),
            (0, "not yet the right detail"),
            (0.2, "twice that"),
            (0.04, "squared"),
            (0.3, "with the same rho"),
            (0.9, "a gain keeps rho"),
        ],
    ),
    "12.base": Answers(right=["c", " C"], wrong=[("a", "average out"), ("b", "only crops"), ("d", "in a test")]),
}
