"""Checkers of notebook 12, the claims of the high-frequency error map."""

from collections.abc import Callable

import torch
from torch import Tensor

from minirestore import metrics, wavelets
from minirestore.exercises import Exercise, choice, number


def coins(answer: Callable[[int, int], float]) -> str | None:
    """``answer(wins, n)`` must be the two-sided p-value of the sign test."""
    cases = {(5, 6): 14 / 64, (6, 6): 2 / 64, (1, 6): 14 / 64, (9, 10): 22 / 1024, (3, 6): 1.0}
    got = {case: float(answer(*case)) for case in cases}
    wrong = [case for case, p in cases.items() if abs(got[case] - p) > 1e-9]
    if not wrong:
        return None
    if wrong == [(3, 6)]:
        return f"three of six is as even as it gets: a probability of 1, not {got[3, 6]:.4g}; the middle counts twice"
    if wrong[0] != (5, 6):
        return f"right for 5 of 6; but {wrong[0][0]} of {wrong[0][1]} has p = {cases[wrong[0]]:.4g}: look at both sides"
    mistakes = (
        (7 / 64, "that is the chance of five or more wins; one or none is as far from even, and counts as well"),
        (6 / 64, "that is the chance of exactly five wins; six are even farther from even and belong to it"),
        (12 / 64, "exactly five or exactly one; include what is farther out, six and none"),
        (2 / 64, "at least as much: the outcome itself belongs to its tail"),
        (1 - 14 / 64, "that is the chance of being nearer to even than this; the p-value is the rest"),
    )
    near = [hint for value, hint in mistakes if abs(got[5, 6] - value) < 1e-9]
    return near[0] if near else "of 64 equally likely outcomes count those with five or six on one side, either side"


def _bands(x: Tensor) -> tuple[Tensor, Tensor]:
    low, details = wavelets.dwt2(x)
    return low, torch.stack(details)


def pair(answer: Callable[[Tensor, Tensor], tuple[float, float]]) -> str | None:
    """``answer(restored, clean)`` must be the energy ratio and the error of the finest Haar details."""
    generator = torch.Generator().manual_seed(12)
    clean = torch.rand(1, 3, 8, 12, generator=generator)
    restored = (0.2 + 0.5 * clean + 0.2 * torch.rand(clean.shape, generator=generator)).clamp(0, 1)
    got = answer(restored.clone(), clean.clone())
    if not isinstance(got, tuple | list) or len(got) != 2:
        return "return two numbers, R and F"
    got = torch.tensor([float(value) for value in got])
    functions = (metrics.high_frequency_energy_ratio, metrics.high_frequency_error)
    right = torch.tensor([function(restored, clean).item() for function in functions])

    def like(*values: Tensor) -> bool:
        return torch.allclose(got, torch.stack([torch.as_tensor(value).float() for value in values]), rtol=1e-3)

    if like(*right):
        return None
    (low, d), (low0, d0) = _bands(restored), _bands(clean)
    energy, energy0, error = (z.square().sum() for z in (d, d0, d - d0))
    if like(*right.flip(0)):
        return "these are F and R; the energy comes first"
    if like(right[0], (right[0] - 1).abs()):
        return "F is not how far R is from 1: take the difference of the details first, then its energy"
    if like(right[0], error / energy):
        return "R is right; F is relative to the energy of the clean details, not of the restored ones"
    if like(*right.sqrt()):
        return "energies are sums of squares, without a root"
    everything = [z.square().sum() + low_z.square().sum() for z, low_z in ((d, low), (d0, low0), (d - d0, low - low0))]
    if like(everything[0] / everything[1], everything[2] / everything[1]):
        return "that counts the whole image; leave the approximation (a + b + c + d) / 2 out"
    if like(right[0], (d.abs() - d0.abs()).square().sum() / energy0):
        return "R is right; F compares magnitudes, so that a detail of the wrong sign would pass as right"
    if like(d.abs().sum() / d0.abs().sum(), (d - d0).abs().sum() / d0.abs().sum()):
        return "these are sums of magnitudes; energy is the sum of squares"
    if like(energy0 / energy, error / energy0):
        return "R is upside down: less detail than the clean image must give less than 1"
    return (
        "work out one block by hand: three bands of restored, of clean, and of their difference; then sums of squares"
    )


EXERCISES = (
    Exercise("12.sign", "code", coins, points=1),
    Exercise(
        "12.table",
        "criticise",
        choice(
            "b",
            {
                "a": "it may be, but suppose that people did see it: would that make it the map's doing?",
                "c": "more cells of the same two networks would make the difference surer, not its cause",
                "d": "another set of images would tell where the networks differ, not why",
            },
        ),
    ),
    Exercise("12.pair", "code", pair, points=2),
    Exercise(
        "12.sharpen",
        "predict",
        number(
            0.4,
            0.004,
            [
                (0.5625, "the error is not all detail: part of it is what was missing, which a gain does not multiply"),
                (0.45, "neither energy nor error grows with the gain itself; find rho first"),
                (0.72, "that would be so for noise of energy .36; turned-up detail is partly right"),
                (0.36, "the amount changed, so the error did; rho is what stays"),
                (0.0, "the right amount of detail is not yet the right detail"),
                (0.2, "1 - rho; at R = 1 the formula gives twice that"),
                (0.04, "that is (1 - rho) squared; put R = 1 into F = 1 + R - 2 rho sqrt(R)"),
            ],
            too_small="first rho = (1 + R - F) / (2 sqrt(R)) from the old pair; then F at R = 1 with the same rho",
            too_large="a gain keeps rho; work out rho from the old pair and put it, with R = 1, into the formula for F",
        ),
    ),
    Exercise(
        "12.base",
        "criticise",
        choice(
            "c",
            {
                "a": "with 3,000 photographs the draws average out: the interval is narrow, and it includes them",
                "b": "photographs by themselves are about as independent as one can wish; only crops of one are not",
                "d": "in a test there is one, and that is where it is used",
            },
        ),
    ),
)
