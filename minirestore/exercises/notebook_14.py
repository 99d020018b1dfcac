"""Checkers of notebook 14, the claims of DiffBIR."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from minirestore import statistics, wavelets
from minirestore.exercises import Exercise, choice, number

Four = Callable[[Sequence[float], Sequence[float], Sequence[float], Sequence[float]], Sequence[float]]


def growth(answer: Four) -> str | None:
    """``answer(cleaned_severe, raw_severe, cleaned_mild, raw_mild)`` must be mean and ends of the paired t interval."""
    four = (
        [0.52, 0.55, 0.49, 0.58, 0.51],
        [0.47, 0.51, 0.46, 0.52, 0.44],
        [0.81, 0.84, 0.79, 0.86, 0.80],
        [0.80, 0.82, 0.785, 0.845, 0.79],
    )
    got = answer(*(list(values) for values in four))
    if not isinstance(got, tuple | list) or len(got) != 3:
        return "return three numbers: the mean, and the lower and the upper end"
    mean, low, high = (float(value) for value in got)
    if hint := _hint_of_mean(mean, *map(np.array, four)):
        return hint
    each = np.array(four[0]) - four[1] - four[2] + four[3]
    if hint := _hint_of_ends(mean, low, high, each, four):
        return hint
    few = statistics.t_interval(each[:3])
    if np.allclose([float(v) for v in answer(*(v[:3] for v in four))], [few.mean, few.low, few.high], atol=1e-9):
        return None
    return "right for five seeds, but not for three: n must come from the length of the lists, in all places"


def _hint_of_mean(mean: float, a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> str | None:
    right = (a - b - c + d).mean()
    if abs(mean - right) < 1e-9:
        return None
    for wrong, hint in (
        (-right, "your sign says by how much it shrinks: severe minus mild, cleaned minus raw"),
        (
            (a - b).mean(),
            "that is the gain under severe damage; take off the gain that is there under mild damage, too",
        ),
        ((a - c).mean(), "that compares two severities of one arm; a gain is cleaned minus raw"),
        ((a - b + c - d).mean(), "you added the two gains; how much larger is the first than the second?"),
        ((a - b).mean() / (c - d).mean(), "that is a ratio of gains; it explodes where the mild gain is near zero"),
    ):
        if abs(mean - wrong) < 1e-9:
            return hint
    return "for each seed: (cleaned - raw) under severe damage, minus (cleaned - raw) under mild; then the mean"


def _hint_of_ends(mean: float, low: float, high: float, each: np.ndarray, four: Sequence) -> str | None:
    n, half = len(each), (high - low) / 2
    t, error = 2.7764451051977987, each.std(ddof=1) / n**0.5
    if abs((high + low) / 2 - mean) > 1e-9:
        return "the mean is right; the interval must reach as far down as up"
    if abs(half - t * error) < 1e-9:
        return None
    apart = np.sqrt(sum(np.var(values, ddof=1) for values in four) / n)
    for wrong, hint in (
        (-t * error, "the ends are swapped: the lower one first"),
        (
            t * apart,
            "you treated the four lists as independent; take the differences seed by seed, then their deviation",
        ),
        (t * each.std(ddof=1), "that is how far single seeds scatter; for the mean divide by the root of n"),
        (t * each.std(ddof=0) / n**0.5, "the deviation of a sample divides by n - 1, not by n"),
        (1.959963984540054 * error, "1.96 is for a known deviation; five seeds need Student's t, 2.776"),
        (1.96 * error, "1.96 is for a known deviation; five seeds need Student's t, 2.776"),
        (2.1318467863266495 * error, "that leaves 5 % at each end; 95 % in the middle leave 2.5 %: take 0.975"),
        (2.5705818366147395 * error, "one degree of freedom is spent on the mean: n - 1"),
        (error, "that is the standard error; multiply it by the quantile of t"),
    ):
        if abs(half - wrong) < 1e-9:
            return hint
    return "the mean is right; each end is t sd / sqrt(n) away, with sd and n of the seeds' own differences"


def _details(x: Tensor) -> Tensor:
    return torch.stack(wavelets.dwt2(x)[1])


def mix(answer: Callable[[Tensor, Tensor, Tensor], float]) -> str | None:
    """``answer(module, painted, clean)`` must be the share of ``painted`` in the mix of least error of fine details."""
    generator = torch.Generator().manual_seed(14)
    clean, other = (torch.rand(1, 3, 16, 12, generator=generator) for _ in range(2))
    module = 0.25 + 0.5 * clean
    painted = 0.1 + 0.58 * clean + 0.32 * other  # with a cast, which details do not see
    got = float(answer(module.clone(), painted.clone(), clean.clone()))
    d_m, d_p, d_0 = (_details(z) for z in (module, painted, clean))
    step, gap = d_p - d_m, d_0 - d_m
    share = ((gap * step).sum() / step.square().sum()).item()
    pixels = (((clean - module) * (painted - module)).sum() / (painted - module).square().sum()).item()
    mistakes = (
        (1 - share, "that is the share of the module; the painting's is asked for"),
        (pixels, "that mix has the least error of all pixels; compare the finest details alone"),
        (((gap * step).sum() / gap.square().sum()).item(), "divide by the energy of d_p - d_m, the way that w goes"),
        (((gap * step).sum() / step.norm()).clamp(0, 1).item(), "divide by the squared norm of d_p - d_m"),
        (
            ((d_0 * d_p).sum() / d_p.square().sum()).item(),
            "that scales the painting alone; the mix begins at the module",
        ),
        (((gap * step).sum() / step.square().sum() / 2).item(), "half of it: set the parabola's slope to zero again"),
        (-share, "the sign: from d_m one goes towards d_0"),
    )
    if abs(got - share) > 6e-3:
        near = [hint for wrong, hint in mistakes if abs(got - wrong) < 1e-4]
        return (
            near[0] if near else "the slope of |d_m + w (d_p - d_m) - d_0|^2 in w is zero at the best w: solve for it"
        )
    worse = 2 * module - clean  # away from the truth: its best share is negative
    found = [float(answer(module.clone(), z.clone(), clean.clone())) for z in (worse, module + 0.5 * (clean - module))]
    if abs(found[0]) < 1e-6 and abs(found[1] - 1) < 1e-6:
        return None
    if found[0] < 0:
        return f"right where both help; for a painting that only harms you give {found[0]:.3g}: a share is in [0, 1]"
    return f"right where both help; where even more than the painting would be best, give 1, not {found[1]:.3g}"


EXERCISES = (
    Exercise(
        "14.table",
        "criticise",
        choice(
            "b",
            {
                "a": "FID compares sets, not pairs: true faces of other people are enough for it",
                "c": "it is not the mean that fails; with thirty such sets, what would each cell still lack?",
                "d": "that makes it a strange ruler for faces, and yet one ruler for both arms: what else may differ?",
            },
        ),
    ),
    Exercise("14.growth", "code", growth, points=2),
    Exercise(
        "14.fix",
        "predict",
        number(
            -0.02,
            0.002,
            [
                (0.04, "a uniform cast is the lowest frequency there is, and the fix replaces low frequencies"),
                (0.0, "the fix takes colours from the module's result; does that have the true ones?"),
                (0.02, "mind the sign: the module is too dark"),
                (0.06, "that is how far the painting is from the module, before the fix"),
                (0.01, "the fix does not average the two; it takes all low frequencies from one of them"),
            ],
            too_small="which of the two pictures do the low frequencies come from, and how far is that one off?",
            too_large="the cast goes; what stays is the error of the picture that the colours are taken from",
        ),
    ),
    Exercise(
        "14.length",
        "criticise",
        choice(
            "c",
            {
                "a": "behind the fix both arms have the module's colours, and there would be nothing to see",
                "b": "they can, if the differences of the pairs scatter little",
                "d": "the module's result is what both are told to keep; it is the same for both, so the gap stays",
            },
        ),
    ),
    Exercise("14.mix", "code", mix, points=2),
)
